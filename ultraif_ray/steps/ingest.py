"""Prompts in: files and datasets → `rows` in the step's folder, and what was turned away → `rejected`."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray import recipe as sections
from ultraif_ray.data.benchmarks import kept_out, read_against
from ultraif_ray.data.filters import ASKS_NOTHING, DUPLICATE, NEAR_DUPLICATE, OTHER_LANGUAGE, PRIVATE, SECRET, TOXIC
from ultraif_ray.data.ingest import Rejection, check_shape, funnel, to_prompts
from ultraif_ray.data.readers import Source, find_sources, read_records, versions
from ultraif_ray.engine.control import holds_control
from ultraif_ray.errors import InputError
from ultraif_ray.method.contamination import CONTAMINATED, Index, index_of
from ultraif_ray.recipe import Recipe, difference, dumped
from ultraif_ray.records import Prompt, arrow_schema
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, Example, Filtered

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
    repeatable = True
    grows = True

    def addresses(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the prompts are."""
        return recipe.prompts

    def settings(self, context: Context) -> dict[str, Any]:
        """Which prompts, in which version, and what is turned away."""
        recipe, folder = context.recipe, context.folder
        own = {"ingest": dumped(recipe.ingest), "decontaminate": dumped(recipe.decontaminate, {"index"})}
        try:
            prompts: Any = versions(self._sources(context))
            benchmarks = kept_out(recipe.decontaminate)
        except InputError:
            if folder.state(self.name) != "done":
                raise
            return {**own, **_read_in(folder.settings(self.name))}  # they were read once
        in_order = list(prompts)  # of two duplicates the first stays, and a limit takes the first
        order = {} if in_order == sorted(in_order) else {"order": in_order}
        return {**own, **benchmarks, "prompts": prompts, **order}

    def still_holds(self, context: Context, settings: dict[str, Any]) -> Literal["", "same", "more"]:
        """See `Step.still_holds`: whether every prompt is still there. Ids are made of their content, so where the
        files are now, and in which order, does not matter; and nothing is changed to find out.
        """
        folder = context.folder
        if difference(folder.settings(self.name)["ingest"], settings["ingest"]) or folder.state(self.name) != "done":
            return ""
        self.check(context)
        before = folder.ids(self.name)
        now = np.array([item.id for item, _ in self._read(context) if isinstance(item, Prompt)], dtype=np.int64)
        if not np.isin(before, now).all():
            return ""
        if more := len(now) - len(before):
            print(f"{self.name}: {more} prompts come to {len(before)}", file=sys.stderr, flush=True)
        return "more" if more else "same"

    def _sources(self, context: Context) -> list[Source]:
        return find_sources(self.addresses(context.recipe), context.recipe.ingest.encoding or "")

    def _read(self, context: Context) -> "Iterator[tuple[Prompt | Rejection, Counter[str]]]":
        """What ingest makes of the prompts, in order, each with the counts so far."""
        settings, recipe = context.recipe.ingest, context.recipe.decontaminate
        benchmarks = index_of(recipe, read_against(recipe.against))
        return funnel(parse_all(self._sources(context), settings, benchmarks, context.worker_logs), settings)

    def check(self, context: Context) -> None:
        """Refuse prompts that are not there or that ingest cannot read.

        Raises:
            InputError: naming the source.
        """
        for source in self._sources(context):
            check_shape(source)
        for one in context.recipe.decontaminate.against.values():
            for source in find_sources(one.files) if one.files else ():
                check_shape(source)

    def needs(self, context: Context) -> "list[Need]":
        """One CPU at least; what there is beyond it parses other files."""
        from ultraif_ray.flow.cluster import Need

        return [Need("reading the prompts", 1, {"CPU": 1.0})]

    def run(self, context: Context) -> dict[str, Entry]:
        """Parse the files side by side, in order; of what came before, keys are held, to find duplicates.

        Raises:
            InputError: nothing could be used.
        """
        folder, recipe = context.folder, context.recipe
        counts: Counter[str] = Counter()
        filters = {name: Filtered(threshold=threshold, count=0) for name, threshold in filters_of(recipe).items()}
        hostile = 0
        with (
            _Writer(folder, self.name, "rows", arrow_schema(Prompt)) as kept,
            _Writer(folder, self.name, "rejected", REJECTED) as rejected,
        ):
            for item, so_far in self._read(context):
                counts = so_far
                if isinstance(item, Prompt):
                    hostile += any(map(holds_control, (item.query, *(turn.content for turn in item.history))))
                    kept.add(item.model_dump(), len(item.query) + sum(len(turn.content) for turn in item.history))
                    continue
                if not item.masked:
                    rejected.add(asdict(item), len(item.seen))
                if item.reason in filters:
                    example = {name: getattr(item, name) for name in ("source", "seen", *_WHY)}
                    filters[item.reason] = filters[item.reason].plus(Example.model_validate(example))
        if not counts["accepted"]:
            reasons = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if n) or "no file holds a record"
            raise InputError(f"no prompt could be used: {reasons}. They stand in {folder.uri(self.name, 'rejected')}")
        folder.settle(self.name, kept.files)
        outcomes = dict(counts) | {"accepted": folder.count(self.name)}  # what is in the files, against what was read
        entry = Entry(input=counts.total(), outcomes=outcomes, filters=filters, control_tokens=hostile)
        return {self.name: entry}


def filters_of(recipe: Recipe) -> dict[str, float | None]:
    """The filters of ingest that are on, each with its threshold where it has one."""
    settings = recipe.ingest
    every: dict[str, tuple[object, float | None]] = {
        CONTAMINATED: (recipe.decontaminate.shipped or recipe.decontaminate.against, recipe.decontaminate.share),
        DUPLICATE: (True, None),
        NEAR_DUPLICATE: (settings.near_duplicates, settings.near_duplicates),
        ASKS_NOTHING: (settings.asks_nothing != "keep", None),
        OTHER_LANGUAGE: (settings.languages, None),
        TOXIC: (settings.toxic != "keep", None),
        SECRET: (settings.keys != "keep", None),
        PRIVATE: (settings.private != "keep", None),
    }
    return {name: threshold for name, (is_on, threshold) in every.items() if is_on}


def _read_in(settings: dict[str, Any]) -> dict[str, Any]:
    """What was read, of settings as a manifest has them."""
    return {key: settings[key] for key in ("prompts", "order", "benchmarks") if key in settings}


class IngestForComposer(Ingest):
    """Read the prompts that the composer alone learns from (`composer.prompts`)."""

    kind = "composer-ingest"

    def addresses(self, recipe: Recipe) -> tuple[str, ...]:
        """Where the prompts are."""
        return recipe.composer.prompts if recipe.composer else ()


_WHY = ("kind", "like", "value")
"""What a rejection has beside its reason."""

REJECTED = pa.schema(
    {name: pa.float64() if name == "value" else pa.string() for name in ("source", "reason", "seen", *_WHY)}
)


def parse_all(
    sources: list[Source], settings: sections.Ingest, benchmarks: Index | None, worker_logs: bool
) -> Iterator[Prompt | Rejection]:
    """The items of all sources in order, parsed by Ray tasks."""
    import ray

    from ultraif_ray.flow.cluster import connect
    from ultraif_ray.flow.graph import unwrap_error

    connect(worker_logs)
    dataset = ray.data.from_items([asdict(source) for source in sources], override_num_blocks=len(sources)).map_batches(
        parse_source,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"settings": settings, "benchmarks": benchmarks},
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True  # of two duplicates, the first stays
    try:
        for batch in dataset.iter_batches(batch_size=ROWS_AT_ONCE, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["reason"]:
                    why = {name: row[name] for name in (*_WHY, "masked")}
                    yield Rejection(row["source"], row["reason"], row["query"], **why)
                else:
                    yield Prompt(**{name: row[name] for name in Prompt.model_fields})
    except Exception as error:
        raise unwrap_error(error) from error


def parse_source(batch: pa.Table, settings: sections.Ingest, benchmarks: Index | None = None) -> Iterator[pa.Table]:
    """A Ray Data task: one source in, its prompts and rejections out, a few at a time."""
    why = [REJECTED.field(name) for name in ("reason", *_WHY)]
    schema = pa.schema([*arrow_schema(Prompt), *why, pa.field("masked", pa.bool_())])
    for item in batch.to_pylist():
        source = Source(**item)
        rows = (
            _as_row(found)
            for number, record in read_records(source)
            for found in to_prompts(record, f"{source.path}:{number}", settings, benchmarks)
        )
        while some := list(islice(rows, ROWS_AT_ONCE)):
            yield pa.Table.from_pylist(some, schema=schema)


def _as_row(item: Prompt | Rejection) -> dict[str, Any]:
    if isinstance(item, Prompt):
        return item.model_dump() | {"reason": ""}
    why = {name: getattr(item, name) for name in ("source", "reason", *_WHY, "masked")}
    return {"id": 0, "query": item.seen, "history": []} | why


class _Writer:
    """Rows to Parquet files of some tens of megabytes; always at least one file, so that the folder can be read.

    Their names have the step's build: a run that was suspended, and has lost the folder, writes over none of another's.
    """

    def __init__(self, folder: RunFolder, step: str, part: str, schema: pa.Schema):
        self._folder, self._place, self._schema = folder, folder.at(step, part), schema
        self._build = folder.build_of(step)
        self._rows: list[dict[str, Any]] = []
        self._chars = 0
        self.files: list[str] = []

    def add(self, row: dict[str, Any], chars: int) -> None:
        self._rows.append(row)
        self._chars += chars
        if len(self._rows) >= ROWS_PER_FILE or self._chars >= CHARS_PER_FILE:
            self._flush()

    def _flush(self) -> None:
        self._folder.fs.makedirs(self._place, exist_ok=True)
        name = f"part-{self._build}-{len(self.files):05d}.parquet"
        with self._folder.fs.open(f"{self._place}/{name}", "wb") as file:
            pq.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), file)
        self._rows, self._chars = [], 0
        self.files.append(name)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is None and (self._rows or not self.files):
            self._flush()
