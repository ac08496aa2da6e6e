import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import ScriptedEngine, as_json, client_of, labels, recipe, saying
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method.checkers.naming import SAYS_OTHERWISE
from ultraif_ray.method.compose import LEAKS, Addition, Composed, compose, put_behind, reply_schema
from ultraif_ray.method.contamination import known, save
from ultraif_ray.method.prompts import composer_answer, composer_request, query_of_composer_request
from ultraif_ray.records import AddedConstraint, Check, Instruction, Turn

START = Instruction(initial_query="Write about rain.")
GOOD = as_json({"augmented query": "Write about rain in two lines.", "question": ["Does it have two lines?"]})


def answer(query: str, *questions: str) -> str:
    return as_json({"augmented query": query, "question": questions})


async def run(engine: ScriptedEngine, previous: Instruction = START, **settings: Any) -> Instruction:
    made = recipe(synthesize=settings)
    return await compose(previous, "format", client_of(made, composer=engine), made.synthesize)


async def test_a_round_adds_one_constraint_and_its_question() -> None:
    first = await run(saying(GOOD))
    assert first.query == "Write about rain in two lines."
    assert (first.level, first.questions, first.simpler_query) == (1, ["Does it have two lines?"], START.query)
    second = await run(saying(answer("Write about rain in two lines that rhyme.", "Do the lines rhyme?")), first)
    assert second.level == 2
    assert second.questions == ["Does it have two lines?", "Do the lines rhyme?"]
    assert (second.initial_query, second.simpler_query) == (START.query, first.query)


async def test_a_constraint_keeps_its_round_category_text_and_questions() -> None:
    first = await run(saying(GOOD))
    (added,) = first.added
    assert added == AddedConstraint(
        round=1,
        category="format",
        text="in two lines",
        query="Write about rain in two lines.",
        questions=["Does it have two lines?"],
    )


async def test_a_composer_may_write_the_constraint_alone_which_is_put_behind_the_query() -> None:
    made = recipe(templates="small", synthesize={"attempts": 2})
    engine = saying(
        as_json({"addition": "Write to me about rain.", "question": ["Is it about rain?"]}),
        as_json({"addition": "Use two lines.", "question": ["Does it have two lines?"]}),
    )
    client = client_of(made, composer=engine)
    start = Instruction(initial_query="Write to me about rain.")
    (added,) = (await compose(start, "format", client, made.synthesize)).added
    assert (added.query, added.text) == ("Write to me about rain. Use two lines.", "Use two lines")
    assert added.questions == ["Does it have two lines?"]
    assert [dropped.kind for dropped in client.dropped] == ["the query stands there twice"]
    assert list(engine.asked[0].schema["properties"]) == ["addition", "question"]  # type: ignore[index]
    assert json.loads(engine.asked[0].messages[2]["content"])["addition"] == "List exactly 8 things."


@pytest.mark.parametrize(
    ("query", "addition", "together"),
    [
        ("why is the sky blue", "Answer in verse.", "why is the sky blue. Answer in verse."),
        ("why is the sky blue? ", " Answer in verse.", "why is the sky blue? Answer in verse."),
        ("list fruits", ", by colour", "list fruits, by colour"),
        ("Fix this:\n\nx = 1;", "Use no loop.", "Fix this:\n\nx = 1;\n\nUse no loop."),
        ("Write.", " ", "Write."),
        ("pick option B", "Xerox it.", "pick option B. Xerox it."),
    ],
)
def test_where_an_addition_is_put(query: str, addition: str, together: str) -> None:
    assert put_behind(query, addition) == together


async def test_what_makes_a_benchmarks_prompt_of_a_query_is_dropped_and_counted(tmp_path: Path) -> None:
    asked = "Write about rain over the harbour of a town where nobody owns an umbrella, in two lines."
    (tmp_path / "own.npz").write_bytes(save([known("own", "17", asked)]))
    made = recipe(decontaminate={"benchmarks": "none", "index": str(tmp_path / "own.npz")})
    reply = answer(asked, "Does it have two lines?")
    client = client_of(made, composer=saying(reply, GOOD))
    assert (await compose(START, "format", client, made.synthesize)).query == "Write about rain in two lines."
    (dropped,) = client.dropped
    assert (dropped.stage, dropped.kind, dropped.raw) == ("composer", "contaminated", reply)
    assert dropped.reason == "contaminated: 100% of own 17"
    client = client_of(made, composer=saying(reply, reply, reply))
    with pytest.raises(UnusableReply, match="contaminated"):
        await compose(START, "format", client, made.synthesize)
    plain = recipe(decontaminate={"benchmarks": "none"})
    client = client_of(plain, composer=saying(reply))
    assert (await compose(START, "format", client, plain.synthesize)).query == asked


async def test_the_schema_is_the_same_for_all_queries_and_bounds_no_text() -> None:
    engine = saying(GOOD, GOOD)
    await run(engine)
    await run(engine, Instruction(initial_query="Write about rain. " * 2))
    assert engine.asked[0].schema == engine.asked[1].schema
    assert not {"maxLength", "minLength", "pattern"} & set(re.findall(r"\w+", json.dumps(engine.asked[0].schema)))


async def test_the_check_by_model_refuses_what_the_text_lets_by_and_none_takes_what_it_refuses() -> None:
    verdicts = iter([0.2, 0.9])
    engine = ScriptedEngine(lambda request, number: labels(next(verdicts)) if request.labels else GOOD)
    assert (await run(engine, check="model", attempts=2)).level == 1
    assert [bool(request.labels) for request in engine.asked] == [False, True, False, True]
    lost = answer("Sing a song of snow and ice", "Is it a song?")
    assert (await run(saying(lost), check="none")).query == "Sing a song of snow and ice"
    for unchanged in (START.query, " "):
        reply = answer(unchanged, "Is it a song?")
        with pytest.raises(UnusableReply) as caught:
            await run(saying(reply), check="none", attempts=1)
        assert (caught.value.stage, caught.value.kind, caught.value.raw) == ("composer", "query left as it was", reply)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer("Write about rain.", "Is it about rain?"), "query left as it was"),
        (answer("about rain: write", "Is it about rain?"), "query left as it was"),
        (answer("Sing a song of snow and ice", "Is it a song?"), "loses the subject of the query"),
        (answer("Write about rain in two lines."), "no new question"),
        (answer("Write about rain in two lines.", " "), "no new question"),
        (answer("Write about rain as an augmented query.", "Is it one?"), "leaks its own instructions"),
        (answer("Write about rain in two lines.", "Write two lines."), "no new question"),
        ('{"augmented query": "Write about rain in', "not JSON"),
    ],
)
async def test_what_is_no_answer_is_sampled_again_and_then_fails(reply: str, reason: str) -> None:
    assert (await run(saying(reply, GOOD), attempts=2)).level == 1
    with pytest.raises(UnusableReply) as caught:
        await run(saying(reply), attempts=1)
    assert caught.value.kind == reason


async def test_a_question_asked_before_is_not_new() -> None:
    previous = await run(saying(GOOD))
    with pytest.raises(UnusableReply, match="no new question"):
        await run(saying(answer(previous.query + " Slowly.", *previous.questions)), previous, attempts=1)


async def test_in_other_languages_a_question_need_not_share_words_with_the_query() -> None:
    previous = Instruction(initial_query="Écris sur la pluie.")
    assert (
        await run(saying(answer("Écris sur la pluie en deux lignes.", "Are there two lines?")), previous)
    ).level == 1


async def test_words_of_the_prompt_itself_are_no_leak() -> None:
    previous = Instruction(initial_query=f"Explain the words {LEAKS[0]}.")
    assert (await run(saying(answer(f"Explain the words {LEAKS[0]} in French.", "Is it French?")), previous)).level == 1


def test_the_trained_composers_form_is_the_released_checkpoints() -> None:
    history = [Turn(role="user", content="hi"), Turn(role="assistant", content="it's me")]
    assert composer_request([], "Write.") == "[history]: [] \n [initial query]: Write."
    assert composer_request(history, "Go on.") == (
        "[history]: [{'from': 'human', 'value': 'hi'}, {'from': 'gpt', 'value': \"it's me\"}]"
        " \n [initial query]: Go on."
    )
    alone = composer_request([Turn(role="system", content="Be kind.")], "Go on.")
    assert alone == "[history]: [{'from': 'system', 'value': 'Be kind.'}] \n [initial query]: Go on."
    assert composer_answer('Say "é".', "Is it é?") == '{"augmented query": "Say \\"é\\".", "question": ["Is it é?"]}'


@given(
    history=st.lists(
        st.builds(Turn, role=st.sampled_from(["user", "assistant", "system"]), content=st.text()), max_size=3
    ),
    query=st.text() | st.just(" \n [initial query]: x"),
)
def test_the_query_is_found_again_in_a_composers_request(history: list[Turn], query: str) -> None:
    assert query_of_composer_request(composer_request(history, query)) == query
    pasted = [*history, Turn(role="assistant", content=composer_request([], query))]
    assert query_of_composer_request(composer_request(pasted, query)) == query


@pytest.mark.parametrize("templates", ["large", "small"])
async def test_a_trained_composer_is_asked_in_its_own_form_without_a_system_prompt(templates: str) -> None:
    engine = saying(answer("Write about rain in two lines.", "Does it have two lines?", "Are there two lines?"))
    made = recipe(templates=templates)
    roles = made.roles.model_copy(update={"composer": made.roles.composer.model_copy(update={"trained": True})})
    client = client_of(made.model_copy(update={"roles": roles}), composer=engine)
    composed = await compose(START, "format", client, made.synthesize)
    assert engine.asked[0].messages == [{"role": "user", "content": composer_request([], START.query)}]
    assert len(composed.questions) == 2  # the released checkpoint may ask several
    assert composed.added[0].category == ""  # it chose by itself
    assert (engine.asked[0].schema, engine.asked[0].max_tokens) == (reply_schema(Composed, 3), 1024 + COPY)


COPY = math.ceil(1.25 * len(START.query))
"""Tokens for the query in JSON: the scripted engine has one for each character."""


@pytest.mark.parametrize(
    ("templates", "reply", "bound"),
    [
        ("large", {"augmented query": f"{START.query} In two lines.", "question": ["Is it two?"]}, 1024 + COPY),
        ("small", {"addition": "In two lines.", "question": ["Is it two?"]}, 1024),
    ],
)
async def test_a_prompted_composer_asks_one_question_and_has_room_for_the_query_where_it_repeats_it(
    templates: str, reply: dict[str, Any], bound: int
) -> None:
    made, engine = recipe(templates=templates), saying(as_json(reply))
    await compose(START, "format", client_of(made, composer=engine), made.synthesize)
    kind = Composed if "augmented query" in reply else Addition
    assert (engine.asked[0].schema, engine.asked[0].max_tokens) == (reply_schema(kind, 1), bound)


async def test_where_checkers_are_on_a_composer_may_name_one_and_what_the_constraint_does_not_say_is_dropped() -> None:
    query, question = "Write about rain in exactly two lines.", ["Does it have two lines?"]
    lines = {"name": "lines", "relation": "exactly", "number": 2, "texts": []}
    named = [lines, lines | {"number": 3}, None]
    engine = saying(*[as_json({"augmented query": query, "question": question, "check": check}) for check in named])
    made = recipe(synthesize={"checkers": ["length"]})
    client = client_of(made, composer=engine)
    checks = [(await compose(START, "format", client, made.synthesize)).added[0].check for _ in named]
    assert checks == [Check(name="lines", relation="exactly", number=2), None, None]
    assert [dropped.kind for dropped in client.dropped] == [SAYS_OTHERWISE]
    schema = engine.asked[0].schema
    assert schema is not None
    assert schema["required"] == ["augmented query", "question", "check"]
    names = schema["properties"]["check"]["anyOf"][0]["properties"]["name"]["enum"]
    assert names == ["words", "sentences", "paragraphs", "lines", "characters"]


ROLES = {role: {"pool": f"{role}s"} for role in ("decomposer", "responder")} | {"judge": {"pool": "responders"}}


@pytest.mark.parametrize(("setting", "trained"), [("all", True), ("none", False)])
async def test_a_trained_composer_and_one_without_checkers_name_none(setting: str, trained: bool) -> None:
    check = {"name": "lines", "relation": "exactly", "number": 2, "texts": []}
    question = ["Does it have two lines?"]
    engine = saying(
        as_json({"augmented query": "Write about rain in two lines.", "question": question, "check": check})
    )
    roles = ROLES | {"composer": {"pool": "composers", "trained": trained}}
    made = recipe(synthesize={"checkers": setting}, roles=roles)
    client = client_of(made, composer=engine)
    (added,) = (await compose(START, "format", client, made.synthesize)).added
    assert added.check is None
    assert client.dropped == []
    assert list(engine.asked[0].schema["properties"]) == ["augmented query", "question"]  # type: ignore[index]
