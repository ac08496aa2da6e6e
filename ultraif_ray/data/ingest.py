"""From a record of any accepted shape to its prompts, and to rejections that are counted.

The rule for turns, one for all sources. First the conversation: what a reasoning model thought (`<think>`) is taken out
of its turns; empty turns are dropped; turns before the first human one are dropped, except system messages, and so are
system messages after it; neighbours by the same speaker are joined with a blank line. Then the queries: of the human
turns, those that `ingest.turns` chooses; everything before a query is its history, and what follows it (the old answer)
is dropped. A chosen turn that asks nothing ("continue", "thanks") is rejected, but stays in the history of those after
it; a prompt of a benchmark is rejected with all that come after it.

What is counted is what was asked for: a record gives one item for each turn that is chosen, a prompt or a rejection,
and one rejection where it has none to choose from. So with `turns: all` items are human turns, else records.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, islice
from typing import Any

from ultraif_ray.data.asking import asks_nothing
from ultraif_ray.data.duplicates import Duplicates
from ultraif_ray.data.filters import (
    ASKS_NOTHING,
    OTHER_LANGUAGE,
    TOXIC,
    Span,
    is_flagged,
    masked,
    private_in,
    secrets_in,
)
from ultraif_ray.data.language import language_of
from ultraif_ray.data.readers import FORMATS, Fault, Record, Source, first_records, note, read_records
from ultraif_ray.data.shapes import SHAPES, BadTurns, NoShape, turns_of
from ultraif_ray.engine.thoughts import split
from ultraif_ray.errors import InputError
from ultraif_ray.method.contamination import CONTAMINATED, Index
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt, Turn, content_hash, prompt_id

ACCEPTED = f"{SHAPES}, as {FORMATS}"


@dataclass(frozen=True)
class Rejection:
    """A record, or one turn of it, that gives no prompt: where it stood, why (a fixed phrase), and how it began."""

    source: str
    reason: str
    seen: str
    kind: str = ""
    """Of what kind: a benchmark, a language, a kind of secret or of private data."""
    like: str = ""
    """What it is like: the id of a benchmark's prompt."""
    value: float | None = None
    """How much: the share of that prompt."""
    masked: bool = False
    """What was found was masked, and the prompt is kept: it follows, and is the item that is counted."""


def read_prompts(
    sources: Iterable[Source], settings: Ingest, benchmarks: Index | None = None
) -> Iterator[Prompt | Rejection]:
    """The prompts and rejections of every record of every source, exact duplicates not yet removed.

    Args:
        sources: where they are.
        settings: which turns are chosen, and what is turned away.
        benchmarks: what is kept out; nothing where None.

    Raises:
        InputError: a source cannot be opened, or its first record has no shape that is accepted.
    """
    for source in sources:
        check_shape(source)
        for number, record in read_records(source):
            yield from to_prompts(record, f"{source.path}:{number}", settings, benchmarks)


def check_shape(source: Source) -> None:
    """See `check_first_record`: a file of prompts."""
    check_first_record(source, turns_of, f"Accepted: {ACCEPTED}")


LOOKED_AT = 100
"""Pieces of a file among which one must be a record."""


def check_first_record(source: Source, read: Callable[[Record], object], accepted: str) -> None:
    """Look at the first record of a source, so that a file that is no such thing is refused in one line.

    Args:
        source: the file.
        read: reads a record; raises NoShape or BadTurns.
        accepted: what is accepted, in words.

    Raises:
        InputError: naming the file, the line, what was seen and what is accepted.
    """
    records = first_records(source, LOOKED_AT)
    if not records:
        if source.found:
            return note(f"{source.path}: holds no record, and is passed over")
        raise InputError(f"{source.path}: holds no record. {accepted}")
    number, record = next((one for one in records if not isinstance(one[1], Fault)), records[0])
    way_out = " If it is no such file, name the others, by a glob or each" if source.found else ""
    if isinstance(record, Fault):
        raise InputError(f"{source.path}:{number}: {record.reason}: {record.seen[:80].strip()}. {accepted}.{way_out}")
    try:
        read(record)
    except NoShape as error:
        raise InputError(f"{source.path}:{number}: {error}. {accepted}.{way_out}") from None
    except BadTurns:
        pass  # the right shape; this record alone will be rejected and counted


def to_prompts(
    record: Record, where: str, settings: Ingest, benchmarks: Index | None = None
) -> Iterator[Prompt | Rejection]:
    """One record by the rule for turns: a Prompt or a Rejection for each turn that is chosen, and never nothing.

    Args:
        record: what a reader gave.
        where: `file:line` of the record. A prompt's source has the human turn's number after it, from 1, where `turns`
            does not say by itself which one it was.
        settings: which turns are chosen, and what is turned away.
        benchmarks: what no human turn of a prompt may hold, its history included; nothing where None.
    """
    if isinstance(record, Fault):
        yield Rejection(where, record.reason, record.seen[:200])
        return
    try:
        turns = in_order([_without_thoughts(turn) for turn in turns_of(record)])
    except (NoShape, BadTurns) as error:
        yield Rejection(where, str(error).split(":")[0], shorten(record))
        return
    human = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not human:
        yield Rejection(where, "no human turn", shorten(record))
        return
    fault = _faults(record, turns, human, settings, benchmarks)
    spans = cache(lambda place: _spans(turns[place].content, settings, "mask"))
    for number in _chosen(turns, human, settings):
        numbered = len(human) > 1 and settings.turns in ("all", "mixed")
        source = f"{where}:{number + 1}" if numbered else where
        if rejected := fault(number):
            yield replace(rejected, source=source)
            continue
        said = turns[: human[number] + 1]
        if "mask" in (settings.keys, settings.private):
            found = {span.filter: span.kind for place in range(len(said)) for span in spans(place)}
            yield from (Rejection(source, name, "", kind, masked=True) for name, kind in found.items())
            said = [_masked(turn, spans(place)) for place, turn in enumerate(said)]
        *history, turn = said
        yield Prompt(id=prompt_id(turn.content, history), query=turn.content, history=history, source=source)


def _faults(
    record: Record, turns: list[Turn], human: list[int], settings: Ingest, benchmarks: Index | None
) -> Callable[[int], Rejection | None]:
    """What is wrong with the prompt that a human turn of a conversation makes, by the turn's number; the source is left
    out. What earlier turns hold is found once.
    """
    chars = list(accumulate(len(turn.content) for turn in turns))
    toxic = settings.toxic == "drop" and is_flagged(record)
    held = cache(lambda place: benchmarks.find(turns[place].content) if benchmarks else None)
    spans = cache(lambda place: _spans(turns[place].content, settings, "drop"))
    drops = "drop" in (settings.keys, settings.private)

    def fault(number: int) -> Rejection | None:
        place = human[number]
        query = turns[place].content
        if settings.asks_nothing == "drop" and asks_nothing(query):
            return Rejection("", ASKS_NOTHING, query[:200])
        if settings.multi_turn_only and number == 0:
            return Rejection("", "single turn", query[:200])
        if chars[place] > settings.max_chars:
            return Rejection("", "too long", query[:200])
        if found := next(filter(None, map(held, reversed(human[: number + 1]))), None):
            return Rejection("", CONTAMINATED, query[:200], found.benchmark, found.prompt, found.share)
        if toxic:
            return Rejection("", TOXIC, query[:200])
        if settings.languages and (code := language_of(query)) not in settings.languages:
            return Rejection("", OTHER_LANGUAGE, query[:200], code)
        if drops and (span := next((span for earlier in range(place + 1) for span in spans(earlier)), None)):
            return Rejection("", span.filter, "", span.kind)  # and not how it began
        return None

    return fault


def _spans(text: str, settings: Ingest, action: str) -> list[Span]:
    """What of a text is to be masked, or is why it is dropped."""
    finders = ((settings.keys, secrets_in), (settings.private, private_in))
    return [span for wanted, find in finders if wanted == action for span in find(text)]


def _masked(turn: Turn, spans: list[Span]) -> Turn:
    return Turn(role=turn.role, content=masked(turn.content, spans)) if spans else turn


def _chosen(turns: list[Turn], human: list[int], settings: Ingest) -> Iterable[int]:
    """Which of the human turns are queries: places in `human`, which has their places in `turns`."""
    if settings.turns == "all":
        return range(len(human))
    if settings.turns == "mixed":
        # Not by an id: those decide on splits and fractions, which the depth of a prompt must not hang together with.
        said = [[turn.role, turn.content] for turn in turns[: human[-1] + 1]]
        return [content_hash(["which turn", said]) % len(human)]
    return [0 if settings.turns == "first" else len(human) - 1]


AT_ONCE = 2048
"""Items among which duplicates are looked for at a time."""


def funnel(items: Iterable[Prompt | Rejection], settings: Ingest) -> Iterator[tuple[Prompt | Rejection, Counter[str]]]:
    """Drop duplicates (the first stays) and stop at the limit, with the counts so far beside each item."""
    counts: Counter[str] = Counter()
    source = iter(items)
    with closing(Duplicates(settings.near_duplicates)) as duplicates:
        while some := list(islice(source, AT_ONCE)):
            for item in _without_duplicates(some, duplicates):
                if isinstance(item, Prompt) or not item.masked:
                    counts["accepted" if isinstance(item, Prompt) else item.reason] += 1
                yield item, counts
                if settings.limit and counts["accepted"] >= settings.limit:
                    return


def _without_duplicates(items: list[Prompt | Rejection], duplicates: Duplicates) -> Iterator[Prompt | Rejection]:
    found = iter(duplicates.find([item for item in items if isinstance(item, Prompt)]))
    for item in items:
        reason = next(found) if isinstance(item, Prompt) else ""
        yield Rejection(item.source, reason, item.query[:200]) if reason and isinstance(item, Prompt) else item


# ---- the rule for turns ----------------------------------------------------------------------------------------------


def _without_thoughts(turn: Turn) -> Turn:
    """A turn as a later one may quote it: of a reasoning model's, the answer alone."""
    return turn if turn.role != "assistant" else Turn(role=turn.role, content=split(turn.content)[1] or "")


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _clean(text: str) -> str:
    """Text that UTF-8 and Parquet can hold: no control characters, no half surrogates, no space around it."""
    return _CONTROL.sub("", text.replace("\r\n", "\n")).encode("utf-8", "replace").decode().strip()


def in_order(turns: list[Turn], clean: Callable[[str], str] = _clean) -> list[Turn]:
    """A conversation by the rule for turns.

    Args:
        turns: as they stand.
        clean: what a text becomes; one that becomes empty is dropped.

    Raises:
        BadTurns: humans speak, and say nothing.
    """
    ordered: list[Turn] = []
    for turn in turns:
        text = clean(turn.content)
        if not text:
            continue
        if turn.role == "system" and any(t.role == "user" for t in ordered):
            continue  # only opening system messages speak to the whole conversation
        if turn.role == "assistant" and not any(t.role == "user" for t in ordered):
            continue
        if ordered and ordered[-1].role == turn.role:
            ordered[-1] = Turn(role=turn.role, content=f"{ordered[-1].content}\n\n{text}")
        else:
            ordered.append(Turn(role=turn.role, content=text))
    if not any(t.role == "user" for t in ordered) and any(t.role == "user" for t in turns):
        raise BadTurns("empty")
    return ordered


def shorten(record: Any) -> str:
    """How a record begins, to show it."""
    try:
        return str(record)[:200].encode("utf-8", "replace").decode()
    except RecursionError:
        return f"a {type(record).__name__} of too many brackets in one another"
