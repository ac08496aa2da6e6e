from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import Answer, ScriptedEngine, as_json, client_of, composed, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.method.judge import judge
from ultraif_ray.records import Response

INSTRUCTION = composed("q", ("q a", "Is it a?"), ("q a b", "Is it b?"))
QUESTIONS = [*INSTRUCTION.questions, "Is it c?"]


def verdicts(*answers: str) -> str:
    return as_json({str(i + 1): {"explanation": "since", "answer": a} for i, a in enumerate(answers)})


async def run(engine: ScriptedEngine, response: Response | None = None, **settings: Any) -> Response:
    made = recipe(synthesize=settings)
    response = response or Response(text="An answer.")
    client = client_of(made, responder=engine)
    await judge(INSTRUCTION, response, INSTRUCTION.questions, client, made.synthesize)
    assert all((request.query, request.role) == (INSTRUCTION.query, "judge") for request in engine.asked)
    return response


async def test_by_rationale_all_yes_passes_and_one_no_fails() -> None:
    passed = await run(saying(verdicts("YES", "YES")))
    assert passed.passed
    assert [(v.question, v.answer, v.explanation) for v in passed.verdicts] == [
        ("Is it a?", "yes", "since"),
        ("Is it b?", "yes", "since"),
    ]
    assert not (await run(saying(verdicts("YES", "NO")))).passed


@pytest.mark.parametrize(
    "reply",
    [
        "{}",
        "",
        "YES",
        verdicts("YES"),
        verdicts("YES", "YES", "YES"),
        verdicts("YES", "MAYBE"),
        verdicts("YES", "yes"),
        as_json({"a": {"explanation": "", "answer": "YES"}, "b": {"explanation": "", "answer": "YES"}}),
        Completion(verdicts("YES", "YES"), finish="length"),
    ],
)
async def test_by_rationale_it_fails_closed(reply: Answer) -> None:
    engine = saying(reply)
    response = await run(engine, attempts=1)
    assert not response.passed
    assert [v.answer for v in response.verdicts] == ["missing", "missing"]
    raw = reply.text if isinstance(reply, Completion) else str(reply)
    assert all(v.explanation.endswith(f": {raw}") and len(v.explanation) > len(raw) + 2 for v in response.verdicts)
    assert engine.asked[0].max_tokens == 1024  # the recipe's: a verdict does not repeat the query
    assert (await run(saying(reply, verdicts("YES", "YES")), attempts=2)).passed


@given(st.text())
async def test_no_text_passes_by_accident(text: str) -> None:
    assert not (await run(saying(text), attempts=1)).passed


async def test_by_logprob_one_token_a_question_and_the_threshold_decides() -> None:
    response = await run(saying(labels(0.9), labels(0.6)), judge="logprob", threshold=0.7, ask_all=True)
    assert [v.answer for v in response.verdicts] == ["yes", "no"]
    assert [v.p_yes for v in response.verdicts] == [pytest.approx(0.9), pytest.approx(0.6)]
    assert not response.passed
    assert (await run(saying(labels(0.9), labels(0.6)), judge="logprob", threshold=0.6 - 1e-9)).passed
    assert (await run(saying(labels(0.5), labels(0.5)), judge="logprob", threshold=0.5)).passed  # from it on


async def test_by_logprob_the_first_no_settles_it() -> None:
    engine, response, made = saying(labels(0.1)), Response(text="An answer."), recipe(synthesize={"judge": "logprob"})
    await judge(INSTRUCTION, response, QUESTIONS, client_of(made, responder=engine), made.synthesize)
    assert [(v.question, v.answer) for v in response.verdicts] == [
        ("Is it a?", "no"),
        ("Is it b?", "not asked"),
        ("Is it c?", "not asked"),
    ]
    (asked,) = engine.asked
    assert asked.messages[-1]["content"].endswith("[Question]\nIs it a?\nReply with Yes or No alone.")


async def test_by_logprob_a_label_that_was_not_reported_is_impossible_and_none_is_missing() -> None:
    only_no = Completion("No", label_logprobs={"No": -0.1})
    assert [v.p_yes for v in (await run(saying(only_no), judge="logprob")).verdicts] == [0.0, None]
    nothing = await run(saying(Completion("A")), judge="logprob")
    assert [v.answer for v in nothing.verdicts] == ["missing", "not asked"]
    assert not nothing.passed


@pytest.mark.parametrize("response", [Response(text="cut", finish="length"), Response(text="")])
async def test_a_cut_or_empty_response_fails_without_a_question(response: Response) -> None:
    engine = saying()
    judged = await run(engine, response)
    assert not judged.passed
    assert [v.answer for v in judged.verdicts] == ["not asked", "not asked"]
    assert engine.asked == []
