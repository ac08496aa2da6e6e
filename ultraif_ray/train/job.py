"""A training as its workers receive it.

Apart from what they run: Ray Train's controller unpacks this too, and would import the trainers for nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal

TOKENS = {"sft": ("input_ids", "labels"), "dpo": ("prompt_ids", "chosen_ids", "rejected_ids")}
"""Columns of token ids that TRL's trainers make of an example and learn from."""


@dataclass(frozen=True)
class Job:
    """One training, as every worker receives it.

    Attributes:
        kind: `sft` (also for the composer) or `dpo`.
        model: the model's name in the recipe.
        start: the folder of the training step before, whose model or adapter this one goes on from; or empty.
        chat_template: a chat template's text, for a model without one; or empty.
        trust_remote_code: run Python code that comes with the model.
        lora: peft's fields, or None for full fine-tuning.
        fields: TRL's fields.
        train: URI of the examples to train on (Parquet), with their tokens.
        held_out: URI of the examples to report the loss of, likewise; or empty.
        output: URI of the step's folder.
        global_batch: examples of one optimizer step, over all workers.
        seed: decides the order of the rows.
        gpu: whether workers have one.
        save_every_s: seconds after which another checkpoint is due.
        keep: at how many moments, evenly spread, the model is kept; the last of them is the end.
        goes_on: whether a later training may go on from this one's weights.
    """

    kind: Literal["sft", "dpo"]
    model: str
    start: str
    chat_template: str
    trust_remote_code: bool
    lora: dict[str, Any] | None
    fields: dict[str, Any]
    train: str
    held_out: str
    output: str
    global_batch: int
    seed: int
    gpu: bool
    save_every_s: float
    keep: int = 0
    goes_on: bool = True


def tokenizer_of(job: Job) -> Any:
    """The tokenizer that a training begins with."""
    from transformers import AutoTokenizer

    from ultraif_ray.engine.models import resolve_model

    place = resolve_model(f"{job.start}/model" if job.start else job.model, weights=False)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=job.trust_remote_code)
    if job.chat_template:
        tokenizer.chat_template = job.chat_template
    tokenizer.eos_token = job.fields.get("eos_token") or tokenizer.eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def work(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker: see `ultraif_ray.train.worker.train_worker`."""
    from ultraif_ray.train.worker import train_worker

    train_worker(config)
