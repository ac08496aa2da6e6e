"""Benchmarks: what they ask is written down as rows, which go through the engines; lm-eval, or the judge, scores what
came back.

Benchmarks come in three parts, since their rows go different ways: lm-eval's are asked one request at a time, those of
conversations turn by turn, and answers to others are read by the judge. Each part that a recipe has is a step of rows,
and a step of answers for each model.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import pyarrow.parquet as pq

from ultraif_ray.data.readers import find_sources, versions
from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.printable import printable
from ultraif_ray.recipe import Evaluate, OpenAIPool, Recipe, dumped
from ultraif_ray.records import Asked, Role, Row, to_table
from ultraif_ray.steps.engines import EngineStep, journey_settings, pool_settings
from ultraif_ray.steps.serving import policy_as_it_starts, policy_pool, responder_alone, with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows

if TYPE_CHECKING:
    from ultraif_ray.evaluate.judged import Item
    from ultraif_ray.evaluate.lm import Tasks
    from ultraif_ray.evaluate.multi_turn import Conversation

Part = Literal["asked", "judged", "turns"]

PART_OF: dict[str, Part] = {
    "followbench": "judged",
    "followbench_rules": "judged",
    "infobench": "judged",
    "complexbench": "judged",
    "multi_if": "turns",
}
"""The part that a benchmark belongs to, where lm-eval does not ask it."""

STAGE: dict[Part, str] = {"asked": "ask", "judged": "respond", "turns": "converse"}
"""The journey's stage that the rows of a part go through."""


def section_of(recipe: Recipe) -> Evaluate:
    """What is measured."""
    assert recipe.evaluate  # noqa: S101 - a plan has no such step without one
    return recipe.evaluate


def parts_of(recipe: Recipe) -> list[Part]:
    """The parts that a recipe's benchmarks have."""
    names = section_of(recipe).benchmarks
    return [part for part in get_args(Part) if any(PART_OF.get(name, "asked") == part for name in names)]


def _benchmarks_of(recipe: Recipe, part: Part) -> dict[str, str | None]:
    every = section_of(recipe).benchmarks.items()
    return {name: file for name, file in every if PART_OF.get(name, "asked") == part}


# ---- what each part is read from -------------------------------------------------------------------------------------


def _tasks(recipe: Recipe) -> "Tasks":
    from ultraif_ray.evaluate.lm import load_tasks

    return load_tasks(_benchmarks_of(recipe, "asked"), section_of(recipe).max_tokens)


def _judged(recipe: Recipe) -> "dict[str, list[Item]]":
    from ultraif_ray.evaluate.judged import read

    found = _benchmarks_of(recipe, "judged")
    return {name: read(name, [_named(name, file)])[: section_of(recipe).limit] for name, file in found.items()}


def _conversations(recipe: Recipe) -> "dict[str, list[Conversation]]":
    from ultraif_ray.evaluate.multi_turn import read_multi_if

    found = _benchmarks_of(recipe, "turns")
    return {name: read_multi_if([_named(name, file)])[: section_of(recipe).limit] for name, file in found.items()}


def _named(name: str, file: str | None) -> str:
    if file is None:
        raise RecipeError(f"benchmark '{name}' has no file: name a file, a folder or a hub id that holds it (--data)")
    return file


def _rows(recipe: Recipe, part: Part) -> Iterator[Row]:
    if part == "asked":
        from ultraif_ray.evaluate.lm import requests_of

        yield from requests_of(_tasks(recipe), section_of(recipe).limit)
    else:
        found = _judged(recipe) if part == "judged" else _conversations(recipe)
        yield from (one.row for some in found.values() for one in some)


# ---- the steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmarks(Step):
    """Write down all that the benchmarks of a part ask, the same for every model."""

    part: Part

    kind = "benchmarks"
    resumes = False
    repeatable = True

    @property
    def name(self) -> str:
        """A folder for each part."""
        return f"{self.kind}/{self.part}"

    def settings(self, context: Context) -> dict[str, Any]:
        """Which benchmarks, in which version, and how much of them."""
        recipe, folder = context.recipe, context.folder
        section, files = section_of(recipe), dict[str, Any]()
        for name, file in _benchmarks_of(recipe, self.part).items():
            try:
                files[name] = versions(find_sources([file])) if file else {}
            except InputError:
                if folder.state(self.name) != "done":
                    raise
                files[name] = folder.settings(self.name)["benchmarks"].get(name)
        lm_eval = version("lm-eval")
        return {"benchmarks": files, "limit": section.limit, "max_tokens": section.max_tokens, "lm_eval": lm_eval}

    def check(self, context: Context) -> None:
        """Refuse benchmarks that are not there, before anything is spent.

        Raises:
            RecipeError, InputError: naming the benchmark.
        """
        from ultraif_ray.evaluate.punkt import check_extra

        check_extra()
        next(_rows(context.recipe, self.part))

    def run(self, context: Context) -> dict[str, Entry]:
        """Write one row for each request, prompt or conversation."""
        folder, rows = context.folder, list(_rows(context.recipe, self.part))
        folder.fs.makedirs(folder.at(self.name, "rows"), exist_ok=True)
        with folder.fs.open(folder.at(self.name, "rows", "asked.parquet"), "wb") as file:
            pq.write_table(to_table(rows), file)
        return {self.name: Entry(input=len(rows), outcomes={"asked": len(rows)})}


@dataclass(frozen=True)
class AnswerBenchmarks(EngineStep):
    """Let one model answer what the benchmarks of a part ask."""

    rows: Benchmarks
    of: str
    """The model: `start` (of the policy), `sft`, `round-1` and so on; `model` for the recipe's responder as it is."""
    policy: Step | None = None
    """The step that trained it."""

    kind = "evaluate"
    outcome_column = "outcome"
    retried: ClassVar[bool] = False
    beside_training = True

    @property
    def name(self) -> str:
        """A folder for each model and part."""
        return f"{self.kind}/{self.of}/{self.rows.part}"

    @property
    def stages(self) -> tuple[str, ...]:
        """See `EngineStep.stages`."""
        return (STAGE[self.rows.part],)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Who is asked."""
        return ("responder", "judge") if self.rows.part == "judged" else ("responder",)

    def settings(self, context: Context) -> dict[str, Any]:
        """The model, as far as no step has trained it; and the judge, where there is one."""
        recipe = context.recipe
        pool = recipe.pools[recipe.roles.responder.pool if self.of == "model" else policy_pool(recipe)]
        settings: dict[str, Any] = {
            "seed": recipe.seed,
            "pool": pool_settings(pool),
            "policy": dumped(recipe.policy, {"chat_template", "lora", "pool"}) if recipe.policy else None,
        }
        if self.rows.part == "judged":
            judging = _as_asked(recipe)
            settings["judge"] = journey_settings(judging, ("judge",))
            settings["synthesize"] = dumped(judging.synthesize)
        return settings

    def check(self, context: Context) -> None:
        """See `EngineStep.check`; and that the engine can tell what a benchmark wants to know.

        Raises:
            RecipeError: naming the pool.
        """
        super().check(context)
        serving = self.serving(context)
        pool = serving.roles.responder.pool
        if self.rows.part != "asked" or not isinstance(serving.pools[pool], OpenAIPool):
            return
        from ultraif_ray.engine.openai import CANNOT_SCORE
        from ultraif_ray.evaluate.lm import requests_of

        if any(row.continuation is not None for row in requests_of(_tasks(context.recipe), 1)):
            raise RecipeError(f"pool '{pool}': {CANNOT_SCORE}")

    def serving(self, context: Context) -> Recipe:
        """The model as the responder: alone, or beside the judge."""
        recipe = context.recipe
        if self.policy:
            serving = with_trained_models(recipe, policy=context.folder.uri(self.policy.name))
        else:
            serving = policy_as_it_starts(recipe) if recipe.policy else recipe
        serving = serving if self.rows.part == "asked" else _as_asked(serving)
        return serving if self.rows.part == "judged" else responder_alone(serving)

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """See `EngineStep.entries`."""
        return {self.name: count_rows(folder, self.name, rows, self.outcome_column, self.roles)}


def _as_asked(recipe: Recipe) -> Recipe:
    from ultraif_ray.evaluate.judged import as_asked

    return as_asked(recipe, section_of(recipe).max_tokens or recipe.roles.responder.max_tokens)


@dataclass(frozen=True)
class Evaluation(Step):
    """Score the answers of all models."""

    answers: tuple[AnswerBenchmarks, ...]

    kind = "evaluation"
    resumes = False
    repeatable = True
    cheap = True

    @property
    def inputs(self) -> dict[str, Step]:
        """The answers by model and part."""
        return {f"{step.of} {step.rows.part}": step for step in self.answers}

    def settings(self, context: Context) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def run(self, context: Context) -> dict[str, Entry]:
        """Write the results of each model in a folder of its name, a table of all, and a plot; no rows, and so no entry
        in the ledger.
        """
        from ultraif_ray.evaluate.results import read_samples, write_results
        from ultraif_ray.evaluate.table import differences, side_by_side, table

        folder, recipe = context.folder, context.recipe
        models = dict.fromkeys(step.of for step in self.answers)
        items, conversations = _judged(recipe), _conversations(recipe)
        for of in models:
            steps = [step for step in self.answers if step.of == of]
            write_results(self._score(context, steps, items, conversations), folder, self.name, of)
        found = side_by_side({of: read_samples(folder, self.name, of) for of in models})
        text = table(found) + (f"\n{differences(found)}" if len(models) > 1 else "")
        folder.write_text(text, self.name, "table.md")
        self._plot(folder, found)
        return {}

    def _plot(self, folder: RunFolder, found: Any) -> None:
        from ultraif_ray.evaluate.table import plot

        with TemporaryDirectory() as place:
            try:
                plot(found, f"{place}/plot.svg")
            except InputError as error:
                print(printable(f"{self.name}: {error}"), file=sys.stderr)
                return
            folder.fs.put_file(f"{place}/plot.svg", folder.at(self.name, "plot.svg"))

    def _score(
        self,
        context: Context,
        steps: list[AnswerBenchmarks],
        judged_items: "dict[str, list[Item]]",
        conversations: "dict[str, list[Conversation]]",
    ) -> dict[str, Any]:
        """The results of one model, in lm-eval's form."""
        from ultraif_ray.evaluate import judged, multi_turn
        from ultraif_ray.evaluate.lm import answers_by_id, score, without_tasks
        from ultraif_ray.evaluate.results import add_scored

        recipe, folder = context.recipe, context.folder
        by_part = {step.rows.part: step for step in steps}
        rows = {part: list(_read(folder, step)) for part, step in by_part.items()}
        results = without_tasks()
        if "asked" in by_part:
            answers = answers_by_id({row.id: row for row in rows["asked"] if isinstance(row, Asked)})
            results = score(_tasks(recipe), answers, section_of(recipe).limit)
        results |= _about(steps[0].serving(context), rows)
        for name, items in judged_items.items():
            own = {item.row.id for item in items}
            add_scored(results, name, judged.score(name, items, [row for row in rows["judged"] if row.id in own]))
        for name, some in conversations.items():
            add_scored(results, name, multi_turn.score_multi_if(some, rows["turns"]))
        if "judged" in by_part:
            serving = by_part["judged"].serving(context)
            results["config"]["judge"] = {
                "model": serving.pools[serving.roles.judge.pool].model,
                "how": serving.synthesize.judge,
                "template": serving.templates_of_roles.judge.model_dump(mode="json"),
                "responder": serving.roles.responder.model_dump(mode="json", include={"temperature", "max_tokens"}),
            }
        return results


def _read(folder: RunFolder, step: AnswerBenchmarks) -> Iterator[Row]:
    kind = Asked if step.rows.part == "asked" else Row
    for batch in folder.read_tables(step.name):
        yield from (kind.model_validate(row) for row in batch.to_pylist())


def _about(serving: Recipe, rows: dict[Part, list[Row]]) -> dict[str, Any]:
    """What lm-eval's viewers show of a model, and what bears on how far to trust the figures."""
    pool = serving.pools[serving.roles.responder.pool]
    every = [row for some in rows.values() for row in some]
    config = {
        "model": pool.engine,
        "model_args": {"model": pool.model, "adapter": serving.roles.responder.adapter},
        "failed": sum(row.outcome == "failed" for row in every),
        "cut_off": sum(isinstance(row, Asked) and bool(row.response and not row.response.whole) for row in every),
    }
    return {"config": config, "model_name": pool.model}


def plan_of_evaluation(recipe: Recipe) -> list[Step]:
    """The steps that measure a recipe's responder, as it is."""
    asked = [Benchmarks(part) for part in parts_of(recipe)]
    answers = tuple(AnswerBenchmarks(rows, of="model") for rows in asked)
    return [*asked, *answers, Evaluation(answers)]
