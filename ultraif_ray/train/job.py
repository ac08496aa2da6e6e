"""A training as its workers receive it.

Apart from what they run: Ray Train's controller unpacks this too, and would import the trainers for nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal


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


def work(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker: see `ultraif_ray.train.worker.train_worker`."""
    from ultraif_ray.train.worker import train_worker

    train_worker(config)
