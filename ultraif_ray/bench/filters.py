"""How fast each filter of prompts is, what it finds, and whether all of them together run in flat memory.

    python -m ultraif_ray.bench.filters PROMPTS … [--rows 100000]

Every human turn is a prompt. Where there are fewer than are asked for, they come again, each time with a number behind
them. Times are of one process on one core, so rows/s are per core.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.table import Table

from ultraif_ray.cli import report_errors
from ultraif_ray.data.asking import asks_nothing
from ultraif_ray.data.duplicates import Duplicates, Seen
from ultraif_ray.data.filters import DUPLICATE, NEAR_DUPLICATE, private_in, secrets_in
from ultraif_ray.data.ingest import AT_ONCE, Rejection, funnel, to_prompts
from ultraif_ray.data.language import language_of
from ultraif_ray.data.readers import Record, Source, find_sources, read_records
from ultraif_ray.data.shapes import BadTurns, NoShape, turns_of
from ultraif_ray.errors import InputError
from ultraif_ray.method.contamination import Index, guard
from ultraif_ray.recipe import Decontaminate, Ingest
from ultraif_ray.records import Prompt
from ultraif_ray.report.show import console

ON = Ingest(
    turns="all", languages=("en",), near_duplicates=0.8, toxic="drop", keys="drop", private="mask", max_chars=12_000
)
"""All filters."""


def records_of(sources: list[Source]) -> Iterator[tuple[str, Record]]:
    """The records of files and where they stand, without end; from the second time on with the number of the time
    behind each human turn.

    Raises:
        InputError: the files hold none.
    """
    for times in count():
        given = 0
        for source in sources:
            for number, record in read_records(source):
                given += 1
                yield f"{source.path}:{number}", _again(record, times)
        if not given:
            raise InputError(f"{', '.join(source.path for source in sources)}: no record to filter")


def _again(record: Record, times: int) -> Record:
    if not times:
        return record
    with suppress(NoShape, BadTurns):
        turns = [turn.model_dump() for turn in turns_of(record)]
        marks = {"user": f" ({times})"}
        return {"messages": [turn | {"content": turn["content"] + marks.get(turn["role"], "")} for turn in turns]}
    return record


def items_of(sources: list[Source], settings: Ingest, index: Index | None) -> Iterator[Prompt | Rejection]:
    """What the settings make of these records."""
    for where, record in records_of(sources):
        yield from to_prompts(record, where, settings, index)


def one_by_one() -> dict[str, Callable[[list[Prompt]], int]]:
    """The filters, each as a function of prompts: how many it finds something in."""
    index = guard(Decontaminate())
    return {
        "contaminated": lambda some: sum(index.find(one.query) is not None for one in some) if index else 0,
        "asks nothing": lambda some: sum(asks_nothing(one.query) for one in some),
        "other language": lambda some: sum(language_of(one.query) != "en" for one in some),
        "secret": lambda some: sum(any(True for _ in secrets_in(one.query)) for one in some),
        "private data": lambda some: sum(any(True for _ in private_in(one.query)) for one in some),
        DUPLICATE: partial(_duplicates, Duplicates()),
        NEAR_DUPLICATE: partial(_duplicates, Duplicates(0.8)),
    }


def _duplicates(duplicates: Duplicates, some: list[Prompt]) -> int:
    return sum(bool(reason) for reason in duplicates.find(some))


def in_batches(items: Iterable[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts, as many at a time as ingest handles."""
    left = iter(items)
    while some := list(islice(left, AT_ONCE)):
        yield some


def measure(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPTS …")],
    rows: Annotated[int, typer.Option(min=4, help="How many prompts go through.")] = 100_000,
    ids: Annotated[int, typer.Option(help="Then so many ids of prompts, to see what each costs.")] = 0,
) -> None:
    """Time each filter, then all of them together, with the memory at each quarter."""
    sources = find_sources(prompts)
    filters = one_by_one()
    spent, found = dict.fromkeys(filters, 0.0), Counter[str]()
    plain = Ingest(turns="all", asks_nothing="keep")
    found_in = (item for item in items_of(sources, plain, None) if isinstance(item, Prompt))
    for some in in_batches(islice(found_in, rows)):
        for name, run in filters.items():
            begun = time.process_time()
            found[name] += run(some)
            spent[name] += time.process_time() - begun
    table = Table("filter", "finds", "rows/s", title=f"{rows} prompts", box=None)
    for name in filters:
        table.add_row(name, str(found[name]), f"{rows / max(spent[name], 1e-9):.0f}")
    out = console()
    out.print(table)
    process, held = psutil.Process(), list[str]()
    counts: Counter[str] = Counter()
    begun = time.process_time()
    for _, counts in funnel(items_of(sources, ON, guard(Decontaminate())), ON):
        if counts.total() >= rows * (len(held) + 1) // 4:
            held.append(f"{process.memory_info().rss >> 20}")
        if len(held) == 4:
            break
    speed = counts.total() / max(time.process_time() - begun, 1e-9)
    out.print(f"all together, with reading: {speed:.0f} rows/s; MB at each quarter: {', '.join(held)}")
    out.print(", ".join(f"{n} {reason}" for reason, n in counts.most_common()))
    if ids:
        out.print(cost_of(ids))


def cost_of(ids: int) -> str:
    """What it costs to know so many ids again: memory (without files that are mapped), disk a prompt, and time."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        seen = Seen(Path(folder))
        held, begun = _own_memory(), time.process_time()
        for start in range(0, ids, AT_ONCE):
            seen.add(draw.integers(0, 2**63, min(AT_ONCE, ids - start)))
        more, seconds = _own_memory() - held, max(time.process_time() - begun, 1e-9)
        on_disk = sum(file.stat().st_size for file in Path(folder).iterdir())
    cost = f"{more >> 20} MB of memory and {on_disk / ids:.1f} bytes of disk a prompt"
    return f"{ids} ids: {cost}; {ids / seconds:.0f} ids/s"


def _own_memory() -> int:
    found = psutil.Process().memory_info()
    return int(found.rss - found.shared)


if __name__ == "__main__":
    report_errors(lambda: typer.run(measure))
