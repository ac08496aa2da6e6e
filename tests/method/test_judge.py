from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import Answer, ScriptedEngine, as_json, client_of, composed, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.method.judge import judge
from ultraif_ray.records import Response

INSTRUCTION = composed("q", ("q a", "Is it a?"), ("q a b", "Is it b?"))


def verdicts(*answers: str) -> str:
    return as_json({str(i + 1): {"explanation": "since", "answer": a} for i, a in enumerate(answers)})


async def run(engine: ScriptedEngine, response: Response | None = None, **settings: Any) -> Response:
    made = recipe(synthesize=settings)
    response = response or Response(text="An answer.")
    client = client_of(made, responder=engine)
    await judge(INSTRUCTION, response, INSTRUCTION.questions, client, made.synthesize)
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
    response = await run(saying(reply), attempts=1)
    assert not response.passed
    assert [v.answer for v in response.verdicts] == ["missing", "missing"]
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


async def test_by_logprob_the_first_no_settles_it() -> None:
    engine = saying(labels(0.1))
    response = await run(engine, judge="logprob")
    assert [v.answer for v in response.verdicts] == ["no", "not asked"]
    assert len(engine.asked) == 1


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
