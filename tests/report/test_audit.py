"""Which verdicts are drawn, and what their grades say about all."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import composed
from ultraif_ray.errors import InputError
from ultraif_ray.records import Response, Row, Verdict
from ultraif_ray.report.audit import Answer, Audit, Case, Sample, audit, cases_of, draw, figure


def rows(yes: int, no: int, categories: tuple[str, ...] = ("format",)) -> Iterator[Row]:
    """A row for each verdict, in random order, of the categories in turn."""
    both: tuple[Answer, Answer] = ("yes", "no")
    answers = [both[0]] * yes + [both[1]] * no
    random.Random(5).shuffle(answers)
    for number, answer in enumerate(answers):
        verdicts = [Verdict(question="Is it?", answer=answer), Verdict(question="Is it too?", answer="not asked")]
        instruction = composed("q", ("q!", "Is it?"), responses=[Response(text=f"t{number}", verdicts=verdicts)])
        added = instruction.added[0].model_copy(update={"category": categories[number % len(categories)]})
        yield Row(id=number, query="q", instructions=[instruction.model_copy(update={"added": [added]})])


def cases(yes: int, no: int, categories: tuple[str, ...] = ("format",)) -> list[Case]:
    return [case for row in rows(yes, no, categories) for case in cases_of(row)]


def test_a_case_is_a_verdict_of_yes_or_no_with_all_that_it_was_given_on() -> None:
    (case,) = cases_of(next(rows(0, 1)))
    assert (case.request, case.answer, case.question, case.verdict) == ("q!", "t0", "Is it?", "no")
    assert (case.category, case.level, case.key) == ("format", 1, "0:0:0:0")


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 40))
def test_yes_and_no_are_drawn_in_equal_number_as_far_as_they_go(yes: int, no: int, n: int) -> None:
    sample = draw(cases(yes, no, ("format", "content", "numerical")), n)
    drawn = Counter(case.verdict for case in sample.cases)
    assert sum(sample.sizes.values()) == yes + no
    assert len({case.key for case in sample.cases}) == len(sample.cases)
    assert drawn.total() == min(n, yes + no)
    assert abs(drawn["no"] - drawn["yes"]) <= 1 or drawn["no"] == no or drawn["yes"] == yes


def test_strata_are_drawn_in_proportion_and_every_verdict_has_the_same_chance() -> None:
    made = cases(300, 100, ("format", "format", "content"))
    drawn: Counter[str] = Counter()
    for seed in range(200):
        sample = draw(made, 40, seed)
        drawn.update(case.key for case in sample.cases if case.verdict == "no")
        strata = Counter(case.stratum for case in sample.cases)
        for at, size in sample.sizes.items():
            assert abs(strata[at] - 20 * size / (300 if at[0] == "yes" else 100)) < 1
    assert len(drawn) == 100
    assert 15 < min(drawn.values()) <= max(drawn.values()) < 70  # each one in five of 200


def graded(sample: Sample, wrong_yes: float, wrong_no: float, seed: int) -> Audit:
    """Grades by somebody who knows which verdicts are wrong."""
    dice = random.Random(seed)
    other: dict[Answer, Answer] = {"yes": "no", "no": "yes"}
    grades = {
        case.key: other[case.verdict]
        if dice.random() < (wrong_yes if case.verdict == "yes" else wrong_no)
        else case.verdict
        for case in sample.cases
    }
    return audit(sample, grades)


@pytest.mark.parametrize(("yes", "no", "wrong_yes", "wrong_no"), [(900, 300, 0.1, 0.3), (900, 100, 0.02, 0.5)])
def test_planted_errors_are_within_the_intervals(yes: int, no: int, wrong_yes: float, wrong_no: float) -> None:
    seen, missed = no * (1 - wrong_no), yes * wrong_yes
    truth = {
        "agreement": (seen + yes * (1 - wrong_yes)) / (yes + no),
        "precision": 1 - wrong_no,
        "recall": seen / (seen + missed),
    }
    held: Counter[str] = Counter()
    made = cases(yes, no, ("format", "content"))
    for seed in range(20):
        found = graded(draw(made, 120, seed), wrong_yes, wrong_no, seed)
        assert found.graded == 120
        for name, value in truth.items():
            figure = getattr(found, name)
            held[name] += figure.low <= value <= figure.high
    assert min(held.values()) >= 17, held  # 95 % of 20 are 19


def test_figures_are_weighted_back_to_all_verdicts() -> None:
    sample = draw(cases(900, 100), 40)
    wrong = [case.key for case in sample.cases if case.verdict == "yes"][:10]  # half of the yes that were drawn
    grades: dict[str, Answer] = {case.key: case.verdict for case in sample.cases} | dict.fromkeys(wrong, "no")
    found = audit(sample, grades)
    assert (found.wrong_yes, found.wrong_no) == (10, 0)
    assert found.agreement.value == pytest.approx(0.55)
    assert found.precision.value == 1
    assert found.recall.value == pytest.approx(100 / 550)
    assert found.precision.low < 0.95  # 20 right ones prove no perfection


def test_what_was_passed_over_does_not_count_and_nothing_at_all_is_refused() -> None:
    sample = draw(cases(50, 50), 20)
    some: dict[str, Answer] = {case.key: case.verdict for case in sample.cases[:7]}
    assert audit(sample, some).graded == 7
    with pytest.raises(InputError, match="no verdict was graded"):
        audit(sample, {})


def test_a_counted_share_has_its_interval() -> None:
    nine = figure(9, 10)
    assert nine.value == 0.9
    assert nine.low == pytest.approx(0.62, abs=0.02)  # Jeffreys' interval, as published tables have it
    assert nine.high == pytest.approx(0.99, abs=0.01)
    assert figure(0, 4).low < 0.01
