"""What transformers makes of the same weights: what an engine's probabilities are held against."""

from functools import lru_cache
from typing import Any

from ultraif_ray.records import Message


def label_logprobs(model: str, messages: list[Message], labels: tuple[str, ...], adapter: str = "") -> dict[str, float]:
    """The natural-log probability of each label, one token each, as the next token after the chat's prompt.

    Args:
        model: a folder.
        messages: the conversation.
        labels: their words.
        adapter: a LoRA adapter's folder; empty for the model itself.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), _loaded(model, adapter)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        logprobs = loaded(**prompt).logits[0, -1].log_softmax(dim=-1)
    (tokens,) = zip(*(tokenizer.encode(label, add_special_tokens=False) for label in labels), strict=True)
    return {label: logprobs[token].item() for label, token in zip(labels, tokens, strict=True)}


@lru_cache(maxsize=1)
def _loaded(model: str, adapter: str) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(loaded, adapter) if adapter else loaded


def continuation_logprob(model: str, messages: list[Message], continuation: str) -> tuple[float, bool]:
    """The natural-log probability of a text as the answer to the chat, and whether each of its tokens is the likeliest.

    Args:
        model: a folder.
        messages: the conversation.
        continuation: the text.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), _loaded(model, "")
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    tokens = tokenizer(prompt + continuation, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logprobs = loaded(tokens).logits[0, :-1].log_softmax(dim=-1)
    own, wanted = logprobs[start - 1 :], tokens[0, start:]
    return own.gather(1, wanted[:, None]).sum().item(), bool((own.argmax(dim=-1) == wanted).all())
