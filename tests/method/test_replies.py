import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from tests.scripted import Answer, ScriptedEngine, client_of, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import compose, decompose
from ultraif_ray.method.judge import Reasoning, reasoning_schema
from ultraif_ray.method.replies import RETRY_TEMPERATURE, ask_for_json, probability_of_yes


class Number(BaseModel):
    n: int


async def use(reply: Number, raw: str) -> int:
    if reply.n < 0:
        raise UnusableReply("decomposer", "negative", raw)
    return reply.n


async def ask(engine: ScriptedEngine, attempts: int = 3) -> int:
    client = client_of(recipe(), decomposer=engine)
    return await ask_for_json(client, "decomposer", [], "", {"type": "object"}, Number, use, attempts)


async def test_a_reply_that_can_be_used_ends_the_asking() -> None:
    engine = saying('{"n": 3}')
    assert await ask(engine) == 3
    assert engine.asked[0].temperature == 0.0
    assert engine.asked[0].schema == {"type": "object"}


async def test_a_second_try_is_warmer_since_temperature_zero_would_say_the_same() -> None:
    engine = saying("{", '{"n": 1}')
    assert await ask(engine) == 1
    assert [request.temperature for request in engine.asked] == [0.0, RETRY_TEMPERATURE]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("no JSON at all", "not JSON"),
        ("", "not JSON"),
        ("[1]", "JSON of another shape"),
        ('{"m": 1}', "JSON of another shape"),
        ('{"n": "__import__(\'os\')"}', "JSON of another shape"),
        (Completion('{"n": 1}', finish="length"), "cut off"),
        ('{"n": -1}', "negative"),
    ],
)
async def test_after_the_last_try_the_reason_and_the_raw_text_are_kept(reply: Answer, reason: str) -> None:
    engine = saying('{"n": -2}', reply)
    with pytest.raises(UnusableReply) as caught:
        await ask(engine, attempts=2)
    assert caught.value.kind == reason
    assert caught.value.raw == (reply.text if isinstance(reply, Completion) else reply)
    assert len(engine.asked) == 2


@given(st.text())
async def test_no_reply_makes_anything_but_an_unusable_reply(text: str) -> None:
    try:
        await ask(saying(text), attempts=1)
    except UnusableReply as unusable:
        assert unusable.raw == text  # noqa: PT017 - either end is right; this one must keep the text


async def test_what_was_no_use_is_noted_while_the_row_goes_on() -> None:
    client = client_of(recipe(), decomposer=saying("{", '{"n": -1}', '{"n": 1}'))
    assert await ask_for_json(client, "decomposer", [], "", {}, Number, use, 3) == 1
    assert [(dropped.stage, dropped.kind) for dropped in client.dropped] == [
        ("decomposer", "not JSON"),
        ("decomposer", "negative"),
    ]


async def test_a_reply_that_repeats_the_query_has_room_for_it_and_twice_as_much_where_it_was_cut() -> None:
    short, long = "Summarise this.", "x" * 6000
    cut = Completion("{", finish="length")
    for query in (short, long):
        engine = saying(cut, cut, '{"n": 1}')
        client = client_of(recipe(), decomposer=engine)
        await ask_for_json(client, "decomposer", [], query, {}, Number, use, 3, copies=4)
        first = 2048 + 4 * math.ceil(1.25 * len(query))  # the scripted engine has a token for each character
        assert [request.max_tokens for request in engine.asked] == [first, 2 * first, 4 * first]
        assert [dropped.reason for dropped in client.dropped] == [
            f"cut off, with room for {first} tokens",
            f"cut off, with room for {2 * first} tokens",
        ]


async def test_what_stood_whole_before_a_cut_is_used() -> None:
    client = client_of(recipe(), decomposer=saying(Completion('{"n": 7, "m": [', finish="length")))
    reply = await ask_for_json(client, "decomposer", [], "", {}, Number, use, 1, rescue=lambda text: Number(n=7))
    assert reply == 7
    assert [dropped.kind for dropped in client.dropped] == ["cut off"]


def test_the_probability_of_yes_is_among_the_two_labels() -> None:
    both = {"Yes": math.log(0.3), "No": math.log(0.1), "Maybe": math.log(0.6)}
    assert probability_of_yes(both, ("Yes", "No")) == pytest.approx(0.75)
    assert probability_of_yes({"No": -0.1}, ("Yes", "No")) == 0.0
    assert probability_of_yes({"Maybe": -0.1}, ("Yes", "No")) is None


FOUND = {"constraint": "in French", "simplified_query": "Write", "question": "Is it?", "category": "format"}
BARE = {key: value for key, value in FOUND.items() if key != "question"}
VERDICT = {"explanation": "It is.", "answer": "YES"}
SCHEMAS: list[tuple[Callable[[], dict[str, Any]], type[BaseModel], Any, list[Any]]] = [
    (
        lambda: decompose.reply_schema(2),
        decompose.Decomposition,
        {"constraints": [FOUND, FOUND]},
        [{"constraints": []}, {"constraints": [FOUND] * 3}, {"constraints": [BARE]}],
    ),
    (
        lambda: decompose.reply_schema(2, questions=False),
        decompose.Decomposition,
        {"constraints": [BARE, BARE]},
        [{"constraints": []}, {"constraints": [BARE] * 3}, {"constraints": [FOUND]}],
    ),
    (lambda: decompose.QUESTION_SCHEMA, decompose.Question, {"question": "Is it?"}, [{"question": ""}]),
    (
        lambda: compose.reply_schema(compose.Composed, 3),
        compose.Composed,
        {"augmented query": "Write more", "question": ["Is it?"]},
        [{"augmented query": "x", "question": ["?"] * 3}, {"augmented query": "x", "question": ["?"] * 4}],
    ),
    (
        lambda: compose.reply_schema(compose.Addition, 1),
        compose.Addition,
        {"addition": "More", "question": ["Is it?"]},
        [{"addition": "", "question": ["?"]}, {"addition": "", "question": []}],
    ),
    (
        lambda: reasoning_schema(["1", "2"]),
        Reasoning,
        {"1": VERDICT, "2": VERDICT},
        [{"1": VERDICT, "2": VERDICT | {"answer": "NO"}}, {"1": VERDICT}],
    ),
]
"""Each with what reads such a reply, a good one, and then one more that is just within its bounds and others beyond."""


def broken(value: Any) -> Iterator[Any]:
    """A reply with one thing wrong at one place: a key that lacks or is too many, a value of another type."""
    if isinstance(value, dict):
        yield value | {"more": "x"}
        for key, inner in value.items():
            yield {name: one for name, one in value.items() if name != key}
            yield from (value | {key: wrong} for wrong in broken(inner))
            if key in ("answer", "category"):
                yield value | {key: inner.swapcase()}
        yield []
    elif isinstance(value, list):
        yield from ([wrong, *value[1:]] for wrong in broken(value[0]))
        yield {}
    else:
        yield 3


@pytest.mark.parametrize(("made", "reply_model", "good", "others"), SCHEMAS)
def test_a_schema_lets_by_what_its_step_reads_and_nothing_else(
    made: Callable[[], dict[str, Any]], reply_model: type[BaseModel], good: Any, others: list[Any]
) -> None:
    schema = made()
    Draft202012Validator.check_schema(schema)
    held = Draft202012Validator(schema)
    within, *beyond = others
    for reply in (good, within):
        assert held.is_valid(reply)
        reply_model.model_validate(reply)
    for reply in (*beyond, *broken(good)):
        assert not held.is_valid(reply), reply
