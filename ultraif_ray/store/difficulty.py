"""How hard instructions are: how often responses pass, by number of constraints, and how often each kind of constraint
is met.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from ultraif_ray.records import Check, Constraint, Instruction, Response


class Rate(BaseModel):
    """So many of so many."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    passed: int
    of: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.passed / self.of


class Difficulty(BaseModel):
    """What the responses of a step say about its instructions.

    Rates are of responses, not of instructions: where sampling stops early, one that takes more samples weighs more.
    A constraint counts where a response has a verdict on it: where judging stops at the first no, only until then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    levels: dict[int, Rate] = {}
    """Responses that passed, by how many constraints were added to the query."""
    categories: dict[str, Rate] = {}
    """Responses that met a constraint, by its category."""
    checkers: dict[str, Rate] = {}
    """Responses that met a constraint which code checks, by its checker."""
    none_passed: int = 0
    """Instructions with judged responses, none of which passed: their pass rate is 0."""
    some_passed: int = 0
    """Instructions of which some responses passed and some did not."""
    all_passed: int = 0
    """Instructions with judged responses, all of which passed: their pass rate is 1."""


class Counting:
    """Counts the difficulty of rows, one after another."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[tuple[Any, bool]]] = {
            of: Counter() for of in ("levels", "categories", "checkers")
        }
        self._ends: Counter[str] = Counter()

    def add(self, instructions: Iterable[Instruction], own: Sequence[Constraint] = ()) -> None:
        """Count the instructions of a row.

        Args:
            instructions: with their responses.
            own: the constraints of the prompt itself, which count where a response has a verdict on them.
        """
        for instruction in instructions:
            judged = instruction.judged
            for response in judged:
                self._seen["levels"][instruction.level, response.passed] += 1
                for category, check, met in _verdicts(response, instruction, own):
                    if category:
                        self._seen["categories"][category, met] += 1
                    if check:
                        self._seen["checkers"][check.name, met] += 1
            if judged:
                passed = {response.passed for response in judged}
                self._ends["some_passed" if len(passed) > 1 else "all_passed" if True in passed else "none_passed"] += 1

    @property
    def found(self) -> Difficulty | None:
        """What was counted; None where no response was judged."""
        if not self._ends:
            return None
        rates = {
            of: {
                value: Rate(passed=seen[value, True], of=seen[value, True] + seen[value, False])
                for value in sorted({value for value, _ in seen})
            }
            for of, seen in self._seen.items()
        }
        return Difficulty.model_validate(rates | self._ends)


def _verdicts(
    response: Response, instruction: Instruction, own: Sequence[Constraint]
) -> Iterator[tuple[str, Check | None, bool]]:
    """Of each constraint that a response has a verdict on, its category, its check, and whether it is met."""
    said = {verdict.question: verdict.answer for verdict in response.verdicts}
    added = ((one.category, one.check, one.questions) for one in instruction.added)
    for category, check, questions in (*added, *((one.category, one.check, [one.question]) for one in own)):
        answers = {said.get(question) for question in questions}
        if "no" in answers or answers == {"yes"}:
            yield category, check, "no" not in answers
