from typing import Any

import pytest

from tests.scripted import ScriptedEngine, as_json, client_of, recipe, saying
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method.decompose import decompose
from ultraif_ray.records import Prompt, Turn

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
        {"simplified_query": "Write a poem about rain in French."},  # took another demand away
        {"simplified_query": "Tell me about the weather in Paris and bring an umbrella."},  # another request
        {"simplified_query": "Rain"},  # nothing of the task left
        {"simplified_query": ""},
        {"constraint": "be funny and rhyme"},  # stands nowhere in the prompt
        {"constraint": ""},
        {"question": "Is it " + "very " * 80 + "French?"},
        {"question": "Is the answer free of spoilers?"},
    ],
)
async def test_a_constraint_that_was_not_taken_away_does_not_count(broken: dict[str, str]) -> None:
    engine = saying(reply(FRENCH | broken), reply(FRENCH | broken, LINES))
    found = await run(engine, attempts=2)
    assert [c.text for c in found] == ["at most 8 lines"]


async def test_a_row_fails_when_no_try_held() -> None:
    with pytest.raises(UnusableReply, match="no constraint that stands in the prompt") as caught:
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
