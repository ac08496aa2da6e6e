"""A run, step by step: ingest → (decompose) → synthesize → export. Each is skipped when done and resumed when not."""

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ultraif_ray.data.export import export as write_sets
from ultraif_ray.data.ingest import Rejection, check_shape, funnel, to_prompt
from ultraif_ray.data.readers import Source, find_sources, read_records, version
from ultraif_ray.errors import InputError, RunError
from ultraif_ray.flow import ledger
from ultraif_ray.flow.folder import RunFolder
from ultraif_ray.method import prompts as templates
from ultraif_ray.recipe import Ingest, Recipe, content_settings, fingerprint
from ultraif_ray.records import Prompt, arrow_schema

ROWS_PER_FILE = 50_000
"""Rows of one file that ingest writes: some tens of megabytes of prompts."""


def run(recipe: Recipe, until: str = "export", worker_logs: bool = False) -> RunFolder:
    """Run every step up to `until`; steps that are done are not done again.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    folder = RunFolder(recipe.run_folder)
    ours = not _ray_is_up()
    try:
        _run_steps(recipe, folder, until, worker_logs)
    finally:
        if ours and _ray_is_up():
            sys.modules["ray"].shutdown()
    return folder


def _ray_is_up() -> bool:
    """Whether Ray is connected, without importing it: a run that is done never needs it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _run_steps(recipe: Recipe, folder: RunFolder, until: str, worker_logs: bool) -> None:
    ingest(recipe, folder, worker_logs)
    synthesizing = until in ("synthesize", "export")
    source = _source_of_synthesis(recipe, folder)
    if until == "decompose" or (synthesizing and source == "decompose"):
        _through_engines(recipe, folder, "ingest", "decompose", ("decompose",), worker_logs)
    if synthesizing:
        stages = ("compose", "respond") if source == "decompose" else ("decompose", "compose", "respond")
        _through_engines(recipe, folder, source, "synthesize", stages, worker_logs)
    if until == "export":
        export(recipe, folder)
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    folder.write_text(resolved, "recipe.yaml")


def _source_of_synthesis(recipe: Recipe, folder: RunFolder) -> str:
    """The step whose rows synthesis reads: what it began with, else decompose where that is a step of its own."""
    begun = folder.read_json("synthesize", "manifest.json").get("settings", {}).get("input", {})
    for step in begun:
        return str(step)
    return "decompose" if recipe.decompose.separate or folder.state("decompose") else "ingest"


# ---- ingest ----------------------------------------------------------------------------------------------------------


def ingest(recipe: Recipe, folder: RunFolder, worker_logs: bool = False) -> None:
    """Read the prompts into `ingest/rows`, and what was turned away into `ingest/rejected`.

    Files are parsed by Ray tasks side by side and arrive in order; only ids are held, to find exact duplicates.

    Raises:
        InputError: a source is nothing that can be read, or nothing in it could be used.
    """
    sources = find_sources(recipe.prompts)
    settings = content_settings(recipe, "ingest") | {"prompts": {s.path: version(s) for s in sources}}
    if folder.state("ingest") != "done":
        folder.clear("ingest")  # half an ingest is of no use to anyone
    if folder.begin("ingest", settings):
        return
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
    folder.finish("ingest")


def _parse_all(sources: list[Source], settings: Ingest, worker_logs: bool) -> Iterator[Prompt | Rejection]:
    """The items of all sources in order, parsed by Ray tasks."""
    import ray

    from ultraif_ray.flow.graph import connect, in_plain_words

    connect(worker_logs)
    dataset = ray.data.from_items(
        [{"path": s.path, "kind": s.kind} for s in sources], override_num_blocks=len(sources)
    ).map_batches(parse_source, batch_size=1, batch_format="pyarrow", fn_kwargs={"settings": settings})
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True  # of two duplicates, the first stays
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["reason"]:
                    yield Rejection(row["source"], row["reason"], row["query"])
                else:
                    yield Prompt(id=row["id"], query=row["query"], history=row["history"], source=row["source"])
    except Exception as error:
        raise in_plain_words(error) from error


def parse_source(batch: pa.Table, settings: Ingest) -> Iterator[pa.Table]:
    """A Ray Data task: one source in, its prompts and rejections out, some thousand at a time."""
    schema = arrow_schema(Prompt).append(pa.field("reason", pa.string()))
    for item in batch.to_pylist():
        source = Source(**item)
        rows = (_as_row(to_prompt(record, f"{source.path}:{n}", settings)) for n, record in read_records(source))
        while some := list(islice(rows, 2048)):
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


def _through_engines(
    recipe: Recipe, folder: RunFolder, source: str, step: str, stages: tuple[str, ...], worker_logs: bool
) -> None:
    """Take the rows of `source` through the engines into `step`, and account for every one.

    Raises:
        RunError: the folder holds rows made with other settings, or the ledger does not sum.
    """
    upstream = folder.read_json(source, "manifest.json").get("fingerprint")
    settings = content_settings(recipe, step) | {
        "input": {source: upstream},
        "templates": fingerprint({"source": inspect.getsource(templates)}),
    }
    if not folder.begin(step, settings):
        from ultraif_ray.flow.graph import connect, run_pipeline

        rows = folder.count(source)
        left = rows - folder.count(step)
        if left:
            connect(worker_logs)
            run_pipeline(recipe, folder, source, step, stages, left)
        _enter_counts(folder, step, stages, rows)
        folder.finish(step)


def _enter_counts(folder: RunFolder, step: str, stages: tuple[str, ...], rows: int) -> None:
    """Into the ledger with what the files hold; a journey in one go counts for both of its steps."""
    if "decompose" in stages:
        counted = ledger.count_rows(folder, step, "decomposed", ("decomposer",))
        ledger.enter(folder, "decompose", rows, **counted)
    if "respond" in stages:
        counted = ledger.count_rows(folder, step, "outcome", ("composer", "responder", "judge"))
        ledger.enter(folder, "synthesize", rows, **counted)


# ---- export ----------------------------------------------------------------------------------------------------------


def export(recipe: Recipe, folder: RunFolder) -> None:
    """Write the training sets; always from scratch where anything changed, since nothing in it is costly.

    Raises:
        RunError: synthesis is not done.
    """
    if folder.state("synthesize") != "done":
        raise RunError(f"{folder}: synthesis is not done; run `ultraif synthesize` first")
    upstream = folder.read_json("synthesize", "manifest.json")["fingerprint"]
    settings = content_settings(recipe, "export") | {"input": {"synthesize": upstream}}
    manifest = folder.read_json("export", "manifest.json")
    if manifest.get("state") == "done" and manifest.get("fingerprint") == fingerprint(settings):
        return
    folder.clear("export")
    folder.begin("export", settings)
    counted = write_sets(recipe, folder)
    ledger.enter(folder, "export", folder.count("synthesize"), **counted)
    folder.finish("export")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != "accepted" and n)
