"""Multi-IF (arXiv 2410.15553): conversations of three turns, each with the instructions of IFEval, in the form of its
authors' multiIF_20241018.csv.

A row's instructions are the turns of its conversation, which the journey's stage `converse` answers. lm-eval's checkers
of IFEval verify each turn. They count words and sentences as in English; the authors' own do so otherwise for some
scripts, so `counts` says how many turns are about words or sentences in those: there figures may differ.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.judged import AuthorsRecord, Scored, Text, records
from ultraif_ray.evaluate.statistics import Score
from ultraif_ray.evaluate.verifiable import Verified, verify
from ultraif_ray.records import Instruction, Row, content_hash

TURNS = 3
"""Most turns of a conversation."""

_COUNTED_OTHERWISE = ("Chinese", "Hindi", "Thai")
"""Languages whose words, or sentences, the authors count by rules of their own."""

_COUNTING = ("length_constraints:number_words", "length_constraints:number_sentences")


@dataclass(frozen=True)
class OneTurn:
    """One turn: what is asked, and the instructions that its answer must follow, with their arguments."""

    query: str
    instructions: list[str]
    arguments: list[dict[str, Any]]


@dataclass(frozen=True)
class Conversation:
    """A conversation of the benchmark, and the row that goes through the journey."""

    key: str
    language: str
    turns: list[OneTurn]
    row: Row


class MultiIFRecord(AuthorsRecord):
    """As in the data set facebook/Multi-IF. A turn is three columns of JSON: `turn_1_prompt`, a chat message;
    `turn_1_instruction_id_list`; and `turn_1_kwargs`, a list that holds the arguments of each as JSON once more. Where
    a conversation has fewer turns, the prompt of the next is `None`.
    """

    key: Text
    language: Text


def read_multi_if(files: Sequence[str]) -> list[Conversation]:
    """The conversations of the files, in their order.

    Raises:
        InputError: a record is not of the authors' form, two have one name, or there is none.
    """
    found = list(_read(files))
    if not found:
        raise InputError(f"multi_if: {', '.join(files)} hold no conversation")
    if len({one.key for one in found}) < len(found):
        raise InputError("multi_if: a conversation stands there twice: name each file once")
    return found


def _read(files: Sequence[str]) -> Iterator[Conversation]:
    for file, record in records(files, MultiIFRecord):
        try:
            turns = [_turn(record, number) for number in range(1, TURNS + 1)]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}: conversation {record.key}: a turn cannot be read: {error!r:.200}") from None
        asked = [turn for turn in turns if turn]
        if not asked or asked != turns[: len(asked)]:
            raise InputError(f"{file}: conversation {record.key}: its turns have gaps, or there is none")
        instructions = [Instruction(initial_query=turn.query) for turn in asked]
        key = f"{record.key} {record.language}"
        number = content_hash(["multi_if", key, [turn.query for turn in asked]])
        row = Row(id=number, query=asked[0].query, source=f"multi_if {key}", instructions=instructions)
        yield Conversation(key, record.language, asked, row)


def _turn(record: MultiIFRecord, number: int) -> OneTurn | None:
    fields: dict[str, Any] = record.model_extra or {}
    prompt = fields.get(f"turn_{number}_prompt")
    if prompt in (None, "", "None"):
        return None
    message = _parsed(prompt)
    instructions = [str(name) for name in _parsed(fields[f"turn_{number}_instruction_id_list"])]
    if not instructions:
        raise ValueError(f"turn {number} has no instruction to verify")
    arguments = [dict(_parsed(one)) for one in _parsed(fields[f"turn_{number}_kwargs"])]
    return OneTurn(str(message["content"]), instructions, arguments)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


# ---- scoring ---------------------------------------------------------------------------------------------------------


def score_multi_if(conversations: Iterable[Conversation], rows: Iterable[Row]) -> Scored:
    """Score the conversations that came back, turn by turn. A turn without an answer, since one before it failed,
    follows nothing; a conversation without a row was not asked.

    The metrics are IFEval's four of each turn, such as `turn_2_prompt_level_strict_acc`, and the mean of the four,
    which the authors report: `turn_2`, and by language `turn_2_English`.

    Raises:
        InputError: a row that is none of the conversations'.
    """
    by_id = {row.id: row for row in rows}
    met = [(one, by_id.pop(one.row.id)) for one in conversations if one.row.id in by_id]
    if by_id:
        raise InputError(f"multi_if: {len(by_id)} rows are of other conversations than its files': evaluate it anew")
    scores: defaultdict[str, list[Score]] = defaultdict(list)
    samples, counted_otherwise = list[dict[str, Any]](), 0
    for number, (one, row) in enumerate(met):
        verified = [_verify(turn, row, place) for place, turn in enumerate(one.turns)]
        own: dict[str, list[Score]] = {}
        for place, each in enumerate(verified, start=1):
            own |= {} if each.unscored else _scores_of_turn(one, place, each)
        for name, some in own.items():
            scores[name] += some
        samples.append(_sample(number, one, row, verified, own))
        if one.language in _COUNTED_OTHERWISE:
            counted_otherwise += sum(not set(_COUNTING).isdisjoint(turn.instructions) for turn in one.turns)
    counts = {
        "conversations": len(met),
        "turns": sum(len(one.turns) for one, _ in met),
        "failed": sum(row.outcome == "failed" for _, row in met),
        "unscored": sum(bool(turn["unscored"]) for sample in samples for turn in sample["followed"]),
        "counted otherwise": counted_otherwise,
    }
    return Scored(dict(sorted(scores.items())), samples, counts)


def _verify(turn: OneTurn, row: Row, place: int) -> Verified:
    responses = row.instructions[place].responses
    return verify(responses[0].text if responses else "", turn.instructions, turn.arguments, turn.query)


def _scores_of_turn(one: Conversation, number: int, verified: Verified) -> dict[str, list[Score]]:
    """One turn in all of its metrics: each way to count by itself, and as a part of their mean."""
    counted = {
        f"{level}_level_{how}_acc": (float(all(met)), 1.0) if level == "prompt" else (float(sum(met)), float(len(met)))
        for how, met in (("strict", verified.strict), ("loose", verified.loose))
        for level in ("prompt", "inst")
    }
    mean = [Score(one.key, got, of, part=way) for way, (got, of) in counted.items()]
    apart = {f"turn_{number}_{way}": [Score(one.key, got, of)] for way, (got, of) in counted.items()}
    return apart | {f"turn_{number}": mean, f"turn_{number}_{one.language}": mean}


def _sample(
    number: int, one: Conversation, row: Row, verified: list[Verified], scores: dict[str, list[Score]]
) -> dict[str, Any]:
    answers = [response.text for turn in row.instructions for response in turn.responses]
    return {
        "doc_id": number,
        "doc": {"key": one.key, "language": one.language, "turns": [asdict(turn) for turn in one.turns]},
        "target": "",
        "arguments": [[turn.query] for turn in one.turns],
        "resps": [answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": sorted(scores),
        "scores": {name: [asdict(score) for score in some] for name, some in scores.items()},
        "followed": [asdict(turn) for turn in verified],
        "failures": [failure.model_dump() for failure in row.failures],
    }
