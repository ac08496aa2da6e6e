import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import composed
from ultraif_ray.records import (
    AddedConstraint,
    Constraint,
    IdSlice,
    Instruction,
    Prompt,
    Response,
    Row,
    Turn,
    Usage,
    Verdict,
    arrow_schema,
    as_sharegpt,
    prompt_id,
    slice_of_round,
    to_table,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
turns = st.lists(st.builds(Turn, role=st.sampled_from(["user", "assistant", "system"]), content=texts), max_size=3)
verdicts = st.builds(
    Verdict,
    question=texts,
    answer=st.sampled_from(["yes", "no", "missing", "not asked"]),
    p_yes=st.none() | st.floats(0, 1),
    explanation=texts,
)
responses = st.builds(
    Response, text=texts, finish=st.sampled_from(["stop", "length"]), verdicts=st.lists(verdicts, max_size=2)
)
instructions = st.builds(
    Instruction,
    initial_query=texts,
    added=st.lists(
        st.builds(
            AddedConstraint,
            round=st.integers(1, 3),
            category=st.sampled_from(["", "format"]),
            text=texts,
            query=texts,
            questions=st.lists(texts, max_size=2),
        ),
        max_size=2,
    ),
    history=turns,
    responses=st.lists(responses, max_size=2),
)
rows = st.builds(
    Row,
    id=st.integers(0, 2**63 - 1),
    query=texts,
    history=turns,
    source=texts,
    constraints=st.lists(
        st.builds(Constraint, category=st.just("format"), text=texts, simplified_query=texts, question=texts),
        max_size=2,
    ),
    instructions=st.lists(instructions, max_size=2),
    outcome=st.sampled_from(["", "paired", "failed"]),
    usage=st.lists(st.builds(Usage, role=st.just("judge"), prompt=st.integers(0, 9)), max_size=1),
)


@given(st.lists(rows, max_size=3))
def test_rows_survive_arrow_unchanged(some: list[Row]) -> None:
    table = to_table(some)
    assert table.schema == arrow_schema(Row)
    assert [Row.model_validate(record) for record in table.to_pylist()] == some


def test_a_rows_schema_has_no_null_column_even_when_every_list_is_empty() -> None:
    table = to_table([Row(id=1, query="hi")])
    assert table.schema == arrow_schema(Row)
    assert "null" not in str(table.schema)  # of an empty list's items, for instance


@given(texts, turns)
def test_ids_fit_an_int64_and_depend_on_content_alone(query: str, history: list[Turn]) -> None:
    first = prompt_id(query, history)
    assert 0 <= first < 2**63
    assert first == prompt_id(query, [Turn(role=t.role, content=t.content) for t in history])


def test_ids_are_the_same_in_every_run_on_every_machine() -> None:
    """Rows that were written, and what was held out by them, have these."""
    history = [Turn(role="system", content="Be kind."), Turn(role="user", content="hi")]
    later = Prompt(
        id=prompt_id("plus court, s'il te plaît", history), query="plus court, s'il te plaît", history=history
    )
    assert prompt_id("Write about rain.", []) == 7024337314848548554
    assert (later.id, later.conversation) == (7041762128848165479, 6762738953618462804)
    assert prompt_id("half of a pair: \ud83d", []) == 2888264695071842644


def test_ids_tell_apart_query_history_and_speaker() -> None:
    turn = Turn(role="user", content="b")
    ids = {
        prompt_id("a", []),
        prompt_id("a", [turn]),
        prompt_id("b", [Turn(role="user", content="a")]),
        prompt_id("a", [Turn(role="assistant", content="b")]),
    }
    assert len(ids) == 4


def test_the_first_in_sampling_order_is_chosen_and_rejected() -> None:
    instruction = composed(
        "q",
        ("q!", "Is it?"),
        responses=[
            Response(text="cut", finish="length"),
            Response(text=""),
            Response(text="not judged for sure", verdicts=[Verdict(question="Is it?", answer="missing")]),
            Response(text="fails"),
            Response(text="passes", passed=True),
            Response(text="passes too", passed=True),
            Response(text="fails too"),
        ],
    )
    assert instruction.chosen is not None
    assert instruction.rejected is not None
    assert (instruction.chosen.text, instruction.rejected.text) == ("passes", "fails")


def judged(text: str, *p_yes: float, threshold: float = 0.5) -> Response:
    """A response whose questions are met with these probabilities."""
    verdicts = [Verdict(question="Is it?", answer="yes" if p >= threshold else "no", p_yes=p) for p in p_yes]
    return Response(text=text, verdicts=verdicts, passed=min(p_yes) >= threshold)


def test_the_widest_pair_is_the_best_that_passed_and_the_worst_that_failed() -> None:
    responses = [judged(f"{ps}", *ps) for ps in ((0.4, 0.9), (0.6, 0.7), (0.1, 0.2), (0.9, 0.8), (0.2, 0.1))]
    chosen, rejected = Instruction(initial_query="q", responses=responses).widest
    assert (chosen, rejected) == (responses[3], responses[2])
    only_fails = Instruction(initial_query="q", responses=responses[:1])
    assert only_fails.widest == (None, responses[0])


def test_a_score_is_the_share_of_questions_that_are_met_where_there_is_no_probability() -> None:
    answers = ("yes", "no", "missing", "not asked", "yes")
    response = Response(text="t", verdicts=[Verdict(question="Is it?", answer=answer) for answer in answers])
    assert response.score == 2 / 3
    assert [Response(text="t", passed=passed).score for passed in (True, False)] == [1.0, 0.0]


def test_an_instruction_is_its_initial_query_and_what_was_added() -> None:
    made = composed("q", ("q, a", "Is it a?"), ("q, a, b", "Is it b?"))
    assert (made.level, made.query, made.simpler_query) == (2, "q, a, b", "q, a")
    assert made.questions == ["Is it a?", "Is it b?"]
    assert [made.at(level).query for level in (0, 1, 2)] == ["q", "q, a", "q, a, b"]
    before = [Turn(role="user", content="hi")]
    assert composed("q", ("q, a", "Is it a?"), history=before).at(0).history == before
    plain = Instruction(initial_query="q")
    assert (plain.level, plain.query, plain.simpler_query, plain.questions) == (0, "q", "q", [])


@given(fraction=st.floats(1e-6, 1.0, exclude_max=True), number=st.integers(0, 2**63 - 1), last=st.integers(1, 40))
def test_no_prompt_comes_again_before_all_were_there(fraction: float, number: int, last: int) -> None:
    parts = [slice_of_round(one, fraction) for one in range(1, last + 1)]
    times = sum(part.holds(number) for part in parts if part)
    assert math.floor(last * fraction) <= times <= math.ceil(last * fraction)
    assert parts == [slice_of_round(one, fraction) for one in range(1, last + 1)]
    assert all(a and b and a.end == b.start for a, b in pairwise(parts))


def test_three_rounds_of_a_third_are_all_prompts_and_as_many_each() -> None:
    ids = [prompt_id(f"prompt {n}", []) for n in range(3000)]
    taken = [[n for n in ids if part.holds(n)] for part in (slice_of_round(t, 1 / 3) for t in (1, 2, 3)) if part]
    assert sorted(n for part in taken for n in part) == sorted(ids)
    assert all(len(part) == pytest.approx(1000, rel=0.1) for part in taken)
    assert slice_of_round(5, 0.25) == slice_of_round(1, 0.25)  # every prompt was there: from the beginning again
    assert slice_of_round(2, 1.0) is None


@given(texts, turns)
def test_a_conversation_is_the_id_of_its_first_prompt(query: str, history: list[Turn]) -> None:
    first = next((i for i, turn in enumerate(history) if turn.role == "user"), None)
    prompt = Prompt(id=prompt_id(query, history), query=query, history=history)
    if first is None:
        assert prompt.conversation == prompt.id
    else:
        assert prompt.conversation == prompt_id(history[first].content, history[:first])


@pytest.mark.parametrize("number", [0, 1, 4, 5, 6, 9, 10, 11, 2**63 - 1])
def test_a_part_of_all_prompts_has_its_start_and_not_its_end(number: int) -> None:
    assert IdSlice(5, 10).holds(number) == (5 <= number < 10)
    assert IdSlice(10, 5).holds(number) == (number >= 10 or number < 5)
    assert IdSlice(5, 5).holds(number)


def test_a_failure_is_its_kind_where_there_is_no_more_to_say() -> None:
    row = Row(id=1, query="q")
    row.fail("composer", "not JSON")
    assert [failure.model_dump() for failure in row.failures] == [
        {"stage": "composer", "kind": "not JSON", "reason": "not JSON", "raw": ""}
    ]


def test_text_that_utf_8_cannot_hold_has_an_id_too() -> None:
    assert prompt_id("\ud800", []) != prompt_id("\udfff", [])


def test_history_as_sharegpt_has_it() -> None:
    history = [
        Turn(role="system", content="Be kind."),
        Turn(role="user", content="hi"),
        Turn(role="assistant", content="hello"),
    ]
    assert as_sharegpt(history) == [
        {"from": "system", "value": "Be kind."}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"},
    ]  # fmt: skip
    assert as_sharegpt([]) == []
