"""How far to trust the judge: a sample of its verdicts, graded by a person or by a second judge.

A verdict of no is rare and costs data, one of yes is common and lets violations into it, so both are drawn in equal
number, spread over categories of constraint and levels, and every figure is weighted back to all verdicts. The positive
case is a violation: precision is the share of the judge's no that are right, recall the share of all violations that
it saw.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import floor
from statistics import quantiles
from typing import Literal, TypeVar

from ultraif_ray.errors import InputError
from ultraif_ray.records import Row, Turn

Item = TypeVar("Item")

Answer = Literal["yes", "no"]

Stratum = tuple[Answer, str, int]
"""The verdict, the category of the constraint, and how many constraints the instruction has."""


@dataclass(frozen=True)
class Case:
    """One verdict, and all that it was given on.

    `row`, `instruction`, `response` and `question_number` say where it stands: the row's id, and places in its lists.
    """

    row: int
    instruction: int
    response: int
    question_number: int
    history: tuple[Turn, ...]
    request: str
    answer: str
    question: str
    verdict: Answer
    category: str
    level: int

    @property
    def stratum(self) -> Stratum:
        """What it is drawn by."""
        return self.verdict, self.category, self.level

    @property
    def key(self) -> str:
        """Where it stands, in one text: what finds it again in a file that was graded by hand."""
        return f"{self.row}:{self.instruction}:{self.response}:{self.question_number}"


def cases_of(row: Row) -> Iterator[Case]:
    """The verdicts of a row that are yes or no."""
    for i, instruction in enumerate(row.instructions):
        categories = {question: added.category for added in instruction.added for question in added.questions}
        categories |= {constraint.question: constraint.category for constraint in row.constraints}
        for j, response in enumerate(instruction.responses):
            for k, verdict in enumerate(response.verdicts):
                if verdict.answer not in ("yes", "no"):
                    continue
                yield Case(
                    row=row.id,
                    instruction=i,
                    response=j,
                    question_number=k,
                    history=tuple(instruction.history),
                    request=instruction.query,
                    answer=response.text,
                    question=verdict.question,
                    verdict=verdict.answer,
                    category=categories.get(verdict.question) or "other",
                    level=instruction.level,
                )


# ---- which verdicts are looked at ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Verdicts that were drawn, in random order, and how many there are of each stratum in all."""

    cases: list[Case]
    sizes: dict[Stratum, int]


def draw(cases: Iterable[Case], n: int, seed: int = 0) -> Sample:
    """Draw `n` verdicts in one pass: as many of yes as of no where there are, each in proportion to its strata.

    Args:
        cases: all verdicts; no more than `n` of each stratum are held.
        n: how many.
        seed: another seed draws others.
    """
    dice = random.Random(seed)
    sizes: Counter[Stratum] = Counter()
    held: defaultdict[Stratum, list[Case]] = defaultdict(list)
    for case in cases:
        sizes[case.stratum] += 1
        keep_by_lot(held[case.stratum], case, sizes[case.stratum], n, dice)
    yes, no = (sum(size for at, size in sizes.items() if at[0] == answer) for answer in ("yes", "no"))
    wanted_no = min(no, max(n // 2, n - yes))
    wanted = {"no": wanted_no, "yes": min(yes, n - wanted_no)}
    drawn: list[Case] = []
    for answer, count in wanted.items():
        strata = {at: size for at, size in sizes.items() if at[0] == answer}
        for at, share in _in_proportion(strata, count).items():
            drawn += held[at][:share]
    dice.shuffle(drawn)
    return Sample(drawn, dict(sizes))


def keep_by_lot(held: list[Item], item: Item, seen: int, n: int, dice: random.Random) -> None:
    """Put an item, the `seen`-th, into a reservoir of at most `n`: each has the same chance to be among them at the
    end, and at any place.
    """
    place = dice.randrange(seen)
    if len(held) < n:
        held.insert(place, item)
    elif place < n:
        held[place] = item


def _in_proportion(sizes: dict[Stratum, int], count: int) -> dict[Stratum, int]:
    """`count` split as `sizes` are, by largest remainder."""
    total = sum(sizes.values())
    exact = {at: count * size / total for at, size in sizes.items()}
    shares = {at: floor(share) for at, share in exact.items()}
    rest = count - sum(shares.values())
    for at in sorted(exact, key=lambda at: (shares[at] - exact[at], at))[:rest]:
        shares[at] += 1
    return shares


# ---- what the grades say ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1] with the interval that holds it with 95 % probability."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class Audit:
    """What grades of a sample say about all verdicts.

    Attributes:
        graded: verdicts that were graded.
        wrong_no: of these, those of no that the grade turns into yes.
        wrong_yes: of these, those of yes that the grade turns into no.
        agreement: the share of all verdicts that are right.
        precision: of the judge's no, the share that are violations.
        recall: of all violations, the share that the judge said no to.
    """

    graded: int
    wrong_no: int
    wrong_yes: int
    agreement: Figure
    precision: Figure
    recall: Figure


_DRAWS = 10_000
"""Draws from the distribution of the shares of wrong verdicts, for the intervals."""


def audit(sample: Sample, grades: dict[str, Answer]) -> Audit:
    """Compare verdicts with grades, by `Case.key`; those without a grade are left out.

    The intervals are of Jeffreys' posterior for the share of wrong verdicts among yes and among no, each with the
    effective number of its weighted grades (Kish); the shares of yes and no among all verdicts are known.

    Raises:
        InputError: nothing was graded.
    """
    graded = [case for case in sample.cases if case.key in grades]
    if not graded:
        raise InputError("no verdict was graded, so there is nothing to say")
    wrong = {answer: _Wrong.of(answer, graded, sample, grades) for answer in ("yes", "no")}
    yes, no = wrong["yes"], wrong["no"]
    dice = random.Random(0)
    drawn = [_shares(yes, no, yes.draw(dice), no.draw(dice)) for _ in range(_DRAWS)]
    found = _shares(yes, no, yes.share, no.share)
    agreement, precision, recall = (_figure(value, [shares[i] for shares in drawn]) for i, value in enumerate(found))
    return Audit(len(graded), no.count, yes.count, agreement, precision, recall)


def figure(count: int, of: int) -> Figure:
    """A share that was counted, with Jeffreys' interval."""
    dice = random.Random(0)
    drawn = [dice.betavariate(count + 0.5, of - count + 0.5) for _ in range(_DRAWS)]
    return _figure(count / of, drawn)


@dataclass(frozen=True)
class _Wrong:
    """Wrong verdicts among those of one answer: how many of the sample, and their weighted share."""

    verdicts: int
    count: int
    share: float
    effective: float

    @staticmethod
    def of(answer: str, graded: list[Case], sample: Sample, grades: dict[str, Answer]) -> "_Wrong":
        mine = [case for case in graded if case.verdict == answer]
        seen = Counter(case.stratum for case in mine)
        wrong = [case for case in mine if grades[case.key] != answer]
        weights = {at: sample.sizes[at] / count for at, count in seen.items()}
        total = sum(weights[case.stratum] for case in mine)
        share = sum(weights[case.stratum] for case in wrong) / total if mine else 0.0
        effective = total**2 / sum(weights[case.stratum] ** 2 for case in mine) if mine else 0.0
        verdicts = sum(size for at, size in sample.sizes.items() if at[0] == answer)
        return _Wrong(verdicts, len(wrong), share, effective)

    def draw(self, dice: random.Random) -> float:
        wrong = self.share * self.effective
        return dice.betavariate(wrong + 0.5, self.effective - wrong + 0.5)


def _shares(yes: _Wrong, no: _Wrong, wrong_yes: float, wrong_no: float) -> tuple[float, float, float]:
    """Agreement, precision and recall for shares of wrong verdicts; precision and recall are 1 without a violation."""
    seen, missed = no.verdicts * (1 - wrong_no), yes.verdicts * wrong_yes
    right = seen + yes.verdicts * (1 - wrong_yes)
    return (
        right / (yes.verdicts + no.verdicts),
        1 - wrong_no if no.verdicts else 1.0,
        seen / (seen + missed) if seen + missed else 1.0,
    )


def _figure(value: float, drawn: list[float]) -> Figure:
    """A share and the middle 95 % of its draws; the interval holds the share itself, also where that is 0 or 1."""
    cuts = quantiles(drawn, n=40)
    return Figure(value, min(value, cuts[0]), max(value, cuts[-1]))
