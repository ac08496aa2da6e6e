import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.scripted import Answer, ScriptedEngine, client_of, recipe, saying
from ultraif_ray.engine.protocol import Completion
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method.replies import (
    QUESTION_PATTERN,
    RETRY_TEMPERATURE,
    ask_for_json,
    asks_about,
    is_english,
    loops,
    overlap,
    string_limit,
    words,
)


class Number(BaseModel):
    n: int


def use(reply: Number, raw: str) -> int:
    if reply.n < 0:
        raise UnusableReply("judge", "negative", raw)
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
        (Completion('{"n": 1}', finish="length"), "cut off by max_tokens"),
        ('{"n": -1}', "negative"),
    ],
)
async def test_after_the_last_try_the_reason_and_the_raw_text_are_kept(reply: Answer, reason: str) -> None:
    engine = saying('{"n": -2}', reply)
    with pytest.raises(UnusableReply) as caught:
        await ask(engine, attempts=2)
    assert caught.value.reason == reason
    assert caught.value.raw == (reply.text if isinstance(reply, Completion) else reply)
    assert len(engine.asked) == 2


@given(st.text())
async def test_no_reply_makes_anything_but_an_unusable_reply(text: str) -> None:
    try:
        await ask(saying(text), attempts=1)
    except UnusableReply as unusable:
        assert unusable.raw == text  # noqa: PT017 - either end is right; this one must keep the text


def test_words_are_cased_alike_and_scripts_without_spaces_are_split() -> None:
    assert words("Don't PANIC, 42!") == ["don", "t", "panic", "42"]
    assert words("红烧肉 x") == ["红", "烧", "肉", "x"]


def test_english_is_told_from_other_languages() -> None:
    assert is_english("What is the best way?")
    for text in ("Dame tres ideas para la cena", "Schreib mir etwas in einem Satz", "Explique la pluie", "红烧肉", ""):
        assert not is_english(text)


def test_a_question_is_about_what_it_shares_a_word_with() -> None:
    assert asks_about("Do the lines rhyme?", "that rhymes")
    assert not asks_about("Is the answer free of spoilers?", "in the end")


def test_a_loop_is_seen() -> None:
    assert loops("and so " * 8)
    assert loops("B-" * 30)
    assert not loops("no no no, a normal text with the the words twice")


def test_overlap() -> None:
    assert overlap("a b", "b A c") == 1.0
    assert overlap("a b c d", "a") == 0.25
    assert overlap("...", "a") == 0.0


@given(st.integers(0, 100_000))
def test_string_limits_hold_the_text_and_are_few(n: int) -> None:
    limit = string_limit(n)
    assert n <= limit <= max(256, 2 * n)
    assert limit & (limit - 1) == 0


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Does the answer have 3 lines?", True),
        ("Is it in Spanish?", True),
        ("What is the answer about?", False),
        ("Does it?", False),
        ("Is it short? Is it funny?", False),
        ("Write a poem.", False),
    ],
)
def test_what_counts_as_a_yes_no_question(text: str, fits: bool) -> None:
    assert bool(re.fullmatch(QUESTION_PATTERN, text)) is fits
