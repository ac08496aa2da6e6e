import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import ScriptedEngine, as_json, client_of, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method.checkers.naming import SAYS_OTHERWISE, enabled
from ultraif_ray.method.decompose import QUESTION_SCHEMA, decompose, whole_before_the_cut
from ultraif_ray.records import Check, Prompt, Turn

PROMPT = Prompt(id=1, query="Write a poem about the rain in French, of at most 8 lines.")
FRENCH = {
    "constraint": "in French",
    "simplified_query": "Write a poem about the rain, of at most 8 lines.",
    "question": "Is the poem in French?",
    "category": "linguistic",
}
LINES = {
    "constraint": "at most 8 lines",
    "simplified_query": "Write a poem about the rain in French.",
    "question": "Does the poem have at most 8 lines?",
    "category": "numerical",
}


def reply(*found: dict[str, str]) -> str:
    return as_json({"constraints": found})


async def run(engine: ScriptedEngine, prompt: Prompt = PROMPT, **settings: Any) -> list[Any]:
    made = recipe(decompose=settings)
    return await decompose(prompt, client_of(made, decomposer=engine), made.decompose)


async def test_constraints_are_found_with_what_is_left_and_how_to_check() -> None:
    found = await run(saying(reply(FRENCH, LINES)))
    assert [(c.category, c.text) for c in found] == [("linguistic", "in French"), ("numerical", "at most 8 lines")]
    assert found[0].simplified_query == "Write a poem about the rain, of at most 8 lines."
    assert found[1].question == "Does the poem have at most 8 lines?"


async def test_a_prompt_without_constraints_is_simple() -> None:
    assert await run(saying(reply())) == []


async def test_scenario_has_no_question_and_is_dropped() -> None:
    assert await run(saying(reply(FRENCH | {"question": ""}))) == []
    assert len(await run(saying(reply(FRENCH | {"question": "  "}, LINES)))) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"simplified_query": PROMPT.query},
        {"simplified_query": "Write a poem about rain."},  # took another demand away with it
        {"simplified_query": "Tell me about the weather in Paris and bring an umbrella."},  # another request
        {"simplified_query": "Rain"},  # nothing of the task left
        {"simplified_query": ""},
        {"constraint": "be funny and rhyme"},  # stands nowhere in the prompt
        {"constraint": ""},
        {"question": "Is it " + "very " * 80 + "French?"},
        {"question": "Make it French."},
    ],
)
async def test_a_constraint_that_was_not_taken_away_does_not_count(broken: dict[str, str]) -> None:
    engine = saying(reply(FRENCH | broken), reply(FRENCH | broken, LINES))
    found = await run(engine, attempts=2)
    assert [c.text for c in found] == ["at most 8 lines"]


async def test_what_is_dropped_is_noted_with_its_reason_also_where_others_stood() -> None:
    made = recipe()
    both = FRENCH | {"simplified_query": "Write a poem about the rain."}
    client = client_of(made, decomposer=saying(reply(both, LINES)))
    assert [c.text for c in await decompose(PROMPT, client, made.decompose)] == ["at most 8 lines"]
    (dropped,) = client.dropped
    assert (dropped.stage, dropped.kind) == ("decomposer", "more than the constraint was taken away")
    assert json.loads(dropped.raw) == both


async def test_two_constraints_may_have_the_same_question() -> None:
    same = LINES | {"question": FRENCH["question"]}
    assert [c.text for c in await run(saying(reply(FRENCH, same)))] == ["in French", "at most 8 lines"]


@pytest.mark.parametrize(("check", "held"), [("none", 2), ("text", 1), ("model", 0)])
async def test_the_check_may_be_by_the_model_by_the_text_or_none(check: str, held: int) -> None:
    both = FRENCH | {"simplified_query": "Write a poem about the rain."}
    engine = ScriptedEngine(lambda request, number: labels(0.2) if request.labels else reply(both, LINES))
    made = recipe(decompose={"check": check, "attempts": 1})
    client = client_of(made, decomposer=engine)
    if not held:
        with pytest.raises(UnusableReply, match="no constraint held"):
            await decompose(PROMPT, client, made.decompose)
        assert [dropped.kind for dropped in client.dropped] == [
            "more than the constraint was taken away",
            "the model says that it does not hold",
        ]
        (check_by_model,) = (request for request in engine.asked if request.labels)  # the text had settled the other
        assert check_by_model.messages[-1]["content"].startswith(f"Request:\n{PROMPT.query}\n")
    else:
        assert len(await decompose(PROMPT, client, made.decompose)) == held


async def test_questions_may_be_asked_for_in_calls_of_their_own() -> None:
    bare = [{key: value for key, value in found.items() if key != "question"} for found in (FRENCH, LINES)]
    questions = {"in French": FRENCH["question"], "at most 8 lines": ""}

    def say(request: Request, number: int) -> str:
        demand = request.messages[-1]["content"].partition("Demand: ")[2]
        return as_json({"question": questions[demand]}) if demand else as_json({"constraints": bare})

    engine = ScriptedEngine(say)
    (found,) = await run(engine, calls=2)  # the other is only background
    assert (found.text, found.question) == ("in French", FRENCH["question"])
    first, *asked = engine.asked
    assert first.schema is not None
    item = first.schema["properties"]["constraints"]["items"]
    assert item["required"] == ["constraint", "simplified_query", "category"]
    told = "".join(message["content"] for message in first.messages)
    assert "question" not in told
    assert "{question}" not in told
    assert len(asked) == 2
    for request in asked:
        assert (request.schema, request.query) == (QUESTION_SCHEMA, PROMPT.query)
        assert request.messages[-1]["content"].startswith(f"Request:\n{PROMPT.query}")
        assert "a yes/no question in English" in request.messages[0]["content"]


async def test_a_constraint_whose_question_never_comes_is_dropped() -> None:
    bare = {key: value for key, value in FRENCH.items() if key != "question"}
    made = recipe(decompose={"calls": 2, "attempts": 2})
    engine = saying(as_json({"constraints": [bare]}), "no JSON", "no JSON")
    client = client_of(made, decomposer=engine)
    assert await decompose(PROMPT, client, made.decompose) == []
    assert [dropped.kind for dropped in client.dropped] == ["not JSON", "not JSON"]


async def test_a_long_paste_has_room_for_each_copy_and_what_stood_before_a_cut_is_kept() -> None:
    paste = "Summarise this in French. " + "The tide came in and went out again. " * 170
    assert len(paste) > 6000
    found = {
        "constraint": "in French",
        "simplified_query": paste.replace(" in French", ""),
        "question": "Is the summary in French?",
        "category": "linguistic",
    }
    whole = reply(found, found)
    engine = saying(Completion(whole[: len(whole) - 40], finish="length"))
    (constraint,) = await run(engine, Prompt(id=1, query=paste), max_constraints=2)
    assert constraint.text == "in French"
    assert engine.asked[0].max_tokens >= 2 * len(paste)  # the scripted engine has a token for each character


@given(st.integers(0, 400))
async def test_a_reply_that_is_cut_anywhere_gives_what_stood_whole(end: int) -> None:
    text = reply(FRENCH, LINES)[:end]
    found = whole_before_the_cut(text)
    assert (found is not None) is ('"linguistic"' in text)
    if found:
        assert found.constraints[0].model_dump(exclude={"check"}) == FRENCH
    assert whole_before_the_cut(f"[{text}") is None  # another shape


async def test_without_its_question_a_constraint_is_no_scenario_but_another_shape() -> None:
    bare = {key: value for key, value in FRENCH.items() if key != "question"}
    with pytest.raises(UnusableReply, match="JSON of another shape") as caught:
        await run(saying(as_json({"constraints": [bare, LINES]})), attempts=1)
    assert (caught.value.stage, caught.value.raw) == ("decomposer", as_json({"constraints": [bare, LINES]}))


async def test_a_row_fails_when_no_try_held() -> None:
    with pytest.raises(UnusableReply, match="no constraint held") as caught:
        await run(saying(*[reply(FRENCH | {"simplified_query": PROMPT.query})] * 3))
    assert "in French" in caught.value.raw


async def test_history_is_shown_and_the_schema_bounds_the_answer() -> None:
    engine = saying(reply())
    history = [Turn(role="user", content="hi there"), Turn(role="assistant", content="hello you")]
    await run(engine, Prompt(id=1, query="shorter, in French", history=history), max_constraints=2)
    last = engine.asked[0].messages[-1]["content"]
    assert last.index("hi there") < last.index("hello you") < last.index("shorter, in French")
    schema = engine.asked[0].schema
    assert schema is not None
    assert schema["properties"]["constraints"]["maxItems"] == 2


@pytest.mark.parametrize("calls", [1, 2])
async def test_where_checkers_are_on_a_decomposer_may_name_one_of_each_constraint(calls: int) -> None:
    checks = [{"name": "in_language", "relation": "exactly", "number": None, "texts": ["French"]},
              {"name": "lines", "relation": "at least", "number": 8, "texts": []}]  # fmt: skip
    found = [{key: one[key] for key in one if calls == 1 or key != "question"} for one in (FRENCH, LINES)]
    whole = as_json({"constraints": [one | {"check": check} for one, check in zip(found, checks, strict=True)]})
    engine = saying(whole, *[as_json({"question": "Is it so?"})] * 2)
    made = recipe(decompose={"calls": calls})
    client = client_of(made, decomposer=engine)
    constraints = await decompose(PROMPT, client, made.decompose, enabled("all"))
    assert [constraint.check for constraint in constraints] == [Check(name="in_language", texts=["French"]), None]
    assert [dropped.kind for dropped in client.dropped] == [SAYS_OTHERWISE]  # at most 8 lines, not at least
    first = engine.asked[0]
    assert first.schema is not None
    assert first.schema["properties"]["constraints"]["items"]["required"][-1] == "check"
    assert "check is null" in first.messages[0]["content"]
