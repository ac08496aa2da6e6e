"""What a data set holds, in one pass and in flat memory: lengths, turns, languages, kinds of constraint, how hard they
are, duplicates, and some records at random. A run's rows, or a set of prompts or examples of any shape that is read.
"""

import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict

from ultraif_ray.data.ingest import Rejection, in_order, shorten
from ultraif_ray.data.language import language_of
from ultraif_ray.data.readers import Fault, Record, Source, read_records
from ultraif_ray.data.sets import parts_of
from ultraif_ray.data.shapes import BadTurns, NoShape
from ultraif_ray.records import Constraint, Instruction, Row, Turn, content_hash, prompt_id
from ultraif_ray.store.difficulty import Counting, Difficulty

KINDS = 1000
"""Values of one kind that are counted apart; those that come up later count as `OTHERS`."""

OTHERS = "others"

MANY = 100
"""Turns or levels that stand for as many and more."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Lengths(_Model):
    """Lengths in characters. Percentiles above 1000 are right to three digits."""

    count: int
    mean: float
    p5: int
    p25: int
    median: int
    p75: int
    p95: int
    longest: int


class Copied(_Model):
    """How many texts are exact copies of one before them."""

    count: int
    of: int
    exact: bool
    """Whether all were compared; else those of a share of all hashes, drawn by the hash."""


class Drawn(_Model):
    """A record that was drawn at random, its texts shortened."""

    where: str
    """Its file and line; of a row without these, its id."""
    kind: str
    query: str
    answers: dict[str, str] = {}


class Stats(_Model):
    """What a data set holds."""

    of: str = ""
    """What was counted: a folder, or the names of files."""
    records: int
    kinds: dict[str, int] = {}
    """Records by what they are (`prompt`, `prompt and answer`, `pair`); rows of a run by their outcome."""
    unreadable: dict[str, int] = {}
    """Records that could not be read, by reason."""
    first_unreadable: str = ""
    """Where the first of them stands, and how it begins."""
    lengths: dict[str, Lengths] = {}
    """By part of a record, such as `prompt` (the last thing that the human says), `history` or `answer`; `whole` is all
    of them, with the longest answer."""
    turns: dict[int, int] = {}
    """Records by how often the human speaks, up to MANY."""
    languages: dict[str, int] = {}
    """Records by the language of their prompt, as an ISO 639 code; empty where it cannot be told."""
    sources: dict[str, int] = {}
    """Records by file."""
    categories: dict[str, int] = {}
    """Constraints by category, or whatever category a set gives its records."""
    levels: dict[int, int] = {}
    """Instructions by how many constraints were added, or by whatever level a set gives its records, up to MANY."""
    checkers: dict[str, int] = {}
    """Constraints that code checks, by checker."""
    pass_rates: dict[str, int] = {}
    """Instructions by the share of their responses that passed: `0`, `between`, `1`."""
    difficulty: Difficulty | None = None
    """Of a run's rows: how often responses passed."""
    same_prompt: Copied | None = None
    same_answer: Copied | None = None
    drawn: list[Drawn] = []


# ---- a record --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What counts of one record.

    Attributes:
        where: its file and line; of a row without these, its id.
        kind: what it is, or how the row ended.
        query: what the human says last.
        history: what was said before.
        answers: by name: `answer`, `chosen` and `rejected`, or the row's `response`s.
        source: its file.
        categories: of its constraints.
        levels: of its instructions.
        checkers: of its constraints.
        pass_rates: of its instructions.
        instructions: of a row.
        own: the constraints of a row's prompt.
    """

    where: str
    kind: str
    query: str
    history: Sequence[Turn] = ()
    answers: dict[str, list[str]] = field(default_factory=dict)
    source: str = ""
    categories: Sequence[str] = ()
    levels: Sequence[int] = ()
    checkers: Sequence[str] = ()
    pass_rates: Sequence[float] = ()
    instructions: Sequence[Instruction] = ()
    own: Sequence[Constraint] = ()


def seen_in_files(sources: Iterable[Source]) -> Iterator[Seen | Rejection]:
    """Every record of files of prompts or examples, of any accepted shape.

    Raises:
        InputError: a file cannot be read to its end.
    """
    for source in sources:
        for number, record in read_records(source):
            yield see_record(record, f"{source.path}:{number}", source.path)


def see_record(record: Record, where: str, source: str) -> Seen | Rejection:
    """What counts of a record of a file.

    Args:
        record: as it was read.
        where: its file and line.
        source: its file.
    """
    if isinstance(record, Fault):
        return Rejection(where, record.reason, record.seen[:200])
    try:
        turns, answers = parts_of(record)
        turns = in_order(turns)
    except (NoShape, BadTurns) as error:
        return Rejection(where, str(error).split(":")[0], shorten(record))
    asked = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not asked:
        return Rejection(where, "no human turn", shorten(record))
    kind = "pair" if len(answers) > 1 else "prompt and answer" if answers else "prompt"
    beside = record if isinstance(record, dict) else {}
    return Seen(
        where=where,
        kind=kind,
        query=turns[asked[-1]].content,
        history=turns[: asked[-1]],
        answers={name: [text] for name, text in answers.items()},
        source=source,
        categories=[*_texts(beside.get("category")), *_texts(beside.get("instruction_id_list")),
                    *_each(beside.get("constraints"), "category")],
        levels=[level for level in [beside.get("level")] if isinstance(level, int)],
        checkers=_each(beside.get("checks"), "name"),
        pass_rates=[float(rate) for rate in [beside.get("pass_rate")] if isinstance(rate, int | float)],
    )  # fmt: skip


def see_row(row: Row) -> Seen:
    """What counts of a row of a run: of its constraints those that were added to its last instruction, or, where none
    was composed yet, those that were found in it.
    """
    made = row.instructions
    constraints = made[-1].added if made else row.constraints
    return Seen(
        where=row.source or str(row.id),
        kind=row.outcome or row.decomposed or "accepted",
        query=row.query,
        history=row.history,
        answers={"response": [response.text for instruction in made for response in instruction.responses]},
        source=row.file,
        categories=[constraint.category for constraint in constraints if constraint.category],
        levels=[instruction.level for instruction in made],
        checkers=[constraint.check.name for constraint in constraints if constraint.check],
        pass_rates=[instruction.pass_rate for instruction in made if instruction.pass_rate is not None],
        instructions=made,
        own=row.constraints,
    )


def _texts(value: Any) -> list[str]:
    """The texts of a value that is one or a list of them."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


def _each(values: Any, name: str) -> list[str]:
    """A field of each object in a list."""
    found = values if isinstance(values, list) else []
    return [text for one in found if isinstance(one, dict) for text in _texts(one.get(name))]


# ---- all of them -----------------------------------------------------------------------------------------------------


def stats_of(seen: Iterable[Seen | Rejection], of: str = "", rows: int = 10, seed: int = 0) -> Stats:
    """Count records, in one pass.

    Args:
        seen: the records.
        of: what they are from.
        rows: how many are drawn at random.
        seed: another one draws others.
    """
    counts: dict[str, Counter[Any]] = {name: Counter() for name in _COUNTED}
    unreadable: Counter[str] = Counter()
    first = ""
    lengths: defaultdict[str, Percentiles] = defaultdict(Percentiles)
    prompts, answers, difficulty = Copies(), Copies(), Counting()
    dice, readable, drawn = random.Random(seed), 0, list[Drawn]()
    for one in seen:
        if isinstance(one, Rejection):
            tally(unreadable, one.reason)
            first = first or f"{one.source}: {one.reason}: {one.seen[:80]}"
            continue
        readable += 1
        for name, values in _COUNTED.items():
            for value in values(one):
                tally(counts[name], value)
        for part, texts in _parts(one).items():
            for text in texts:
                lengths[part].add(len(text))
        prompts.add(prompt_id(one.query, list(one.history)))
        for text in (text for texts in one.answers.values() for text in texts):
            answers.add(content_hash(text))
        difficulty.add(one.instructions, one.own)
        if (place := dice.randrange(readable)) < rows:
            drawn[place : place + (len(drawn) == rows)] = [_shown(one)]  # in its place, or between those so far
    by_number = {name: dict(sorted(counts.pop(name).items())) for name in ("turns", "levels")}
    return Stats(
        of=of,
        records=readable + unreadable.total(),
        unreadable=dict(unreadable.most_common()),
        first_unreadable=first,
        lengths={part: lengths[part].found for part in _PARTS if part in lengths},
        difficulty=difficulty.found,
        same_prompt=prompts.found,
        same_answer=answers.found,
        drawn=drawn,
        **by_number,
        **{name: dict(found.most_common()) for name, found in counts.items()},
    )


_COUNTED: dict[str, Callable[[Seen], Iterable[Any]]] = {
    "kinds": lambda one: [one.kind],
    "turns": lambda one: [min(MANY, 1 + sum(turn.role == "user" for turn in one.history))],
    "languages": lambda one: [language_of(one.query)],
    "sources": lambda one: [one.source] if one.source else [],
    "categories": lambda one: one.categories,
    "levels": lambda one: [min(MANY, level) for level in one.levels if level >= 0],
    "checkers": lambda one: one.checkers,
    "pass_rates": lambda one: ["0" if rate == 0 else "1" if rate == 1 else "between" for rate in one.pass_rates],
}

_PARTS = ("history", "prompt", "composed", "answer", "chosen", "rejected", "response", "whole")


def _parts(one: Seen) -> dict[str, list[str]]:
    """The texts whose lengths count, by part."""
    history = ["".join(turn.content for turn in one.history)] if one.history else []
    composed = [instruction.query for instruction in one.instructions if instruction.added]
    longest = max((text for texts in one.answers.values() for text in texts), key=len, default="")
    whole = ["".join([*history, (composed or [one.query])[-1], longest])] if history or longest else []
    return {"history": history, "prompt": [one.query], "composed": composed, **one.answers, "whole": whole}


_SHOWN = 400
"""Characters of a text that are kept of a record that was drawn."""


def _shown(one: Seen) -> Drawn:
    composed = next((instruction.query for instruction in one.instructions[-1:]), one.query)
    answers = {name: texts[0][:_SHOWN] for name, texts in one.answers.items() if texts}
    return Drawn(where=one.where, kind=one.kind, query=composed[:_SHOWN], answers=answers)


# ---- counting in flat memory -----------------------------------------------------------------------------------------


def tally(counts: Counter[Any], value: Any) -> None:
    """Count a value; as one of OTHERS where it is new and there are KINDS already."""
    counts[value if value in counts or len(counts) < KINDS else OTHERS] += 1


class Percentiles:
    """Percentiles of whole numbers, each kept to three digits: some 900 counts for each power of ten."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = self._count = self._longest = 0

    def add(self, length: int) -> None:
        """Count a length."""
        unit = 10 ** max(0, len(str(length)) - 3)
        self._counts[round(length / unit) * unit] += 1
        self._sum, self._count, self._longest = self._sum + length, self._count + 1, max(self._longest, length)

    @property
    def found(self) -> Lengths:
        """What was counted: percentiles by nearest rank."""
        lengths = sorted(self._counts)
        up_to = list(accumulate(self._counts[length] for length in lengths))
        p5, p25, median, p75, p95 = (
            lengths[bisect_left(up_to, ceil(share * self._count))] for share in (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        return Lengths(
            count=self._count, mean=self._sum / self._count, p5=p5, p25=p25, median=median, p75=p75, p95=p95,
            longest=self._longest,
        )  # fmt: skip


HELD = 1 << 17
"""Hashes that are held at most."""


class Copies:
    """How many texts are copies of one before them. Above `held` different ones, only those are compared whose hash is
    in a share of all hashes, which halves each time that there are too many: all copies of a text have the same hash.
    """

    def __init__(self, held: int = HELD):
        self._held, self._part, self._count = held, 1, 0
        self._times: Counter[int] = Counter()

    def add(self, content: int) -> None:
        """Count a text by its hash."""
        self._count += 1
        if content % self._part:
            return
        self._times[content] += 1
        while len(self._times) > self._held:
            self._part *= 2
            self._times = Counter({one: times for one, times in self._times.items() if one % self._part == 0})

    @property
    def found(self) -> Copied | None:
        """What was counted; None without any text."""
        copies = self._times.total() - len(self._times)
        return Copied(count=copies * self._part, of=self._count, exact=self._part == 1) if self._count else None
