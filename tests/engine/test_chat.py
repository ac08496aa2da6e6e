"""Through chat templates that take a system message, refuse it, or drop it."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import trl
from pydantic import ValidationError
from transformers import AutoTokenizer

from ultraif_ray.engine.chat import Chat, fold_system
from ultraif_ray.engine.thoughts import USUAL, is_open, is_over
from ultraif_ray.errors import RequestRefused
from ultraif_ray.recipe import SHIPPED, Thinking, VllmPool

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
