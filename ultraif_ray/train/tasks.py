"""What needs a tokenizer or a model once, beside training. Each is a plain function that runs as a Ray task."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.engine.chat import Chat
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.engine.thoughts import USUAL, is_open, split
from ultraif_ray.records import Message
from ultraif_ray.store.folder import filesystem
from ultraif_ray.train.job import TOKENS, Job

CONTROL = "with control tokens"
"""Of the examples, those in whose texts a control token of the tokenizer stands. It is learnt as text."""

ANSWERS = ("completion", "chosen", "rejected")
"""Columns that hold an answer to `prompt`."""

_BATCH = 8
"""Conversations that are continued at a time."""


def tokenise(job: Job, tokenizer: Any, source: str, groups: list[int]) -> tuple[pa.Table, dict[str, int]]:
    """Read examples, and give those that fit into `max_length` the tokens that TRL's trainer would give them. Where the
    template knows no system role, the system message is put into the first user turn.

    Args:
        job: the training.
        tokenizer: see `tokenizer_of`.
        source: URI of a Parquet file in TRL's conversational layout.
        groups: the row groups to read.

    Returns:
        The examples that fit, in order, with TOKENS beside their columns; and how many are `accepted`, `too long` or
        have `no answer` (the template gave an answer no token); and, among them, how many are CONTROL.

    Raises:
        RequestRefused: the template refuses a conversation.
    """
    fs, path = filesystem(source)
    with fs.open(path, "rb") as raw:
        examples = pq.ParquetFile(raw).read_row_groups(groups)
    chat = Chat(tokenizer)
    begins_thought = is_open(chat.text([{"role": "user", "content": "hi"}]), USUAL)
    accepted: list[dict[str, Any]] = []
    outcomes: Counter[str] = Counter()
    for example in examples.to_pylist():
        example["prompt"] = chat.fit(example["prompt"])
        outcome, tokens = _tokens(job, chat, begins_thought, example)
        outcomes[outcome] += 1
        outcomes[CONTROL] += chat.holds_control(
            example["prompt"] + [turn for name in ANSWERS for turn in example.get(name, [])]
        )
        if outcome == "accepted":
            accepted.append(example | dict(zip(TOKENS[job.kind], tokens, strict=True)))
    return pa.Table.from_pylist(accepted, schema=with_tokens(job, examples.schema)), dict(+outcomes)


def _tokens(job: Job, chat: Chat, begins_thought: bool, example: dict[str, Any]) -> tuple[str, tuple[list[int], ...]]:
    """What becomes of an example, and its TOKENS as TRL's `_prepare_dataset` has them, but for begun thoughts."""
    from trl.data_utils import common_prefix_length

    prompt, longest = chat.tokens(example["prompt"]), job.fields.get("max_length")
    answers = [example[name] for name in ANSWERS if name in example]
    tokens_of = _ending_the_thought if begins_thought else _answered
    whole = [tokens_of(chat, example["prompt"], answer) for answer in answers]
    start = min(common_prefix_length(prompt, ids) for ids in whole)
    if min(map(len, whole)) == start:
        return "no answer", ()
    if longest is not None and max(map(len, whole)) > longest:
        return "too long", ()
    if job.kind == "dpo":
        return "accepted", (prompt[:start], *(ids[start:] for ids in whole))
    (ids,) = whole
    not_learnt = 0 if job.fields.get("completion_only_loss") is False else start
    return "accepted", (ids, [-100] * not_learnt + ids[not_learnt:])


def _answered(chat: Chat, prompt: list[Message], answer: list[Message]) -> list[int]:
    return chat.tokens(prompt + answer, add_generation_prompt=False)


def _ending_the_thought(chat: Chat, prompt: list[Message], answer: list[Message]) -> list[int]:
    """The tokens of an answered prompt whose template begins a thought (DeepSeek R1's, Qwen3.5's): the answer ends it
    first. TRL leaves that out: the model would learn to answer another prompt than it is asked with.
    """
    begun, whole = chat.text(prompt), chat.text(prompt + answer, add_generation_prompt=False)
    if whole.startswith(begun):
        return chat.encode(begun) + chat.encode(whole.removeprefix(begun))
    header = begun.rstrip().removesuffix(USUAL.start.strip())
    if not whole.startswith(header):
        return _answered(chat, prompt, answer)
    return chat.encode(begun) + chat.encode(USUAL.end + whole.removeprefix(header))


def with_tokens(job: Job, schema: pa.Schema) -> pa.Schema:
    """The columns of a file of examples, and TOKENS."""
    for name in TOKENS[job.kind]:
        schema = schema.append(pa.field(name, pa.list_(pa.int32())))
    return schema


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
        For each of `asked` its answers, in order, without the thoughts of a reasoning model.
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
    for batch in _batches(asked.chats):
        prompts = [chat.tokens(messages) for messages in batch]
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(loaded.device)
        with torch.inference_mode():
            output = loaded.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        opened = is_open(tokenizer.decode(inputs["input_ids"][0]), USUAL)
        made = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        texts += [split(text, opened=opened)[1] or "" for text in made]
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

    fs, path = filesystem(target)
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
    fs, path = filesystem(uri)
    if not most or not fs.exists(path):
        return []
    with fs.open(path, "rb") as raw:
        for batch in pq.ParquetFile(raw).iter_batches(most):
            return list(batch.to_pylist())
    return []


def read_metrics(uri: str) -> list[dict[str, float]]:
    """What TRL's trainer logged, entry by entry (`metrics.jsonl`)."""
    fs, path = filesystem(uri)
    with fs.open(path, "r", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
