"""The public API: what a notebook uses, and what the command line is a thin layer on."""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultraif_ray.errors import InputError, RunError
from ultraif_ray.recipe import OpenAIPool, Recipe, VllmPool, build_recipe, check_address, load_recipe
from ultraif_ray.records import ROLES, Row, arrow_schema
from ultraif_ray.steps import run as steps
from ultraif_ray.steps.decompose import Decompose
from ultraif_ray.steps.evaluate import PART_OF, plan_of_evaluation
from ultraif_ray.steps.evaluate import Evaluation as EvaluationStep
from ultraif_ray.steps.export import Export
from ultraif_ray.steps.ingest import Ingest
from ultraif_ray.steps.judge import Judge
from ultraif_ray.steps.model import Model
from ultraif_ray.steps.plan import plan as plan_of
from ultraif_ray.steps.responses import ReadResponses
from ultraif_ray.steps.serving import policy_pool
from ultraif_ray.steps.step import Step
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

    from ultraif_ray.data.stats import Stats

__all__ = ["Run", "evaluate_model", "load_recipe", "plan", "run", "score_answers", "stats"]

EVALUATION = EvaluationStep.kind
"""The folder of results, inside that of a run."""


def plan(recipe: Recipe) -> list[Step]:
    """The steps that a run of this recipe has, in order, each with the steps that it is made from."""
    return plan_of(recipe, RunFolder(recipe.run_folder))


def run(recipe: Recipe, until: str = "", *, only: str = "", remake: bool = False, worker_logs: bool = False) -> "Run":
    """Run every step up to `until`; steps that are done are not done again, and an interrupted one goes on.

    Args:
        recipe: the run's recipe.
        until: the name of the last step, such as `synthesize` or `round-1/dpo`; all when empty.
        only: run the step of this name, and nothing before it.
        remake: delete what was made with other settings, instead of refusing to go on.
        worker_logs: show what the workers log.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    return Run(str(steps.run(recipe, until, only=only, worker_logs=worker_logs, remake=remake)))


def evaluate_model(
    model: str,
    benchmarks: Mapping[str, str | None],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    max_tokens: int | None = None,
    run: str | None = None,
    remake: bool = False,
    worker_logs: bool = False,
) -> "Evaluation":
    """Measure a model on benchmarks: through an engine on the cluster, row by row; the same call goes on where an
    interrupted one was.

    Args:
        model: a folder, a hub id or `packaged`; or the folder of a run, whose trained model is measured.
        benchmarks: names, each with the file that holds it, or None for a task of lm-eval's own.
        overrides: `section.key=value` over the recipe of the evaluation, whose one pool is called `served`, such as
            `pools.served.gpus=1`.
        limit: the first so many prompts of each benchmark alone.
        max_tokens: most tokens of an answer, in place of each benchmark's own.
        run: where the evaluation is kept; by default `runs/evaluation-NAME`, or beside the run that is measured.
        remake: delete what was made with other settings, instead of refusing to go on.
        worker_logs: show what the workers log.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    section = {"benchmarks": dict(benchmarks), "limit": limit, "max_tokens": max_tokens}
    recipe = recipe_of_evaluation(model, section, overrides, run)
    planned = plan_of_evaluation(recipe)
    steps.run_steps(recipe, planned, planned, worker_logs, remake)
    return Evaluation(RunFolder(recipe.run_folder), "model")


def score_answers(
    answers: str, benchmark: str, data: str, *, limit: int | None = None, run: str | None = None
) -> "Evaluation":
    """Score answers that exist already, without a model and without Ray.

    Args:
        answers: a file with one record for each prompt, in the order of `data`.
        benchmark: its name.
        data: the file that holds it.
        limit: the first so many alone.
        run: where the results are kept; by default `runs/evaluation-NAME`.

    Raises:
        UltraIFError: what is wrong with a file.
    """
    for key, address in (("answers", answers), ("data", data)):
        check_address(key, address)
    from ultraif_ray.evaluate.punkt import check_extra

    check_extra()
    from ultraif_ray.evaluate.given import answers_in_order, read_answers
    from ultraif_ray.evaluate.lm import load_tasks, score
    from ultraif_ray.evaluate.results import write_results

    folder = RunFolder(run or f"runs/evaluation-{name_of(answers)}")
    results = score(load_tasks({benchmark: data}), answers_in_order(read_answers(answers)), limit)
    folder.clear(EVALUATION, "answers")
    write_results(
        results | {"config": {"answers": answers}, "model_name": name_of(answers)}, folder, EVALUATION, "answers"
    )
    return Evaluation(folder, "answers")


def stats(what: str | Sequence[str], *, step: str = "", encoding: str = "", rows: int = 10, seed: int = 0) -> "Stats":
    """What a data set holds, in one pass and in flat memory.

    Args:
        what: the folder of a run, or of a step in it, whose rows are counted; or files, folders or data sets of prompts
            or of training examples, in any form that `--prompts` or `--data` takes.
        step: of a run, whose rows; by default of the furthest step before the DPO rounds.
        encoding: of files without a byte-order mark; UTF-8 where empty.
        rows: how many are drawn at random.
        seed: another one draws others.

    Raises:
        InputError: a file is not there or cannot be read, or nothing in it has a form that is accepted.
        RunError: the run has no rows of this step.
    """
    from ultraif_ray.data.ingest import ACCEPTED
    from ultraif_ray.data.sets import find_files
    from ultraif_ray.data.stats import see_row, seen_in_files, stats_of

    names = [what] if isinstance(what, str) else list(what)
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise InputError(f"no encoding is called '{encoding}'; known are Python's names, such as cp1252") from None
    if len(names) == 1 and (found_rows := rows_of(names[0], step)):
        return stats_of(map(see_row, found_rows), found_rows.folder.uri(found_rows.step), rows, seed)
    if step:
        raise InputError(f"{', '.join(names)}: no folder of a run, so it has no step '{step}'")
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    found = stats_of(seen_in_files(find_files(tuple(names), encoding)), ", ".join(names[:3]) + more, rows, seed)
    if not found.kinds:
        first = found.first_unreadable or f"{', '.join(names)}: holds no record"
        raise InputError(f"{first}. Nothing could be read. Accepted: {ACCEPTED}, and training sets")
    return found


def rows_of(folder: str, step: str = "") -> "Rows | None":
    """The rows of a run, or of a step's folder in it; None where the folder is of neither.

    Raises:
        RunError: the run has no rows of this step.
    """
    place = RunFolder(folder)
    if place.holds_steps():
        if not (step or steps_with_rows(place)):
            raise RunError(f"{folder} has no rows, only sets: name one, such as {place.uri(Export.kind, 'sft')}")
        return Run(folder).rows(step=step)
    if not step and place.fs.exists(place.at("manifest.json")) and place.fs.exists(place.at("rows")):
        above, _, name = folder.rstrip("/").rpartition("/")
        return Rows(RunFolder(above or "."), name)
    return None


def recipe_of_evaluation(
    model: str, section: dict[str, Any], overrides: Sequence[str] = (), run: str | None = None
) -> Recipe:
    """The recipe of an evaluation: a pool `served` with the model, placed as the one that served it where a run trained
    it; and that run's judge, where one is needed.

    Args:
        model: a model, or the folder of a run.
        section: what the recipe says under `evaluate`.
        overrides: laid over it.
        run: the evaluation's folder, in place of its own.

    Raises:
        RecipeError: naming the key, the value seen and what would be right.
        RunError: the run has trained no model, or not yet.
    """
    place, folder = RunFolder(model), f"runs/evaluation-{name_of(model)}"
    data = of_one_model(model) | {"evaluate": section}
    pools, roles = data["pools"], data["roles"]
    if place.fs.exists(place.at("recipe.yaml")):
        folder = f"{model.rstrip('/')}-evaluation"
        made_by = load_recipe(f"{model.rstrip('/')}/recipe.yaml")
        served = made_by.pools[policy_pool(made_by)]
        if not isinstance(served, OpenAIPool):
            pools["served"] = served.model_dump(mode="json")
        if isinstance(served, VllmPool) and made_by.policy:
            pools["served"] |= {"chat_template": None, "trust_remote_code": made_by.policy.trust_remote_code}
        pools["served"]["model"] = Run(model).model_path
        if any(PART_OF.get(benchmark) == "judged" for benchmark in section["benchmarks"]):
            said = made_by.model_dump(mode="json", include={"templates", "synthesize"})
            data |= {"templates": said["templates"], "synthesize": said["synthesize"] | {"band": None}}
            judge = made_by.roles.judge
            roles["judge"] = judge.model_dump(mode="json") | {"pool": "judge"}
            pools["judge"] = made_by.pools[judge.pool].model_dump(mode="json")
    return build_recipe(data, overrides, run=run or folder)


def of_one_model(model: str) -> dict[str, Any]:
    """What a recipe says of one model that plays every role, from a pool called `served`."""
    return {
        "name": name_of(model),
        "pools": {"served": {"engine": "vllm", "model": model}},
        "roles": {role: {"pool": "served"} for role in ROLES},
    }


def name_of(path: str) -> str:
    """The last part of a path or hub id, as a recipe's name."""
    last = path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".jsonl")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("._-") or "model"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found of one model."""

    folder: RunFolder
    of: str

    @property
    def place(self) -> str:
        """Where the files of results and samples are."""
        return self.folder.uri(EVALUATION, self.of)

    @property
    def results(self) -> dict[str, Any]:
        """lm-eval's results, under its own keys."""
        from ultraif_ray.evaluate.results import read_results

        return read_results(self.folder, EVALUATION, self.of)

    @property
    def table(self) -> str:
        """The figures in Markdown, with 95 % intervals."""
        from ultraif_ray.evaluate.results import read_samples
        from ultraif_ray.evaluate.table import side_by_side, table

        samples = read_samples(self.folder, EVALUATION, self.of)
        return table(side_by_side({self.results["model_name"]: samples}))


def steps_with_rows(folder: RunFolder) -> list[str]:
    """The steps before the DPO rounds that have rows, the furthest first."""
    kinds = (Judge, Synthesize, Decompose, ReadResponses, Ingest)
    return [kind.kind for kind in kinds if folder.state(kind.kind)]


class Run:
    """What a run has made, read from its folder.

    Args:
        folder: the run's folder, a path or a URI.

    Raises:
        RunError: there is no run.
    """

    def __init__(self, folder: str):
        self.folder = RunFolder(folder)
        if not self.folder.holds_steps():
            raise RunError(f"{folder} is not a run's folder, which holds ingest/ and more")

    @property
    def ledger(self) -> dict[str, Entry]:
        """The account of each step: rows by outcome, failures by kind, tokens by role, losses."""
        return ledger.read(self.folder)

    def rows(self, outcome: str | None = None, step: str = "") -> "Rows":
        """The rows of a step.

        Args:
            outcome: only rows that ended so in the step or in one before it, such as `failed` or `paired`.
            step: the step's name; by default the furthest before the DPO rounds.

        Raises:
            RunError: the step has no rows.
        """
        with_rows = steps_with_rows(self.folder)
        step = step or next(iter(with_rows), Ingest.kind)
        if not self.folder.data_files(step):
            rounds = ", or a round's, such as round-1/synthesize"
            raise RunError(f"{self.folder} has no rows of '{step}'; there is {', '.join(with_rows)}{rounds}")
        return Rows(self.folder, step, outcome)

    def dataset(self, name: str, step: str = Export.kind) -> "datasets.DatasetDict":
        """A training set with its splits, as `datasets` has it.

        Args:
            name: `sft`, `dpo` or `composer`.
            step: the export that made it, such as `round-1/export`.

        Raises:
            RunError: there is no such set.
        """
        files = [file for file in self.folder.names(step, name) if file.endswith((".parquet", ".jsonl"))]
        if not files:
            raise RunError(f"{self.folder} has no set '{name}' in {step}; its folder there is missing or empty")
        from datasets import load_dataset

        suffix = ".parquet" if any(file.endswith(".parquet") for file in files) else ".jsonl"
        splits = {
            file.removesuffix(suffix): self.folder.uri(step, name, file) for file in files if file.endswith(suffix)
        }
        return load_dataset({".parquet": "parquet", ".jsonl": "json"}[suffix], data_files=splits)

    @property
    def model_path(self) -> str:
        """The folder of the final model, which transformers and vLLM load.

        Raises:
            RunError: the run has not made one, or not yet.
        """
        if self.folder.state(Model.kind) != "done":
            raise RunError(f"{self.folder} holds no trained model: its recipe has no policy, or the run is not done")
        return self.folder.uri(Model.kind)


@dataclass(frozen=True)
class Rows:
    """Rows of a step: an iterator in flat memory, or all of them as a table."""

    folder: RunFolder
    step: str
    outcome: str | None = None

    def __iter__(self) -> Iterator[Row]:
        for batch in self.folder.read_tables(self.step):
            for record in batch.to_pylist():
                row = Row.model_validate(record)
                if self.outcome in (None, row.outcome, row.decomposed):
                    yield row

    def arrow(self) -> "pa.Table":
        """All rows in memory, as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_pylist([row.model_dump() for row in self], schema=arrow_schema(Row))

    def pandas(self) -> "pd.DataFrame":
        """All rows in memory, as a data frame; nested values are lists and dictionaries."""
        return self.arrow().to_pandas()

    def dataset(self) -> "datasets.Dataset":
        """All rows in memory, as a data set of `datasets`."""
        from datasets import Dataset

        return Dataset(self.arrow())
