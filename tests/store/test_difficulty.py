"""How often responses pass, by level, category and checker."""

from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import composed
from ultraif_ray.records import Check, Constraint, Instruction, Response, Verdict
from ultraif_ray.store.difficulty import Counting, Difficulty, Rate


def judged(*answers: str, finish: str = "stop") -> Response:
    """A response with a verdict on question 1, 2, …"""
    verdicts = [
        Verdict.model_validate({"question": f"Is it {n}?", "answer": answer})
        for n, answer in enumerate(answers, start=1)
    ]
    passed = finish == "stop" and all(answer == "yes" for answer in answers)
    return Response.model_validate({"text": "x", "finish": finish, "verdicts": verdicts, "passed": passed})


def asked(*responses: Response) -> Instruction:
    """Two constraints, of which code checks the first."""
    instruction = composed("q", ("q a", "Is it 1?"), ("q a b", "Is it 2?"), responses=list(responses))
    instruction.added[0].category, instruction.added[1].category = "format", "content"
    instruction.added[0].check = Check(name="words", number=3)
    return instruction


def test_rates_are_of_responses_and_a_constraint_counts_where_there_is_a_verdict_on_it() -> None:
    counting = Counting()
    cut_off = judged("not asked", "not asked", finish="length")
    counting.add([asked(judged("yes", "yes"), judged("no", "not asked"), judged("yes", "missing"), cut_off)])
    assert counting.found == Difficulty(
        levels={2: Rate(passed=1, of=4)},
        categories={"content": Rate(passed=1, of=1), "format": Rate(passed=2, of=3)},
        checkers={"words": Rate(passed=2, of=3)},
        some_passed=1,
    )
    assert counting.found.checkers["words"].share == 2 / 3


def test_the_constraints_of_the_prompt_itself_count_where_they_were_asked_about() -> None:
    own = [
        Constraint(category="linguistic", text="t", simplified_query="q", question="Is it 3?"),
        Constraint(category="stylistic", text="t", simplified_query="q", question="Is it 4?"),
    ]
    counting = Counting()
    counting.add([asked(judged("yes", "yes", "no"))], own)
    assert counting.found
    assert set(counting.found.categories) == {"content", "format", "linguistic"}
    assert counting.found.categories["linguistic"] == Rate(passed=0, of=1)


def test_where_nobody_judged_there_is_no_difficulty() -> None:
    counting = Counting()
    counting.add([asked(Response(text="x", passed=True), Response(text="y"))])
    assert counting.found is None
    assert asked(Response(text="x", passed=True)).pass_rate is None


@given(st.lists(st.lists(st.booleans(), max_size=4), max_size=8))
def test_every_instruction_with_a_verdict_is_at_one_end_or_between(passed: list[list[bool]]) -> None:
    counting = Counting()
    instructions = [asked(*(judged("yes", "yes" if one else "no") for one in of)) for of in passed]
    for instruction in instructions:
        counting.add([instruction])
    found, rates = counting.found or Difficulty(), [one.pass_rate for one in instructions]
    assert (found.none_passed, found.all_passed) == (rates.count(0), rates.count(1))
    assert found.some_passed == sum(1 for rate in rates if rate is not None and 0 < rate < 1)
    every = found.levels.get(2, Rate(passed=0, of=0))
    assert (every.passed, every.of) == (sum(map(sum, passed)), sum(map(len, passed)))
