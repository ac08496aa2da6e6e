"""Small tokenizers, trained on the spot, whose special and added tokens lie as in those of well-known models."""

import json
from pathlib import Path
from string import printable
from typing import Any

import trl
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Write a short letter to the city about the noise at night, in a polite tone, under 80 words.",
    "A table in HTML: <table><tr><td>1 < 2</td></tr></table>, and then a list of 12 points.",
    "def f(x): return x | 1  # im_end, eot_id, start_of_turn, user, model, assistant, system, think",
    "Où est la bibliothèque? 图书馆在哪里? 🙂",
] * 8

_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _template(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()  # as TRL has them


def _byte_level(special: list[str], added: list[str], ignore_merges: bool = False, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def _whole(tokenizer: Tokenizer, template: str, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)


def llama3() -> Any:
    """All are special, and merges are passed over for whole words."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special += ["<|eom_id|>", "<|python_tag|>", "<|reserved_special_token_0|>"]
    made = _byte_level(special, [], ignore_merges=True)
    return _whole(made, _template("llama3"), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")  # noqa: S106


def qwen3() -> Any:
    """Some are special, others only added; the template looks for `</think>` in answers and cuts them there."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
    added = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    made = _byte_level(special, [*added, "<|fim_prefix|>", "<|repo_name|>"], nfc=True)
    return _whole(made, _template("qwen3"), eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: S106


def phi4() -> Any:
    """The template puts the names of roles together to tokens, which are no special ones."""
    made = _byte_level(["<|endoftext|>"], ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"])
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return _whole(made, template, eos_token="<|endoftext|>")  # noqa: S106


def gemma() -> Any:
    """Spaces are a letter, unknown letters are bytes, and HTML tags and line breaks are added tokens, but text."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"]))
    found = json.loads(trained.to_str())["model"]
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    added = ["<unused0>", "[@BOS@]", "\n\n", "▁▁", "<table>", "</table>", "<h1>"]
    vocab = found["vocab"]
    for piece in (*special, *added, *(f"<0x{byte:02X}>" for byte in range(256)), "\n"):
        vocab.setdefault(piece, len(vocab))
    merges = [tuple(pair) for pair in found["merges"]]
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    made.normalizer, made.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", *special)])
    made.add_tokens([AddedToken(token, normalized=False) for token in added])
    return _whole(made, _template("gemma"), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")  # noqa: S106


def unigram() -> Any:
    """Its special tokens are words of its vocabulary too, so that plain text gives them."""
    letters = sorted({letter for text in TEXTS for letter in text} | set(printable) | {"▁"})
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((letter, -5.0) for letter in letters)]
    made = Tokenizer(models.Unigram(words, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    template = "{% for m in messages %}<s>{{ m['role'] + ': ' + m['content'] }}</s>{% endfor %}<s>assistant: "
    return _whole(made, template, eos_token="</s>", unk_token="<unk>")  # noqa: S106


LAYOUTS = {"llama3": llama3, "qwen3": qwen3, "phi4": phi4, "gemma": gemma, "unigram": unigram}
