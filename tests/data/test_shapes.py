"""Records as others publish them, and the turns in them."""

import json
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.data.ingest import Rejection, to_prompts
from ultraif_ray.data.shapes import BadTurns, NoShape, turns_of
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt, Turn


def turned(record: Any) -> tuple[str, list[str]]:
    (item,) = to_prompts(record, "f:1", Ingest())
    assert isinstance(item, Prompt), item
    return item.query, [turn.content for turn in item.history]


def rejected(record: Any) -> str:
    (item,) = to_prompts(record, "f:1", Ingest())
    assert isinstance(item, Rejection), item
    return item.reason


def chat(*texts: Any, role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    return [{role: ("user", "assistant")[i % 2], content: text} for i, text in enumerate(texts)]


CHAT = chat("hi", "yes?", "ask")
COLUMNS = {"from": ["human", "gpt", "human"], "value": ["hi", "yes?", "ask"]}
ASKED = ("ask", ["hi", "yes?"])


@pytest.mark.parametrize(
    "record",
    [
        {"messages": json.dumps(CHAT)},
        {"conversations": json.dumps(chat("hi", "yes?", "ask", role="from", content="value"))},
        {"messages": str(CHAT)},
        {"messages": json.dumps(CHAT).encode()},
        {"prompt": json.dumps(CHAT)},
        {"prompt": str(CHAT)},
        {"conversations": COLUMNS},
        {"conversations": json.dumps(COLUMNS)},
        {"messages": chat("hi", "yes?", "ask", content="text")},
        {"messages": chat("hi", "yes?", "ask", content="message")},
        {"messages": [{"role": "user", "parts": [{"text": "hi"}]}, *CHAT[1:]]},
        {"messages": [{**turn, "value": None} for turn in CHAT]},
        {"conversation": [["hi", "yes?"], {"role": "user", "content": "ask"}]},
        {"id": "0", "data": ["hi", "yes?", "ask", "told"]},
        {"conversation_a": CHAT, "conversation_b": chat("hi", "no?", "ask"), "winner": "model_a"},
        {"conversation_a": chat("hi", "no?", "ask"), "conversation_b": CHAT, "winner": "model_b"},
        {"prompt": '["hi", "ask"]', "response_a": '["yes?", "told"]', "response_b": '["no?", null]'},
        {"prompt": ["hi", "ask"], "response_a": ["no?", "x"], "response_b": ["yes?", None], "winner_model_b": 1},
        {"prompt": "ask", "history": [["hi", "yes?"]]},
        {"instruction": "ask", "output": "told", "history": '[["hi", "yes?"]]'},
        {"query": "ask", "history": ["hi", "yes?"]},
        {"instruction": "ask", "history": [{"value": "hi"}, {"value": "yes?"}]},
        {"prompt": [{"role": "user", "content": "ask"}], "history": CHAT[:2]},
        {"messages": [turn | {"role": role} for turn, role in zip(CHAT, ("Human", "AI", " user"), strict=True)]},
        {"messages": [turn | {"role": role} for turn, role in zip(CHAT, ("user", "chatbot", "user"), strict=True)]},
        {"messages": [], "prompt": "ask", "history": [["hi", "yes?"]]},
        {"prompt": {"text": "hi", "role": "prompter", "replies": [
            {"text": "no?", "role": "assistant", "rank": 1, "replies": []},
            {"text": "yes?", "role": "assistant", "rank": 0, "replies": [
                {"text": "ask", "role": "prompter", "replies": [{"text": "told", "role": "assistant", "rank": None}]}]},
        ]}, "message_tree_id": "x"},
    ],
)  # fmt: skip
def test_a_conversation_in_every_form(record: Any) -> None:
    assert turned(record) == ASKED


@pytest.mark.parametrize(
    ("record", "query"),
    [
        ({"instruction": "Who?", "context": "Edda, in 1804.", "response": "x"}, "Who?\n\nEdda, in 1804."),
        ({"question": "Who?", "context": ["Edda,", "in 1804."]}, "Who?\n\nEdda,\n\nin 1804."),
        ({"question": "Who?", "passage": "Edda."}, "Who?\n\nEdda."),
        ({"prompt": "Who?", "input": "Edda.", "context": ""}, "Who?\n\nEdda."),
        ({"prompt": "Read: Edda. Who?", "input": "Edda."}, "Read: Edda. Who?"),
        ({"instruction": "Who?", "context": float("nan")}, "Who?"),
        ({"prompt": None, "instruction": "two"}, "two"),
        ({"prompt": " ", "messages": [], "query": "two"}, "two"),
        ({"prompt": float("nan"), "question": "two"}, "two"),
        ({"messages": None, "conversations": [], "prompt": "two"}, "two"),
        ({"data": "2026-05-01", "prompt": "two"}, "two"),
        ({"data": [{"id": 1}], "prompt": "two"}, "two"),
        ({"prompt": b"two"}, "two"),
        ({"prompt": '{"a": [1, 2], "b": [1]}'}, '{"a": [1, 2], "b": [1]}'),
        ({"prompt": "[1, 2] and [3]: sort these"}, "[1, 2] and [3]: sort these"),
        ({"prompt": '["a", "b"]'}, '["a", "b"]'),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "One:"}, "two"]}]}, "One:\ntwo"),
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "one"}]}]}, "one"),
        ({"messages": '[{"role": "user", "content": [{"type": "text", "text": "one"}]}]'}, "one"),
    ],
)
def test_nothing_of_a_question_is_left_out(record: Any, query: str) -> None:
    assert turned(record) == (query, [])


SYSTEM = [{"role": "system", "content": "Rule one."}, {"role": "developer", "content": "Rule two."}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*SYSTEM, {"role": "user", "content": "ask"}]},
        {"system_prompt": "Rule one.", "messages": [SYSTEM[1], {"role": "user", "content": "ask"}]},
        {"system_prompt": "Rule one.", "prompt": [SYSTEM[1], {"role": "user", "content": "ask"}]},
        {"system_prompt": "Rule one.", "system": "Rule two.", "prompt": "ask"},
        {"system": "Rule one.\n\nRule two.", "prompt": [{"role": "user", "content": "ask"}]},
        {"system": "Rule one.", "instruction": "ask", "history": [SYSTEM[1]]},
        {"system": "Rule one.", "messages": [*SYSTEM, {"role": "user", "content": "ask"}]},
        {"messages": [SYSTEM[0], {"from": "gpt", "value": "hello"}, SYSTEM[1], {"role": "user", "content": "ask"}]},
    ],
)  # fmt: skip
def test_system_messages_before_the_first_question_are_one(record: Any) -> None:
    assert turned(record) == ("ask", ["Rule one.\n\nRule two."])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": "[{'role': 'user'"}, "broken turn"),
        ({"messages": '[["a"]]'}, "broken turn"),
        ({"conversations": {"from": ["human"], "value": ["a", "b"]}}, "broken turn"),
        ({"turns": ["one", "two"]}, "broken turn"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "not text alone"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "not text alone"),
        ({"messages": [{"role": None, "content": "a"}]}, "broken turn"),
        ({"messages": [{"role": "user"}]}, "broken turn"),
        ({"messages": ""}, "empty"),
        ({"messages": None, "prompt": None}, "empty"),
        ({"prompt": 5}, "broken turn"),
        ({"prompt": b"\xff"}, "not UTF-8"),
        ({"instruction": "Who?", "context": {"text": "Edda"}}, "broken context"),
        ({"prompt": "a", "history": "User: hi"}, "broken history"),
        ({"prompt": "a", "history": [["hi"]]}, "broken history"),
        ({"prompt": "a", "history": [3]}, "broken history"),
        ({"prompt": "a", "history": ["hi"]}, "broken history"),
        ({"prompt": [{"role": "user", "content": "a"}, "b"]}, "broken turn"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_counted_with_its_reason(record: Any, reason: str) -> None:
    assert rejected(record) == reason


@pytest.mark.parametrize(
    "record",
    [
        {"text": "a book"}, {"data": "a"}, {"data": [{"prompt": "a"}]}, {"role": "user", "content": "a"},
        {"messages": 3}, {"chosen": "a", "rejected": "b"}, {"conversation": "c-12"},
    ],
)  # fmt: skip
def test_what_has_no_such_shape_is_none(record: Any) -> None:
    with pytest.raises(NoShape):
        turns_of(record)


KEYS = ["from", "role", "value", "content", "text", "type", "replies", "rank"]
FIELDS = ["messages", "conversations", "data", "turns", "conversation_a", "prompt", "instruction", "input", "context",
          "history", "system", "response_a", "winner"]  # fmt: skip
values = st.recursive(
    st.none() | st.text(max_size=4) | st.integers() | st.floats() | st.binary(max_size=3)
    | st.sampled_from(['["a"]', '[{"role": "user", "content": "a"}]', "{'from': ['x'], 'value': []}", "[0777, '\\d']"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_any_record_gives_turns_or_says_why_not_and_warns_of_nothing(record: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turns: list[Turn] = []
        with suppress(NoShape, BadTurns):
            turns = turns_of(record)
    assert all(isinstance(turn.content, str) for turn in turns)
