"""A run, step by step, in the order of `steps_of`. Each step is skipped when it is done and resumed when it is not.

    ingest → decompose → composer → synthesize → export → sft → (synthesize → export → dpo) x iterations → model

Each writes a folder of its own, with a fingerprint of the settings and of the steps it was made from.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ultraif_ray.data.export import SETS
from ultraif_ray.data.export import export as write_sets
from ultraif_ray.data.ingest import Rejection, check_shape, funnel, to_prompt
from ultraif_ray.data.readers import Source, find_sources, read_records, versions
from ultraif_ray.errors import GO_ON, InputError, NodeLost, RecipeError, RunError
from ultraif_ray.flow.trained import in_round, with_trained
from ultraif_ray.method import prompts as templates
from ultraif_ray.recipe import Ingest, Recipe, content_settings, fingerprint
from ultraif_ray.records import Prompt, arrow_schema
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import Lease

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Cluster

PLACED = ("decompose", "composer", "synthesize", "sft", "dpo")
"""The kinds of step that ask the cluster for replicas or for training workers."""

TIMES_BEGUN = 6
"""Times that a pipeline is begun at most, each time with what is left: something of Ray's own may die with its node."""

ROWS_AT_ONCE = 2048
"""Rows that ingest handles at a time. Ray's own blocks hold a hundred megabytes of text, as objects many times that."""

ROWS_PER_FILE = 50_000
"""Rows of one file that ingest writes: some tens of megabytes of prompts."""


def steps_of(recipe: Recipe, folder: RunFolder) -> list[str]:
    """The steps of a run, in order. A round's steps are named `round-1/dpo` and live in folders of these names."""
    steps = ["ingest"]
    if _decomposes_apart(recipe, folder):
        steps.append("decompose")
    if recipe.composer:
        steps.append("composer")
    steps += ["synthesize", "export"]
    if recipe.policy:
        steps.append("sft")
        for t in range(1, recipe.align.iterations + 1):
            steps += [f"round-{t}/synthesize", f"round-{t}/export", f"round-{t}/dpo"]
        steps.append("model")
    return steps


def _decomposes_apart(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether decomposing is a step of its own: where a later step reads its rows, or the run has begun so."""
    if recipe.composer is not None:
        return True
    for source in folder.read_json("synthesize", "manifest.json").get("settings", {}).get("input", {}):
        return bool(source == "decompose")
    rounds = recipe.policy is not None and recipe.align.iterations > 0
    return recipe.decompose.separate or rounds or bool(folder.state("decompose"))


def inputs_of(step: str, steps: list[str]) -> list[str]:
    """The steps whose output a step is made from; the first gives it its rows."""
    place, _, kind = step.rpartition("/")
    before = steps[: steps.index(step)]
    policies = [one for one in before if one == "sft" or one.endswith("/dpo")]
    trained = [one for one in before if one == "composer"]
    if kind == "synthesize":
        return ["decompose" if "decompose" in steps else "ingest", *trained, *policies[-1:]]
    if kind == "export":
        return [f"{place}/synthesize" if place else "synthesize"]
    return {
        "ingest": [],
        "decompose": ["ingest"],
        "composer": ["decompose"],
        "sft": ["export"],
        "dpo": [f"{place}/export", *policies[-1:]],
        "model": policies[-1:],
    }[kind]


def run(recipe: Recipe, until: str = "", worker_logs: bool = False, remake: bool = False, only: str = "") -> RunFolder:
    """Run every step up to `until` (all when empty); steps that are done are not done again.

    Args:
        recipe: the run's recipe.
        until: the last step to run.
        worker_logs: show what the workers log.
        remake: delete what was made with other settings, instead of refusing to go on.
        only: run this one step, and nothing before it.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    folder = RunFolder(recipe.run_folder)
    steps = steps_of(recipe, folder)
    if until == "decompose" and "decompose" not in steps:
        steps.insert(1, "decompose")
    for step in (only, until):
        if step and step not in steps:
            raise RunError(f"this recipe has no step '{step}'; it has {', '.join(steps)}")
    wanted = [only] if only else steps[: steps.index(until) + 1] if until else steps
    _check_training(recipe, wanted)
    ours = not _ray_is_up()
    try:
        with Lease(folder) as lease:
            _await_room_for_all(recipe, folder, wanted, steps, worker_logs)
            for step in wanted:
                lease.check()
                try:
                    _run_step(recipe, folder, step, steps, worker_logs, remake)
                except OSError as error:
                    raise RunError(f"{step}: {error}\n{GO_ON}") from error
            _note_recipe(recipe, folder)
    finally:
        if ours and _ray_is_up():
            sys.modules["ray"].shutdown()
    return folder


def retry(recipe: Recipe, remake: bool = False, worker_logs: bool = False) -> int:
    """Do the rows again that ended as failed; their number.

    That is those of the round's synthesis that was interrupted, if one was; else those of the first synthesis, or of
    the decomposition where that is all there is.

    Args:
        recipe: the run's recipe.
        remake: delete what was trained from these rows, instead of refusing.
        worker_logs: show what the workers log.

    Raises:
        RunError: later steps were made from these rows, the recipe is not theirs, or no row has been anywhere yet.
    """
    folder = RunFolder(recipe.run_folder)
    steps = steps_of(recipe, folder)
    interrupted = [one for one in steps if one.endswith("/synthesize") and folder.state(one) == "running"]
    step = next((one for one in (*interrupted, "synthesize", "decompose") if folder.state(one)), "")
    if not step:
        raise RunError(f"{folder}: no rows have been through an engine here; start with `ultraif run`")
    column = "decomposed" if step == "decompose" else "outcome"
    if not any("failed" in batch.column(column).to_pylist() for batch in folder.read_tables(step, [column])):
        return 0
    if lines := folder.changes(step, settings_of(recipe, folder, step, steps)):
        raise RunError(f"{folder.uri(step)} was made with other settings; set these back:\n  " + "\n  ".join(lines))
    made_from_it = [one for one in steps[steps.index(step) + 1 :] if folder.state(one)]
    later = [one for one in made_from_it if one != "export"]  # which costs nothing
    if later and not remake:
        raise RunError(f"{folder}: made from {step}: {', '.join(later)}. Add --remake to delete these and retry")
    with Lease(folder):
        for one in made_from_it:
            folder.clear(one)
        forgotten = folder.forget(step, column, "failed")
    run(recipe, until="export" if step == "synthesize" else step, worker_logs=worker_logs)
    return forgotten


def _ray_is_up() -> bool:
    """Whether Ray is connected, without importing it: a run that is done never needs it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _check_training(recipe: Recipe, steps: list[str]) -> None:
    """Refuse what training could not use before anything is spent on making its data."""
    if any(step.rpartition("/")[2] in ("composer", "sft", "dpo") for step in steps):
        from ultraif_ray.train.settings import check_settings

        check_settings(recipe)


def _await_room_for_all(
    recipe: Recipe, folder: RunFolder, wanted: list[str], steps: list[str], worker_logs: bool
) -> None:
    """Refuse a run of which any step could never be scheduled, before the first of them costs anything."""
    placed = [step for step in wanted if step.rpartition("/")[2] in PLACED and folder.state(step) != "done"]
    if not placed:
        return  # what is left needs no cluster, or little of one
    from ultraif_ray.flow.cluster import await_room, connect

    connect(worker_logs)
    await_room(lambda found: check_room(recipe, folder, placed, steps, found))


def check_room(recipe: Recipe, folder: RunFolder, wanted: list[str], steps: list[str], found: "Cluster") -> None:
    """Check that the cluster can schedule each of the steps `wanted`.

    Raises:
        RecipeError: naming the step, the resource, what is asked and what there is.
    """
    from ultraif_ray.flow.graph import check_fits

    for step in wanted:
        place, _, kind = step.rpartition("/")
        try:
            if kind in ("decompose", "synthesize"):
                inputs = inputs_of(step, steps)
                check_fits(with_trained(_in_place(recipe, place), folder, inputs), _stages(step, inputs[0]), found)
            elif kind in PLACED:
                from ultraif_ray.train.settings import check_workers_fit

                check_workers_fit(recipe.train, found)
        except RecipeError as error:
            raise RecipeError(f"{step}: {error}") from None


def _note_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Keep the recipe that the run was last made with."""
    folder.write_text(
        yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True), "recipe.yaml"
    )


def settings_of(recipe: Recipe, folder: RunFolder, step: str, steps: list[str]) -> dict[str, Any]:
    """Everything that decides a step's content: what its fingerprint stands for."""
    place, _, kind = step.rpartition("/")
    recipe = _in_place(recipe, place)
    settings = content_settings(recipe, kind)
    settings["input"] = {source: folder.made_with(source) for source in inputs_of(step, steps)}
    if kind in ("decompose", "synthesize"):
        settings["templates"] = fingerprint({"source": inspect.getsource(templates)})
    if kind == "synthesize" and place:
        settings["share"] = recipe.align.share
    if kind == "sft" and recipe.policy and recipe.policy.chat_template:
        settings["chat_template"] = Path(recipe.policy.chat_template).read_text(encoding="utf-8")
    if kind == "ingest":
        settings["prompts"] = versions(find_sources(recipe.prompts))
    return settings


def _in_place(recipe: Recipe, place: str) -> Recipe:
    """The recipe as it is in a round, whose steps live in the folder `place`."""
    return in_round(recipe, int(place.removeprefix("round-"))) if place else recipe


def _run_step(recipe: Recipe, folder: RunFolder, step: str, steps: list[str], worker_logs: bool, remake: bool) -> None:
    place, _, kind = step.rpartition("/")
    inputs = inputs_of(step, steps)
    for source in inputs:
        if folder.state(source) != "done":
            raise RunError(f"{folder}: {step} is made from {source}, which is not done; run `ultraif run` first")
    settings = settings_of(recipe, folder, step, steps)
    if kind == "ingest" and folder.state("ingest") != "done":
        folder.clear("ingest")  # half an ingest is of no use to anyone
    if kind in ("export", "model") and folder.made_with(step) != fingerprint(settings):
        folder.clear(step)  # nothing in it is costly
    later = [one for one in steps[steps.index(step) + 1 :] if folder.state(one)]
    if folder.begin(step, settings, later, remake):
        return
    _note_recipe(recipe, folder)
    recipe = _in_place(recipe, place)
    if kind == "ingest":
        ingest(recipe, folder, find_sources(recipe.prompts), worker_logs)
    elif kind in ("decompose", "synthesize"):
        _through_engines(with_trained(recipe, folder, inputs), folder, inputs[0], step, worker_logs)
    elif kind == "export":
        names = tuple(name for name in SETS if not place or name != "composer")  # a round has no constraints of its own
        counted = write_sets(recipe, folder, inputs[0], step, names)
        ledger.enter(folder, step, folder.count(inputs[0]), **counted)
    else:
        from ultraif_ray.train.run import make_model, train

        if kind == "model":
            make_model(recipe, folder, inputs[0], worker_logs)
        else:
            train(recipe, folder, step, inputs, worker_logs)
    folder.finish(step)
    folder.clear(step, "checkpoints")  # of a training, which until now could go on from them


# ---- ingest ----------------------------------------------------------------------------------------------------------


def ingest(recipe: Recipe, folder: RunFolder, sources: list[Source], worker_logs: bool = False) -> None:
    """Read the prompts into `ingest/rows`, and what was turned away into `ingest/rejected`.

    Files are parsed by Ray tasks side by side and arrive in order; only ids are held, to find exact duplicates.

    Raises:
        InputError: a source is nothing that can be read, or nothing in it could be used.
    """
    for source in sources:
        check_shape(source)
    counts: Counter[str] = Counter()
    items = _parse_all(sources, recipe.ingest, worker_logs)
    with _Writer(folder, "rows", Prompt) as kept, _Writer(folder, "rejected", None) as rejected:
        for item, counts in funnel(items, recipe.ingest):  # noqa: B007 - the last counts are the whole
            if isinstance(item, Prompt):
                kept.add(item.model_dump())
            else:
                rejected.add({"source": item.source, "reason": item.reason, "seen": item.seen})
    if not counts["accepted"]:
        raise InputError(
            f"no prompt could be used: {_listed(counts)}. They stand in {folder.uri('ingest', 'rejected')}"
        )
    outcomes = dict(counts) | {"accepted": folder.count("ingest")}  # what stands in the files, against what was read
    ledger.enter(folder, "ingest", counts.total(), outcomes, tokens={})


def _parse_all(sources: list[Source], settings: Ingest, worker_logs: bool) -> Iterator[Prompt | Rejection]:
    """The items of all sources in order, parsed by Ray tasks."""
    import ray

    from ultraif_ray.flow.cluster import Need, await_room, check_needs, connect
    from ultraif_ray.flow.graph import in_plain_words

    connect(worker_logs)
    one_cpu = [Need("reading the prompts", 1, {"CPU": 1.0})]
    await_room(lambda found: check_needs(one_cpu, found, "add nodes"))
    dataset = ray.data.from_items(
        [{"path": s.path, "kind": s.kind} for s in sources], override_num_blocks=len(sources)
    ).map_batches(parse_source, batch_size=1, batch_format="pyarrow", fn_kwargs={"settings": settings})
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True  # of two duplicates, the first stays
    try:
        for batch in dataset.iter_batches(batch_size=ROWS_AT_ONCE, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["reason"]:
                    yield Rejection(row["source"], row["reason"], row["query"])
                else:
                    yield Prompt(id=row["id"], query=row["query"], history=row["history"], source=row["source"])
    except Exception as error:
        raise in_plain_words(error) from error


def parse_source(batch: pa.Table, settings: Ingest) -> Iterator[pa.Table]:
    """A Ray Data task: one source in, its prompts and rejections out."""
    schema = arrow_schema(Prompt).append(pa.field("reason", pa.string()))
    for item in batch.to_pylist():
        source = Source(**item)
        rows = (_as_row(to_prompt(record, f"{source.path}:{n}", settings)) for n, record in read_records(source))
        while some := list(islice(rows, ROWS_AT_ONCE)):
            yield pa.Table.from_pylist(some, schema=schema)


def _as_row(item: Prompt | Rejection) -> dict[str, Any]:
    if isinstance(item, Prompt):
        return item.model_dump() | {"reason": ""}
    return {"id": 0, "query": item.seen, "history": [], "source": item.source, "reason": item.reason}


class _Writer:
    """Rows to Parquet files of at most ROWS_PER_FILE; always at least one file, so that the folder can be read."""

    def __init__(self, folder: RunFolder, name: str, record: type[Prompt] | None):
        self._folder, self._name = folder, name
        texts = [("source", pa.string()), ("reason", pa.string()), ("seen", pa.string())]
        self._schema = arrow_schema(record) if record else pa.schema(texts)
        self._rows: list[dict[str, Any]] = []
        self._files = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_FILE:
            self._flush()

    def _flush(self) -> None:
        path = self._folder.at("ingest", self._name, f"part-{self._files:05d}.parquet")
        self._folder.fs.makedirs(self._folder.at("ingest", self._name), exist_ok=True)
        with self._folder.fs.open(path, "wb") as file:
            pq.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), file)
        self._rows, self._files = [], self._files + 1

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: Any, *exc: Any) -> None:
        if kind is None and (self._rows or not self._files):
            self._flush()


# ---- decompose, synthesize -------------------------------------------------------------------------------------------


def _through_engines(recipe: Recipe, folder: RunFolder, source: str, step: str, worker_logs: bool) -> None:
    """Take the rows of `source` through the engines into `step`, and account for every one.

    Raises:
        RunError: the ledger does not sum.
    """
    from ultraif_ray.flow.cluster import connect
    from ultraif_ray.flow.graph import in_share, run_pipeline

    stages = _stages(step, source)
    share = recipe.align.share if "/" in step else 1.0
    rows = folder.count(source)
    if share < 1.0:
        ids = (one for batch in folder.read_tables(source, ["id"]) for one in batch.column("id").to_pylist())
        rows = sum(in_share(one, share) for one in ids)
        if not rows:
            raise RunError(f"{step}: align.share={share:g} leaves none of the {folder.count(source)} prompts: raise it")
    begun, ended = 0, ""
    while (left := rows - _settled(folder, step)) > 0 and begun < TIMES_BEGUN:
        if begun:
            print(f"{step}: {ended}; going on with the {left} rows that are left", file=sys.stderr, flush=True)
        connect(worker_logs)
        begun, ended = begun + 1, "the pipeline ended without all of its rows"
        try:
            run_pipeline(recipe, folder, source, step, stages, left, share)
        except NodeLost as error:
            if begun == TIMES_BEGUN:
                raise
            ended = str(error).splitlines()[0]
    if "decompose" in stages:  # a journey in one go counts for both of its steps
        counted = ledger.count_rows(folder, step, "decomposed", ("decomposer",))
        ledger.enter(folder, "decompose", rows, **counted)
    if "respond" in stages:
        counted = ledger.count_rows(folder, step, "outcome", ("composer", "responder", "judge"))
        ledger.enter(folder, step, rows, **counted)


def _stages(step: str, source: str) -> tuple[str, ...]:
    """The stages of the journey that a step takes the rows of `source` through."""
    if step == "decompose":
        return ("decompose",)
    return ("compose", "respond") if source == "decompose" else ("decompose", "compose", "respond")


def _settled(folder: RunFolder, step: str) -> int:
    """The rows of a step that count, after what a dead run left in it was mended."""
    if late := folder.settle(step):
        print(f"{step}: {late} rows that a dead run's worker still wrote were taken out", file=sys.stderr, flush=True)
    return folder.count(step)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != "accepted" and n)
