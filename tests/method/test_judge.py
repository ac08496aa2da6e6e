from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import Answer, ScriptedEngine, as_json, client_of, composed, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.method.judge import judge
from ultraif_ray.method.respond import respond
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


async def test_after_the_first_no_nobody_is_asked() -> None:
    engine, response, made = saying(labels(0.1)), Response(text="An answer."), recipe(synthesize={"judge": "logprob"})
    await judge(INSTRUCTION, response, QUESTIONS, client_of(made, responder=engine), made.synthesize)
    assert [(v.question, v.answer) for v in response.verdicts] == [
        ("Is it a?", "no"),
        ("Is it b?", "not asked"),
        ("Is it c?", "not asked"),
    ]
    (asked,) = engine.asked
    assert asked.messages[-1]["content"].endswith("]\nIs it a?\nReply with Yes or No alone.")


def reasoned(answer: str) -> str:
    return as_json({"explanation": "since", "answer": answer})


async def test_each_question_apart_has_its_own_request_and_reason() -> None:
    engine = saying(reasoned("YES"), reasoned("YES"))
    response = await run(engine, judge="each")
    assert response.passed
    assert [(v.question, v.answer, v.explanation) for v in response.verdicts] == [
        ("Is it a?", "yes", "since"),
        ("Is it b?", "yes", "since"),
    ]
    said = [request.messages[-1]["content"] for request in engine.asked]
    assert ["Is it a?" in text for text in said] == [True, False]
    assert ["Is it b?" in text for text in said] == [False, True]
    shared = said[0].split("Is it a?")[0]  # in the cache for the second
    assert shared.index("]\nq a b\n") < shared.index("An answer.")
    assert said[1].startswith(shared)


@pytest.mark.parametrize("reply", ["{}", "", "YES", reasoned("yes"), verdicts("YES"), Completion("{", finish="length")])
async def test_each_fails_closed(reply: Answer) -> None:
    response = await run(saying(reply, reasoned("YES")), judge="each", attempts=1)
    assert not response.passed
    assert [v.answer for v in response.verdicts] == ["missing", "yes"]
    assert (await run(saying(reply, reasoned("YES"), reasoned("YES")), judge="each", attempts=2)).passed


NO: dict[str, Answer] = {"each": reasoned("NO"), "logprob": labels(0.1)}
YES: dict[str, Answer] = {"each": reasoned("YES"), "logprob": labels(0.9)}
NOTHING: dict[str, Answer] = {"each": "{}", "logprob": Completion("A")}


@pytest.mark.parametrize("way", ["each", "logprob"])
async def test_the_first_no_settles_it_unless_all_are_to_be_asked(way: str) -> None:
    response = await run(engine := saying(NO[way]), judge=way)
    assert [v.answer for v in response.verdicts] == ["no", "not asked"]
    assert len(engine.asked) == 1
    response = await run(saying(NO[way], YES[way]), judge=way, ask_all=True)
    assert [v.answer for v in response.verdicts] == ["no", "yes"]


@pytest.mark.parametrize("way", ["each", "logprob"])
async def test_a_missing_verdict_settles_it_only_where_no_failing_response_is_wanted(way: str) -> None:
    script = (NOTHING[way], NO[way])
    only_passing = await run(saying(*script), judge=way, attempts=1, goal="sft")
    assert [v.answer for v in only_passing.verdicts] == ["missing", "not asked"]
    failing_too = await run(saying(*script), judge=way, attempts=1, goal="dpo")
    assert [v.answer for v in failing_too.verdicts] == ["missing", "no"]
    assert not failing_too.passed


async def test_by_logprob_a_label_that_was_not_reported_is_impossible() -> None:
    only_no = Completion("No", label_logprobs={"No": -0.1})
    assert [v.p_yes for v in (await run(saying(only_no), judge="logprob")).verdicts] == [0.0, None]


@pytest.mark.parametrize(
    ("way", "answers"),
    [("rationale", [verdicts("YES", "YES")]), ("each", [YES["each"]] * 2), ("logprob", [YES["logprob"]] * 2)],
)
async def test_a_follow_up_goes_on_with_the_responses_own_conversation(way: str, answers: list[Answer]) -> None:
    made = recipe(
        synthesize={"judge": way, "follow_up": True}, roles={"responder": {"pool": "responders", "system": "Obey."}}
    )
    client = client_of(made, responder=(engine := saying("An answer.", *answers)))
    (response,) = await respond(INSTRUCTION.query, INSTRUCTION.history, 1, client)
    await judge(INSTRUCTION, response, INSTRUCTION.questions, client, made.synthesize)
    assert response.passed
    asked_first = engine.asked[0].messages
    for request in engine.asked[1:]:
        assert request.role == "judge"
        assert request.messages[:-1] == [*asked_first, {"role": "assistant", "content": "An answer."}]
        assert str(made.templates.judge.system) in request.messages[-1]["content"]


async def test_a_judge_that_is_another_model_has_a_conversation_of_its_own() -> None:
    roles = {"responder": {"pool": "responders", "adapter": "the/policy"}}
    made = recipe(synthesize={"judge": "logprob", "follow_up": True}, roles=roles)
    client = client_of(made, responder=(engine := saying(YES["logprob"], YES["logprob"])))
    await judge(INSTRUCTION, Response(text="An answer."), INSTRUCTION.questions, client, made.synthesize)
    assert [message["role"] for message in engine.asked[0].messages] == ["system", "user"]


@pytest.mark.parametrize("response", [Response(text="cut", finish="length"), Response(text="")])
async def test_a_cut_or_empty_response_fails_without_a_question(response: Response) -> None:
    engine = saying()
    judged = await run(engine, response)
    assert not judged.passed
    assert [v.answer for v in judged.verdicts] == ["not asked", "not asked"]
    assert engine.asked == []
