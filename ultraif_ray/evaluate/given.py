"""Answers that exist already, read from a file."""

from collections.abc import Callable
from dataclasses import dataclass

from ultraif_ray.data.readers import Fault, Record, Source, find_sources, read_records
from ultraif_ray.errors import InputError
from ultraif_ray.records import Asked, Response

FIELDS = ("response", "answer", "output", "completion", "text")
"""What a record may call its answer, the first of these that it has."""


@dataclass(frozen=True)
class Given:
    """An answer, and the prompt that its record says it is to; empty where it says none."""

    text: str
    prompt: str


def read_answers(file: str) -> list[Given]:
    """The answers of a file, in order.

    Raises:
        InputError: the file cannot be read, or a record has no answer.
    """
    return [_given(source, number, one) for source in find_sources([file]) for number, one in read_records(source)]


def _given(source: Source, number: int, record: Record) -> Given:
    if isinstance(record, str):  # a text file has one in a line
        return Given(record, "")
    fields = {} if isinstance(record, Fault) else record
    field = next((name for name in FIELDS if isinstance(fields.get(name), str)), None)
    if field is None:
        raise InputError(f"{source.path}: record {number} has no answer: give it as one of {', '.join(FIELDS)}")
    return Given(fields[field], str(fields.get("prompt", "")))


def answers_in_order(given: list[Given]) -> Callable[[list[Asked]], list[Asked]]:
    """One answer for each request in order; for `evaluate.lm.score`.

    Raises:
        InputError: when asked: there are fewer than requests, or one is to another prompt.
    """

    def answer(rows: list[Asked]) -> list[Asked]:
        if len(given) < len(rows):
            raise InputError(
                f"there are {len(given)} answers to {len(rows)} prompts: give one for each, in their order"
            )
        return [
            _answered(number, row, one) for number, (row, one) in enumerate(zip(rows, given, strict=False), start=1)
        ]

    return answer


def _answered(number: int, row: Asked, one: Given) -> Asked:
    if one.prompt and _beginning(one.prompt) != _beginning(row.query):
        raise InputError(
            f"answer {number} is to {one.prompt[:80]!r}, and prompt {number} is {row.query[:80]!r}: they must stand in "
            "the same order"
        )
    return row.model_copy(update={"response": Response(text=one.text)})


def _beginning(prompt: str) -> list[str]:
    """What tells prompts apart: copies of a benchmark differ in white space, and one of IFEval's in how it ends."""
    return prompt.split()[:8]
