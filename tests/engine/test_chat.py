"""Through chat templates that take a system message, refuse it, or drop it."""

from collections.abc import Callable
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.engine.layouts import LAYOUTS
from ultraif_ray.engine.chat import Chat, fold_system
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.engine.thoughts import USUAL, is_open, is_over
from ultraif_ray.errors import RequestRefused
from ultraif_ray.method import prompts
from ultraif_ray.recipe import SHIPPED, Thinking, VllmPool
from ultraif_ray.records import Message, Prompt
from ultraif_ray.templates import load_shipped

TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
RAISES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No room for a system message') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
DROPS = TURNS.replace("messages %}", "messages if m['role'] != 'system' %}")
BREAKS = TURNS.replace("m['role']", "{'user': 'U', 'assistant': 'A'}[m['role']] + ''")

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1."},
    {"role": "user", "content": "Two?"},
]


@pytest.fixture(scope="module")
def tokenizer(packaged_model: str) -> Any:
    return AutoTokenizer.from_pretrained(packaged_model)


def text(tokenizer: Any, template: str | None, messages: list[dict[str, str]] = CONVERSATION, **variables: Any) -> str:
    return str(tokenizer.decode(Chat(tokenizer, template, variables).tokens(messages)))


def test_the_packaged_models_template_takes_a_system_message(tokenizer: Any) -> None:
    assert Chat(tokenizer).takes_system
    assert text(tokenizer, None).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>")
    assert text(tokenizer, None).endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("template", [RAISES, DROPS], ids=["raises", "drops"])
def test_where_a_template_knows_no_system_role_the_first_user_turn_has_the_message(
    tokenizer: Any, template: str
) -> None:
    assert not Chat(tokenizer, template).takes_system
    expected = "<user>Be brief.\n\nOne?<assistant>1.<user>Two?"
    assert text(tokenizer, template).removesuffix("<model>") == expected


def test_a_template_that_breaks_on_the_role_counts_as_one_that_refuses_it(tokenizer: Any) -> None:
    assert text(tokenizer, BREAKS) == "<U>Be brief.\n\nOne?<A>1.<U>Two?"


def test_a_conversation_without_a_system_message_stays_as_it_is(tokenizer: Any) -> None:
    assert Chat(tokenizer, RAISES).fit(CONVERSATION[1:]) == CONVERSATION[1:]
    assert text(tokenizer, TURNS, CONVERSATION[1:]) == "<user>One?<assistant>1.<user>Two?"


def test_a_conversation_that_the_template_cannot_take_is_refused_in_its_words(tokenizer: Any) -> None:
    with pytest.raises(RequestRefused, match="Roles must alternate"):
        Chat(tokenizer, RAISES).tokens(CONVERSATION[2:])


def test_variables_reach_the_template(tokenizer: Any) -> None:
    template = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<no thoughts>{% endif %}"
    assert not text(tokenizer, template).endswith("<no thoughts>")
    assert text(tokenizer, template, enable_thinking=False).endswith("<no thoughts>")


def test_the_template_for_llamas_base_model_writes_its_turns_and_nothing_else(tokenizer: Any) -> None:
    """Above all no header of dates, which the released composer was trained without."""
    template = (SHIPPED / "llama3_chat.jinja").read_text()
    written = tokenizer.apply_chat_template(
        CONVERSATION, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    turns = [f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in CONVERSATION]
    assert written == f"<|begin_of_text|>{''.join(turns)}<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_how_a_template_is_applied_is_no_variable_of_it(tokenizer: Any) -> None:
    """Whatever arguments transformers has for that; tools and documents are shown to the model."""
    arguments = set(signature(tokenizer.apply_chat_template).parameters) - {"tools", "documents", "kwargs"}
    assert len(arguments) > 8
    for name in (*arguments, "messages"):
        with pytest.raises(ValidationError, match=f"{name} says how the template is applied"):
            VllmPool(engine="vllm", model="m", template_args={name: 1})
    assert VllmPool(engine="vllm", model="m", template_args={"documents": []})


def test_a_system_message_that_no_user_turn_follows_becomes_one() -> None:
    assert fold_system(CONVERSATION[:1]) == [{"role": "user", "content": "Be brief."}]


@pytest.mark.parametrize(
    ("model", "variables", "opens", "ends", "thinking"),
    [
        ("qwen3", {}, False, False, USUAL),
        ("qwen3", {"enable_thinking": False}, False, True, USUAL),
        ("qwen3_5_think", {}, True, False, USUAL),
        ("qwen3_5_think", {"enable_thinking": False}, False, True, USUAL),
        ("deepseek_r1_distill", {}, True, False, USUAL),
        ("qwen3_instruct_2507", {}, False, False, USUAL),
        ("gptoss", {}, False, False, Thinking(start="<|channel|>analysis<|message|>")),
    ],
)
def test_whether_a_real_template_begins_a_thought_or_ends_it_shows_in_its_prompt(
    tokenizer: Any, model: str, variables: dict[str, Any], opens: bool, ends: bool, thinking: Thinking
) -> None:
    template = (Path(trl.__file__).parent / "chat_templates" / f"{model}.jinja").read_text()  # as TRL has them
    chat = Chat(tokenizer, template, variables)
    prompt = chat.text([{"role": "user", "content": "Is it wet?"}])
    assert (is_open(prompt, thinking), is_over(prompt, thinking)) == (opens, ends)
    assert chat.encode(prompt) == chat.tokens([{"role": "user", "content": "Is it wet?"}])


# ---- tokens that are kept --------------------------------------------------------------------------------------------


def words_of(tokens: list[AddedToken], prepend: str = "never", normalizer: Any = None) -> Any:
    """A tokenizer with merges of spaces, line breaks and letters, and these tokens. Its template puts text right behind
    each of them.
    """
    letters = ["▁", "\n", *"abcdefghijklmnopqrstuvwxyz<>|[]:. "]
    merges = [("▁", "a"), ("▁", "▁"), ("\n", "\n"), ("a", "b"), (">", "a"), ("\n", "a"), ("|", ">")]
    vocab = {word: number for number, word in enumerate(["<unk>", *letters, *("".join(pair) for pair in merges)])}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    made.decoder = decoders.Metaspace(prepend_scheme=prepend, split=False)
    if normalizer:
        made.normalizer = normalizer
    made.add_tokens(tokens)
    template = "{% for m in messages %}<u>{{ m['content'] }}<e>{{ m['content'] }}{% endfor %}<u>"
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template)


def turns(**how: bool) -> list[AddedToken]:
    return [AddedToken(word, special=True, **{"normalized": False} | how) for word in ("<u>", "<e>")]


def overlapped() -> list[AddedToken]:
    return [*turns(), AddedToken("<u>ab", normalized=False), AddedToken("b<", normalized=False)]


def split() -> Any:
    """Reads its control tokens as text."""
    made = words_of(turns())
    made.split_special_tokens = True
    return made


ODD: dict[str, Callable[[], Any]] = {
    "first": lambda: words_of(turns(), "first"),  # as Llama 2's: a space goes before the whole text alone
    "always": lambda: words_of(turns(), "always"),
    "prepending": lambda: words_of(turns(), normalizer=normalizers.Prepend("▁")),
    "stripping": lambda: words_of(turns(lstrip=True, rstrip=True)),  # as Phi-3's
    "normalised": lambda: words_of(turns(normalized=True), normalizer=normalizers.Replace("<e>a", "b")),
    "single words": lambda: words_of(turns(single_word=True)),
    "overlapped": lambda: words_of(overlapped()),
    "split": split,
}
READERS = (*LAYOUTS, *ODD, "smollm2")


@cache
def reader(name: str) -> Any:
    if name == "smollm2":
        return AutoTokenizer.from_pretrained(resolve_model("packaged", False))
    return (LAYOUTS | ODD)[name]()


@cache
def chat_of(name: str) -> Chat:
    return Chat(reader(name))


def whole(name: str, messages: list[Message]) -> list[int]:
    """The tokens of a conversation as the tokenizer reads it from its first letter to its last."""
    return list(reader(name)(chat_of(name).text(messages), add_special_tokens=False)["input_ids"])


EDGES = st.text(st.sampled_from("ab \n><|e▁é1"), max_size=5)


@given(st.sampled_from(READERS), st.lists(EDGES | st.text(max_size=20), min_size=1, max_size=3))
@example("first", ["a", "ab", " a"])
@example("overlapped", ["ab", "ab", "ab"])
@example("overlapped", ["b", "a b", "b"])
@example("stripping", ["  a  ", "\n", " "])
@example("normalised", ["a", "a", "a"])
@example("single words", ["a", "a", "a"])
@example("split", ["a", "a", "a"])
def test_kept_tokens_are_those_of_the_whole(name: str, texts: list[str]) -> None:
    contents = [text.replace("\U000f0000", "").replace("\U000f0001", "") for text in texts]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    if not chat_of(name).holds_control(messages):
        expected = whole(name, messages)
        assert chat_of(name).tokens(messages) == expected
        assert chat_of(name).tokens(messages) == expected  # from what was kept


class Counting:
    """A tokenizer that counts the characters it is given."""

    is_fast = True

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.read = tokenizer, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.read += len(text)
        return self._tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("name", ["smollm2", "llama3", "qwen3", "phi4", "gemma", "stripping"])
def test_a_request_has_only_its_own_words_read_and_not_its_examples(name: str) -> None:
    counting = Counting(reader(name))
    chat, told = Chat(counting), load_shipped("large")
    for number, most in ((1, 100_000), (2, 400)):
        counting.read = 0
        query = f"Write a letter of {number} lines about rain. " * 3
        messages = prompts.decompose(told, Prompt(id=number, query=query))
        asked = len(chat.text(messages))
        assert chat.tokens(messages) == whole(name, messages)
        assert len(query) < counting.read < most
    assert asked > 8_000


@pytest.mark.parametrize("name", ["normalised", "single words"])
def test_where_a_tokenizer_may_join_what_is_cut_nothing_is_cut(name: str) -> None:
    counting = Counting(reader(name))
    chat = Chat(counting)
    counting.read = 0
    asked: list[list[Message]] = [[{"role": "user", "content": text}, *CONVERSATION[1:]] for text in ("one", "two")]
    for messages in asked:
        chat.tokens(messages)
    assert counting.read == sum(len(chat.text(messages)) for messages in asked)


# ---- from tokens to a text -------------------------------------------------------------------------------------------


def streamed(name: str, prompt: list[int], tokens: list[int], skip: bool) -> str:
    """The text as vLLM makes it, token by token, behind the prompt."""
    stream = DecodeStream(ids=prompt, skip_special_tokens=skip)
    return "".join(stream.step(reader(name).backend_tokenizer, token) or "" for token in tokens)


@given(
    name=st.sampled_from(READERS),
    asked=st.text(max_size=6),
    written=st.lists(st.text(max_size=12) | EDGES | st.integers(0, 500), max_size=6),
    skip=st.booleans(),
)
@example(name="first", asked="a", written=[" ab", " a"], skip=True)
@example(name="always", asked="a", written=["ab"], skip=True)
@example(name="smollm2", asked="a", written=["🙂", 49, 150, 160], skip=True)
@example(name="llama3", asked="a", written=["<|eot_id|>x<|eot_id|>"], skip=False)
@example(name="llama3", asked="a", written=["<|eot_id|>x<|eot_id|>"], skip=True)
def test_a_text_made_at_once_is_what_a_stream_of_its_tokens_shows(
    name: str, asked: str, written: list[str | int], skip: bool
) -> None:
    prompt = whole(name, [{"role": "user", "content": asked}])
    words, tokens = len(reader(name)), list[int]()
    for part in written:  # what a model writes, and any token behind it
        read = [part % words] if isinstance(part, int) else reader(name)(part, add_special_tokens=False)["input_ids"]
        tokens += read
    try:
        shown = streamed(name, prompt, tokens, skip)
    except Exception as error:  # bytes that are no text: vLLM begins anew there
        assume("Invalid prefix" not in str(error))
        raise
    made = chat_of(name).decode(prompt, tokens, skip_special_tokens=skip)
    if reader(name).decode([*prompt, *tokens], skip_special_tokens=skip).endswith("\ufffd"):
        assert made.startswith(shown)  # which waits for the rest of the character
        assert not made.endswith("\ufffd")
    else:
        assert made == shown
