"""Code answers first, and free of cost; the judge answers the rest."""

from typing import Any

from tests.scripted import ScriptedEngine, as_json, client_of, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.method.verdicts import check_and_judge, checks_of
from ultraif_ray.records import AddedConstraint, Check, Constraint, Instruction, Response

SHORT = Check(name="words", relation="at most", number=3)
ADDED = [
    AddedConstraint(round=1, text="kindly", query="q kindly", questions=["Is it kind?"]),
    AddedConstraint(
        round=2, text="in at most 3 words", query="q kindly, short", questions=["Is it short?"], check=SHORT
    ),
]
INSTRUCTION = Instruction(initial_query="q", added=ADDED)


async def run(engine: ScriptedEngine, text: str, finish: Any = "stop", **settings: Any) -> Response:
    made = recipe(synthesize=settings)
    response = Response(text=text, finish=finish)
    checks = checks_of(ADDED, [])
    client = client_of(made, responder=engine)
    await check_and_judge(INSTRUCTION, response, INSTRUCTION.questions, checks, client, made.synthesize)
    return response


def said(response: Response) -> list[tuple[str, str, str]]:
    return [(verdict.question, verdict.by, verdict.answer) for verdict in response.verdicts]


ONE_YES = as_json({"1": {"explanation": "since", "answer": "YES"}})


async def test_the_judge_is_asked_what_code_cannot_answer_and_the_order_stays() -> None:
    engine = saying(ONE_YES)
    response = await run(engine, "Thank you dear.")
    assert said(response) == [("Is it kind?", "judge", "yes"), ("Is it short?", "code", "yes")]
    assert response.passed
    assert "Is it short?" not in engine.asked[0].messages[-1]["content"]


async def test_a_no_of_code_settles_it_and_the_judge_is_not_asked() -> None:
    engine = saying()
    response = await run(engine, "Thank you very much, dear.")
    assert said(response) == [("Is it kind?", "judge", "not asked"), ("Is it short?", "code", "no")]
    assert not response.passed
    assert engine.asked == []
    assert Instruction(initial_query="q", added=ADDED, responses=[response]).rejected == response


async def test_with_ask_all_the_judge_is_asked_all_the_same() -> None:
    response = await run(saying(labels(0.9)), "Thank you very much, dear.", judge="logprob", ask_all=True)
    assert said(response) == [("Is it kind?", "judge", "yes"), ("Is it short?", "code", "no")]
    assert not response.passed


async def test_a_yes_of_code_is_not_enough() -> None:
    assert not (await run(saying(as_json({"1": {"explanation": "", "answer": "NO"}})), "Go away.")).passed
    assert not (await run(saying(Completion("?")), "Go away.", attempts=1)).passed


async def test_neither_is_asked_about_a_cut_or_an_empty_answer() -> None:
    for text, finish in (("Thank you", "length"), ("", "stop")):
        response = await run(saying(), text, finish)
        assert {verdict.answer for verdict in response.verdicts} == {"not asked"}
        assert not response.passed


def test_a_question_that_two_constraints_share_is_left_to_the_judge() -> None:
    found = Constraint(category="numerical", text="in 9 words", simplified_query="q", question="Is it short?")
    assert checks_of(ADDED, []) == {"Is it short?": SHORT}
    assert checks_of(ADDED, [found]) == {}
    other = found.model_copy(update={"question": "Is it in 9 words?", "check": Check(name="words", number=9)})
    assert checks_of(ADDED, [other]) == {"Is it short?": SHORT, "Is it in 9 words?": other.check}


async def test_what_is_no_answer_neither_passes_nor_fails_and_nobody_is_asked_about_it() -> None:
    refusal = "I'm sorry, but I can't help."
    engine = saying()
    response = await run(engine, refusal, refusals="drop")
    assert (response.finish, response.passed, response.failed, response.whole) == ("refusal", False, False, False)
    assert engine.asked == []
    response = await run(saying(ONE_YES), refusal)  # the filter is off
    assert response.finish == "stop"
    response = await run(saying(), "so " * 60, repetitive=0.5)
    assert response.finish == "repetitive"
    response = await run(saying(), "so " * 60, finish="length", repetitive=0.5)
    assert response.finish == "length"
