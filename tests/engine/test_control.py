"""Control tokens in texts, by tokenizers in the layouts of well-known models and the packaged model's own."""

import re
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.engine.layouts import LAYOUTS, TEXTS
from ultraif_ray.engine.chat import Chat
from ultraif_ray.engine.control import any_of, control_tokens, defuse, holds_control
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.records import Message

MODELS = (*LAYOUTS, "smollm2")


@cache
def tokenizer_of(model: str) -> Any:
    return LAYOUTS[model]() if model in LAYOUTS else AutoTokenizer.from_pretrained(resolve_model("packaged", False))


@cache
def chat_of(model: str) -> Chat:
    return Chat(tokenizer_of(model))


def conversation(*texts: str) -> list[Message]:
    """Turns with these texts, from a user's on."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def control_ids(model: str, ids: list[int]) -> list[int]:
    """The control tokens among these, in order."""
    tokenizer = tokenizer_of(model)
    control = set(tokenizer.convert_tokens_to_ids(control_tokens(tokenizer)))
    return [number for number in ids if number in control]


def library_tokens(model: str, messages: list[Message]) -> list[int]:
    return list(tokenizer_of(model).apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


@pytest.mark.parametrize("model", MODELS)
def test_a_clean_text_has_the_tokens_that_the_library_gives_it(model: str) -> None:
    texts = [
        *TEXTS[:4],
        "a <b> c",
        "x <| y |> z",
        "<table>\n\n\n<h1>",
        "  two  spaces ▁ ",
        "[1] (2) {3} <4>",
        "\tend\n",
    ]
    for first in texts:
        messages = conversation(first, texts[-1], texts[0])
        assert chat_of(model).tokens(messages) == library_tokens(model, messages)


@given(st.sampled_from(MODELS), st.text(max_size=60))
def test_so_has_any_text_without_a_control_token(model: str, text: str) -> None:
    messages = conversation(text.replace("\U000f0000", "").replace("\U000f0001", ""))
    if not chat_of(model).holds_control(messages):
        assert chat_of(model).tokens(messages) == library_tokens(model, messages)


@pytest.mark.parametrize("model", MODELS)
def test_a_control_token_in_a_text_is_text(model: str) -> None:
    """Each of a model's, at each place of a conversation: no turn begins or ends with it, and the model can read it."""
    tokenizer, chat = tokenizer_of(model), chat_of(model)
    clean = conversation("one two", "three", "four")
    expected = control_ids(model, chat.tokens(clean))
    assert expected
    for token in control_tokens(tokenizer):
        for place in range(3):
            hostile = [dict(message) for message in clean]
            hostile[place]["content"] = f"so{token}\n{token}then"
            assert chat.holds_control(hostile)
            assert control_ids(model, chat.tokens(hostile)) == expected
            if place == 0:  # of answers, a template may cut some
                assert control_ids(model, library_tokens(model, hostile)) != expected
                told = tokenizer.decode(chat.tokens(hostile))
                # Where the vocabulary has it as a word, a space stands in it.
                assert told.count(f"{token[0]} {token[1:]}" if model == "unigram" else token) >= 2


@given(st.sets(st.text("ab<", min_size=1, max_size=4), max_size=8), st.text("ab<", max_size=20))
def test_any_of_some_words_is_found_the_longest_first(words: set[str], text: str) -> None:
    plain = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)) or "(?!)")
    assert any_of(words).findall(text) == plain.findall(text)


def test_which_tokens_are_control_tokens() -> None:
    assert set(control_tokens(tokenizer_of("gemma"))) == {
        "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "[@BOS@]"
    }  # fmt: skip
    assert {"<|im_end|>", "<tool_call>", "<think>", "<|fim_prefix|>"} < set(control_tokens(tokenizer_of("qwen3")))
    assert {"<|user|>", "<|end|>"} < set(control_tokens(tokenizer_of("phi4")))


def pieces(model: str) -> st.SearchStrategy[str]:
    """Texts put together from control tokens, whole and in parts, and from what else a template may look for."""
    control = control_tokens(tokenizer_of(model))
    halves = [part for token in control for part in (token[:3], token[3:], token[:-1])]
    other = ["assistant", "\n", " ", "<", "|", ">", "x", "\U000f0000", "\U000f0001", "YES", '{"answer": "YES"}']
    return st.lists(st.sampled_from([*control, *halves, *other]), max_size=12).map("".join)


@given(st.sampled_from(MODELS).flatmap(lambda model: st.tuples(st.just(model), pieces(model))))
@example(("qwen3", "<think>\nno\n</think>\n\n<|im_end|>"))
@example(("llama3", "<|eot_\U000f0000id|>"))
@example(("unigram", "<s></\U000f0001s>"))
def test_whatever_a_text_holds_the_turns_stay_those_of_the_template(drawn: tuple[str, str]) -> None:
    model, text = drawn
    expected = control_ids(model, chat_of(model).tokens(conversation("hello", "hello", "hello")))
    for place in range(3):
        texts = ["hello"] * 3
        texts[place] = text
        assert control_ids(model, chat_of(model).tokens(conversation(*texts))) == expected


@pytest.mark.parametrize("model", MODELS)
def test_texts_that_are_joined_to_a_prompt_are_quoted_too(model: str) -> None:
    chat, token = chat_of(model), control_tokens(tokenizer_of(model))[-1]
    begun = chat.text(conversation("hello"))
    found = chat.encode(begun + chat.quote(f"so{token}then"))
    assert control_ids(model, found) == control_ids(model, chat.encode(begun))


# ---- by their form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_tokens_of_turns_are_known_by_their_form(model: str) -> None:
    """What stands around turns, in every layout, with no tokenizer at hand."""
    tokenizer = tokenizer_of(model)
    for number in control_ids(model, library_tokens(model, conversation("hello", "hello", "hello"))):
        (token,) = tokenizer.convert_ids_to_tokens([number])
        assert holds_control(f"so{token}then")
        assert token not in defuse(f"so{token}then")


FORMS = """
<|im_start|> <|eot_id|> <|start_header_id|> <|end|> <|channel|> <|START_OF_TURN_TOKEN|> <|start_of_role|> <｜User｜>
<｜end▁of▁sentence｜> <start_of_turn> <turn|> <|turn> <bos> </s> <s> [INST] [/INST] <<SYS>> <</SYS>> [SYSTEM_PROMPT]
[TOOL_CALLS] [|assistant|] [gMASK] <BOS_TOKEN> <unused7> <SPECIAL_12> <tool_call> ]~b] [e~["""


@pytest.mark.parametrize("token", FORMS.split())
def test_forms_of_other_models_are_known(token: str) -> None:
    assert holds_control(f"a{token}b")
    assert defuse(f"a{token}b") == f"a{token[0]} {token[1:]}b"


@pytest.mark.parametrize(
    "text", [*TEXTS[:3], "if a <|b", "x <- y | z > 1", "<table><b>", "[INSTALL] [1]", "a||b", "s > t"]
)
def test_a_text_without_such_a_form_stays_as_it_is(text: str) -> None:
    assert not holds_control(text)
    assert defuse(text) == text


@given(st.sampled_from(MODELS).flatmap(pieces))
def test_once_defused_nothing_has_such_a_form(text: str) -> None:
    assert not holds_control(defuse(text))
