"""What needs a tokenizer or a model once, beside training. Each is a plain function that runs as a Ray task."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.engine.chat import Chat
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.records import Message

_ROWS = 1024
"""Examples that are read and measured at a time."""

_BATCH = 8
"""Conversations that are continued at a time."""


def measure(source: str, target: str, tokenizer: Any, max_length: int | None) -> dict[str, int]:
    """Copy the examples that fit into `max_length` tokens, so that training never cuts one silently. Where the template
    knows no system role, the copy has the system message in the first user turn.

    Args:
        source: URI of a Parquet file in TRL's conversational layout.
        target: URI of the copy. Not written when nothing fits or the source is not there.
        tokenizer: the model's, with its chat template.
        max_length: tokens of prompt and longest answer; None for no bound.

    Returns:
        Examples by `accepted`, `too long` and `no answer` (the template gave the answer no token).
    """
    fs, path = fsspec.core.url_to_fs(source)
    counts: Counter[str] = Counter()
    chat = Chat(tokenizer)
    if not fs.exists(path):
        return dict(counts)
    fs_out, out = fsspec.core.url_to_fs(target)
    fs_out.makedirs(out.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "rb") as raw, fs_out.open(out, "wb") as copy:
        file = pq.ParquetFile(raw)
        with pq.ParquetWriter(copy, file.schema_arrow) as writer:
            for batch in file.iter_batches(_ROWS):
                examples = [one | {"prompt": chat.fit(one["prompt"])} for one in batch.to_pylist()]
                verdicts = [_verdict(example, chat, max_length) for example in examples]
                counts.update(verdicts)
                kept = [one for one, verdict in zip(examples, verdicts, strict=True) if verdict == "accepted"]
                writer.write_batch(pa.RecordBatch.from_pylist(kept, schema=file.schema_arrow))
    if not counts["accepted"]:
        fs_out.rm(out)
    return dict(counts)


def _verdict(example: dict[str, Any], chat: Chat, max_length: int | None) -> str:
    prompt = len(chat.tokens(example["prompt"]))
    for answer in ("completion", "chosen", "rejected"):
        if answer in example:
            whole = len(chat.tokens(example["prompt"] + example[answer], add_generation_prompt=False))
            if whole <= prompt:
                return "no answer"
            if max_length is not None and whole > max_length:
                return "too long"
    return "accepted"


@dataclass(frozen=True)
class Chats:
    """Conversations that a model is to continue.

    Attributes:
        model: the model's name or folder.
        chats: the conversations.
        adapter: a LoRA adapter's folder on top of the model, or empty.
    """

    model: str
    chats: list[list[Message]]
    adapter: str = ""


def answer(asked: list[Chats], *, max_new_tokens: int, gpu: bool, trust_remote_code: bool) -> list[list[str]]:
    """Continue conversations greedily with transformers: a few, to look at, where starting an engine is not worth it.

    Args:
        asked: the conversations of each model; the models are loaded one after the other.
        max_new_tokens: most tokens of each answer.
        gpu: whether to use the task's GPU, in bfloat16.
        trust_remote_code: run Python code that comes with the models.

    Returns:
        For each of `asked` its answers, in order.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    return [_continue(one, max_new_tokens, gpu, trust_remote_code) for one in asked]


def _continue(asked: Chats, max_new_tokens: int, gpu: bool, trust_remote_code: bool) -> list[str]:
    import torch
    from transformers import AutoTokenizer

    loaded = _load(asked.model, asked.adapter, gpu, trust_remote_code)
    place = resolve_model(asked.adapter or asked.model)
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts: list[str] = []
    chat = Chat(tokenizer)
    for batch in _batches([chat.fit(messages) for messages in asked.chats]):
        inputs = tokenizer.apply_chat_template(
            batch, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(loaded.device)
        with torch.inference_mode():
            output = loaded.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def merge(model: str, adapter: str, target: str, trust_remote_code: bool) -> None:
    """Write a model with an adapter worked into its weights, and the adapter's tokenizer, to the folder `target`."""
    from transformers import AutoTokenizer
    from transformers.trainer_utils import align_special_tokens
    from transformers.utils import logging

    logging.disable_progress_bar()
    merged = _load(model, adapter, gpu=False, trust_remote_code=trust_remote_code, dtype="auto").merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(adapter), trust_remote_code=trust_remote_code)
    align_special_tokens(merged, tokenizer)  # an answer ends where training ended it (`sft.eos_token`)
    _save(merged, tokenizer, target)


def _load(model: str, adapter: str, gpu: bool, trust_remote_code: bool, dtype: str = "") -> Any:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        resolve_model(model),
        dtype=dtype or ("bfloat16" if gpu else "float32"),
        device_map="cuda" if gpu else None,
        trust_remote_code=trust_remote_code,
    )
    if adapter:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, resolve_model(adapter))
    return loaded.eval()


def _save(model: Any, tokenizer: Any, target: str) -> None:
    import tempfile

    fs, path = fsspec.core.url_to_fs(target)
    fs.makedirs(path, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        fs.put(f"{scratch}/", f"{path}/", recursive=True)


def _batches(chats: list[list[Message]]) -> Iterator[list[list[Message]]]:
    for start in range(0, len(chats), _BATCH):
        yield chats[start : start + _BATCH]


def read_examples(uri: str, most: int) -> list[dict[str, Any]]:
    """The first examples of a Parquet file; none when it is not there."""
    fs, path = fsspec.core.url_to_fs(uri)
    if not most or not fs.exists(path):
        return []
    with fs.open(path, "rb") as raw:
        for batch in pq.ParquetFile(raw).iter_batches(most):
            return list(batch.to_pylist())
    return []


def read_metrics(uri: str) -> list[dict[str, float]]:
    """What TRL's trainer logged, entry by entry (`metrics.jsonl`)."""
    fs, path = fsspec.core.url_to_fs(uri)
    with fs.open(path, "r", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
