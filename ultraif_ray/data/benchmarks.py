"""Files of benchmarks → what is looked for in prompts. See `method/contamination.py`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ultraif_ray.data.ingest import check_shape
from ultraif_ray.data.readers import Fault, Record, Source, find_sources, read_records, versions
from ultraif_ray.data.shapes import BadTurns, NoShape, turns_of
from ultraif_ray.method.contamination import OURS, SHIPPED, Known, known
from ultraif_ray.recipe import Against, Decontaminate, dumped


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One human turn of a benchmark, and its id there."""

    id: str
    text: str


def read_benchmark(files: tuple[str, ...]) -> Iterator[BenchmarkPrompt]:
    """The human turns of a benchmark's files. The id is that of the record, else the record's number in its file; where
    there are several files, the file's name stands before it.

    Raises:
        InputError: a file is not there, or has no shape that is accepted.
    """
    sources = find_sources(files)
    for source in sources:
        check_shape(source)
        stem = f"{source.path.rsplit('/', 1)[-1].partition('.')[0]} " if len(sources) > 1 else ""
        for number, record in read_records(source):
            for text in _asked(record):
                yield BenchmarkPrompt(f"{stem}{_id_of(record) or number}", text)


def _asked(record: Record) -> list[str]:
    try:
        return [] if isinstance(record, Fault) else [turn.content for turn in turns_of(record) if turn.role == "user"]
    except (NoShape, BadTurns):
        return []


def _id_of(record: Record) -> str:
    found = (record.get(field) for field in ("key", "id", "question_id")) if isinstance(record, dict) else ()
    return next((str(one) for one in found if isinstance(one, int | str) and str(one)), "")


def read_against(against: Mapping[str, Against], n: int = OURS.n) -> list[Known]:
    """The prompts of all files that a recipe names, for an index.

    Raises:
        InputError: a file is not there, or has no shape that is accepted.
    """
    return [
        known(name, prompt.id, prompt.text, n)
        for name, one in against.items()
        if one.files
        for prompt in read_benchmark(one.files)
    ]


def kept_out(settings: Decontaminate) -> dict[str, Any]:
    """What decides which texts are contaminated, for a step's settings: the recipe's, and the state of every index and
    file.

    Raises:
        InputError: a file is not there.
    """
    files = {name: versions(find_sources(one.files)) for name, one in settings.against.items() if one.files}
    shipped = {"shipped": versions([Source(str(SHIPPED), "index")])} if settings.shipped else {}
    return {"decontaminate": dumped(settings, {"index"}), "benchmarks": files | shipped}
