"""Prompts in: files and datasets → `rows` in the step's folder, and what was turned away → `rejected`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray import recipe as sections
from ultraif_ray.data.ingest import Rejection, check_shape, funnel, to_prompts
from ultraif_ray.data.readers import Source, find_sources, read_records, versions
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Prompt, arrow_schema
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need

ROWS_AT_ONCE = 2048
"""Rows that ingest handles at a time. Ray's own blocks hold a hundred megabytes of text, as objects many times that."""

ROWS_PER_FILE = 50_000
"""Most rows of one file that ingest writes."""

CHARS_PER_FILE = 50_000_000
"""Characters from which a file is full. With `ingest.turns: all` each prompt holds those before it as its history."""


@dataclass(frozen=True)
class Ingest(Step):
    """Read the prompts, turn away what cannot be used, and count both."""

    kind = "ingest"
    resumes = False  # half an ingest is of no use to anyone

    def addresses(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the prompts are."""
        return recipe.prompts

    def settings(self, context: Context) -> dict[str, Any]:
        """Which prompts, in which version, and what is turned away."""
        recipe, folder = context.recipe, context.folder
        try:
            prompts = versions(self._sources(context))
        except InputError:
            if folder.state(self.name) != "done":
                raise
            prompts = folder.settings(self.name)["prompts"]  # read once, they need not be there any more
        settings = {"ingest": recipe.ingest.model_dump(mode="json"), "prompts": prompts}
        in_order = list(prompts)  # of two duplicates the first stays, and a limit takes the first
        return settings if in_order == sorted(in_order) else settings | {"order": in_order}

    def check(self, context: Context) -> None:
        """Refuse prompts that are not there or that ingest cannot read.

        Raises:
            InputError: naming the source.
        """
        for source in self._sources(context):
            check_shape(source)

    def needs(self, context: Context) -> "list[Need]":
        """One CPU at least; what there is beyond it parses other files."""
        from ultraif_ray.flow.cluster import Need

        return [Need("reading the prompts", 1, {"CPU": 1.0})]

    def run(self, context: Context) -> dict[str, Entry]:
        """Parse the files side by side, in order; only ids are held, to find exact duplicates.

        Raises:
            InputError: nothing could be used.
        """
        folder, settings = context.folder, context.recipe.ingest
        counts: Counter[str] = Counter()
        items = _parse_all(self._sources(context), settings, context.worker_logs)
        with (
            _Writer(folder, folder.at(self.name, "rows"), arrow_schema(Prompt)) as kept,
            _Writer(folder, folder.at(self.name, "rejected"), REJECTED) as rejected,
        ):
            for item, so_far in funnel(items, settings):
                counts = so_far
                if isinstance(item, Prompt):
                    kept.add(item.model_dump(), len(item.query) + sum(len(turn.content) for turn in item.history))
                else:
                    rejected.add({"source": item.source, "reason": item.reason, "seen": item.seen}, len(item.seen))
        if not counts["accepted"]:
            reasons = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if n) or "no file holds a record"
            raise InputError(f"no prompt could be used: {reasons}. They stand in {folder.uri(self.name, 'rejected')}")
        outcomes = dict(counts) | {"accepted": folder.count(self.name)}  # what is in the files, against what was read
        return {self.name: Entry(input=counts.total(), outcomes=outcomes)}

    def _sources(self, context: Context) -> list[Source]:
        return find_sources(self.addresses(context.recipe), context.recipe.ingest.encoding or "")


class IngestForComposer(Ingest):
    """Read the prompts that the composer alone learns from (`composer.prompts`)."""

    kind = "composer-ingest"

    def addresses(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the prompts are."""
        return recipe.composer.prompts if recipe.composer else ()


REJECTED = pa.schema([("source", pa.string()), ("reason", pa.string()), ("seen", pa.string())])


def _parse_all(sources: list[Source], settings: sections.Ingest, worker_logs: bool) -> Iterator[Prompt | Rejection]:
    """The items of all sources in order, parsed by Ray tasks."""
    import ray

    from ultraif_ray.flow.cluster import connect
    from ultraif_ray.flow.graph import unwrap_error

    connect(worker_logs)
    dataset = ray.data.from_items([asdict(source) for source in sources], override_num_blocks=len(sources)).map_batches(
        parse_source, batch_size=1, batch_format="pyarrow", fn_kwargs={"settings": settings}
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True  # of two duplicates, the first stays
    try:
        for batch in dataset.iter_batches(batch_size=ROWS_AT_ONCE, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["reason"]:
                    yield Rejection(row["source"], row["reason"], row["query"])
                else:
                    yield Prompt(**{name: row[name] for name in Prompt.model_fields})
    except Exception as error:
        raise unwrap_error(error) from error


def parse_source(batch: pa.Table, settings: sections.Ingest) -> Iterator[pa.Table]:
    """A Ray Data task: one source in, its prompts and rejections out, a few at a time."""
    schema = arrow_schema(Prompt).append(pa.field("reason", pa.string()))
    for item in batch.to_pylist():
        source = Source(**item)
        rows = (
            _as_row(found)
            for number, record in read_records(source)
            for found in to_prompts(record, f"{source.path}:{number}", settings)
        )
        while some := list(islice(rows, ROWS_AT_ONCE)):
            yield pa.Table.from_pylist(some, schema=schema)


def _as_row(item: Prompt | Rejection) -> dict[str, Any]:
    if isinstance(item, Prompt):
        return item.model_dump() | {"reason": ""}
    return {"id": 0, "query": item.seen, "history": [], "source": item.source, "reason": item.reason}


class _Writer:
    """Rows to Parquet files of some tens of megabytes; always at least one file, so that the folder can be read."""

    def __init__(self, folder: RunFolder, place: str, schema: pa.Schema):
        self._folder, self._place, self._schema = folder, place, schema
        self._rows: list[dict[str, Any]] = []
        self._chars = self._files = 0

    def add(self, row: dict[str, Any], chars: int) -> None:
        self._rows.append(row)
        self._chars += chars
        if len(self._rows) >= ROWS_PER_FILE or self._chars >= CHARS_PER_FILE:
            self._flush()

    def _flush(self) -> None:
        self._folder.fs.makedirs(self._place, exist_ok=True)
        with self._folder.fs.open(f"{self._place}/part-{self._files:05d}.parquet", "wb") as file:
            pq.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), file)
        self._rows, self._chars, self._files = [], 0, self._files + 1

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is None and (self._rows or not self._files):
            self._flush()
