"""Benchmarks: what they ask is written down as rows, which go through the engines; lm-eval scores what came back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow.parquet as pq

from ultraif_ray.errors import RecipeError
from ultraif_ray.recipe import Evaluate, OpenAIPool, Recipe
from ultraif_ray.records import Asked, to_table
from ultraif_ray.steps.engines import NOT_CONTENT, EngineStep
from ultraif_ray.steps.serving import policy_as_it_starts, policy_pool, responder_alone, with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows

if TYPE_CHECKING:
    from ultraif_ray.evaluate.lm import Tasks


def _section(recipe: Recipe) -> Evaluate:
    assert recipe.evaluate  # noqa: S101 - a plan has no such step without one
    return recipe.evaluate


def _tasks(recipe: Recipe) -> "Tasks":
    from ultraif_ray.evaluate.punkt import prepare_checkers

    prepare_checkers()
    from ultraif_ray.evaluate.lm import load_tasks

    section = _section(recipe)
    return load_tasks(section.benchmarks, section.max_tokens)


@dataclass(frozen=True)
class Benchmarks(Step):
    """Write down all that the benchmarks ask, the same for every model."""

    kind = "benchmarks"
    resumes = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Which benchmarks, in which version, and how much of them."""
        from importlib.metadata import version

        from ultraif_ray.data.readers import find_sources, versions
        from ultraif_ray.errors import InputError

        section = _section(context.recipe)
        files = {}
        for name, file in section.benchmarks.items():
            try:
                files[name] = versions(find_sources([file])) if file else {}
            except InputError:
                if context.folder.state(self.name) != "done":
                    raise
                files[name] = context.folder.settings(self.name)["benchmarks"].get(name)
        lm_eval = version("lm-eval")
        return {"benchmarks": files, "limit": section.limit, "max_tokens": section.max_tokens, "lm_eval": lm_eval}

    def check(self, context: Context) -> None:
        """Refuse benchmarks that are not there, before anything is spent.

        Raises:
            RecipeError, InputError: naming the benchmark.
        """
        _tasks(context.recipe)

    def run(self, context: Context) -> dict[str, Entry]:
        """Write one row for each request."""
        folder = context.folder
        from ultraif_ray.evaluate.lm import requests_of

        rows = list(requests_of(_tasks(context.recipe), _section(context.recipe).limit))
        folder.fs.makedirs(folder.at(self.name, "rows"), exist_ok=True)
        with folder.fs.open(folder.at(self.name, "rows", "requests.parquet"), "wb") as file:
            pq.write_table(to_table(rows), file)
        return {self.name: Entry(input=len(rows), outcomes={"asked": len(rows)})}


@dataclass(frozen=True)
class AnswerBenchmarks(EngineStep):
    """Let one model answer what the benchmarks ask."""

    of: str
    """The model: `start` (of the policy), `sft`, `round-1` and so on; `model` for the recipe's responder as it is."""
    policy: Step | None = None
    """The step that trained it."""

    kind = "evaluate"
    outcome_column = "outcome"
    retried: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """A folder for each model."""
        return f"{self.kind}/{self.of}"

    @property
    def stages(self) -> tuple[str, ...]:
        """See `EngineStep.stages`."""
        return ("ask",)

    def settings(self, context: Context) -> dict[str, Any]:
        """The model, as far as no step has trained it."""
        recipe = context.recipe
        pool = recipe.pools[recipe.roles.responder.pool if self.of == "model" else policy_pool(recipe)]
        exclude = {"chat_template": True, "lora": True, "pool": True}
        return {
            "seed": recipe.seed,
            "pool": pool.model_dump(mode="json", exclude=NOT_CONTENT),
            "policy": recipe.policy.model_dump(mode="json", exclude=exclude) if recipe.policy else None,
        }

    def check(self, context: Context) -> None:
        """See `EngineStep.check`; and that the engine can tell what a benchmark wants to know.

        Raises:
            RecipeError: naming the pool.
        """
        super().check(context)
        serving = self.serving(context)
        pool = serving.roles.responder.pool
        if not isinstance(serving.pools[pool], OpenAIPool):
            return
        from ultraif_ray.evaluate.lm import requests_of

        if any(row.continuation is not None for row in requests_of(_tasks(context.recipe), 1)):
            from ultraif_ray.engine.openai import CANNOT_SCORE

            raise RecipeError(f"pool '{pool}': {CANNOT_SCORE}")

    def serving(self, context: Context) -> Recipe:
        """The model alone, in all roles."""
        if self.policy:
            return responder_alone(with_trained_models(context.recipe, policy=context.folder.uri(self.policy.name)))
        return policy_as_it_starts(context.recipe) if context.recipe.policy else responder_alone(context.recipe)

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """See `EngineStep.entries`."""
        return {self.name: count_rows(folder, self.name, rows, self.outcome_column, ("responder",))}


@dataclass(frozen=True)
class Evaluation(Step):
    """Score the answers of all models."""

    answers: tuple[AnswerBenchmarks, ...]

    kind = "evaluation"
    resumes = False
    cheap = True

    @property
    def inputs(self) -> dict[str, Step]:
        """The answers by model."""
        return {step.of: step for step in self.answers}

    def settings(self, context: Context) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def run(self, context: Context) -> dict[str, Entry]:
        """Write the results of each model in a folder of its name, and a table of all; no rows, and so no entry."""
        from ultraif_ray.evaluate.results import table, write_results

        folder, found = context.folder, {}
        for step in self.answers:
            results = self._score(context, step)
            write_results(results, folder, self.name, step.of)
            found[step.of] = results
        folder.write_text(table(found), self.name, "table.md")
        return {}

    def _score(self, context: Context, step: AnswerBenchmarks) -> dict[str, Any]:
        tasks = _tasks(context.recipe)
        from ultraif_ray.evaluate.lm import answers_by_id, score

        serving = step.serving(context)
        pool = serving.pools[serving.roles.responder.pool]
        batches = context.folder.read_tables(step.name)
        rows = {row["id"]: Asked.model_validate(row) for batch in batches for row in batch.to_pylist()}
        results = score(tasks, answers_by_id(rows), _section(context.recipe).limit)
        failed = sum(row.outcome == "failed" for row in rows.values())
        cut = sum(row.response is not None and row.response.finish == "length" for row in rows.values())
        config = {
            "model": pool.engine,
            "model_args": {"model": pool.model},
            "failed": failed,
            "cut_off": cut,
        }
        return results | {"config": config, "model_name": pool.model}


def plan_of_evaluation() -> list[Step]:
    """The steps that measure a recipe's responder, as it is."""
    answers = AnswerBenchmarks(asked := Benchmarks(), of="model")
    return [asked, answers, Evaluation((answers,))]
