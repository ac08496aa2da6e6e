"""What every Ray Train worker runs: TRL's own trainer, with an order of rows that survives anything.

Position in the data is the number of optimizer steps and nothing else. Step `s` of an epoch takes rows `s*G` to
`(s+1)*G` of that epoch's permutation, where G is the global batch, however many workers share them. So a run that was
killed and goes on with another number of workers sees every row once an epoch, and the same rows in the same steps.
"""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ray
import ray.train
import torch
from accelerate.utils import broadcast
from datasets import Dataset, concatenate_datasets, load_dataset
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import create_model_from_path

from ultraif_ray.engine.models import resolve_model
from ultraif_ray.errors import RunError
from ultraif_ray.train.job import Job
from ultraif_ray.train.settings import lora_config, trl_arguments, trl_config

ROWS_SEEN = "rows_seen.npy"
"""In each checkpoint: for every example that was trained on so far its step, epoch, row in the file of examples, and
prompt id, in order, as int64 of shape (examples, 4)."""

_NOTHING = -1
"""Row and id of an example that only fills up a step and is not learnt from."""


def train_worker(config: dict[str, Any]) -> None:
    """Train, from the last checkpoint if there is one, and leave the model in the step's folder."""
    job: Job = config["job"]
    transformers_logging.disable_progress_bar()
    checkpoint = ray.train.get_checkpoint()
    context = ray.train.get_context()
    if context.get_world_size() == 1 and not (job.fields.get("fsdp") or job.fields.get("deepspeed")):
        # From this accelerate knows of a process group, and DDP among one costs a tenth of the time on CPU.
        os.environ.pop("LOCAL_RANK", None)
    # Each worker saves into a folder of its own; Ray Train puts their parts of a checkpoint together.
    with tempfile.TemporaryDirectory(prefix="ultraif-train-") as scratch:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", f"{scratch}/tensorboard")
        trainer = make_trainer(job, scratch, context.get_world_size(), fresh=checkpoint is None)
        trainer.add_callback(Durable(trainer, job, config.get("scoreboard"), context.get_world_rank()))
        if checkpoint is None:
            trainer.train()
        else:
            with checkpoint.as_directory() as folder:
                trainer.seen = np.load(Path(folder) / ROWS_SEEN).tolist()
                trainer.train(resume_from_checkpoint=folder)
        if trainer.is_fsdp_enabled:  # checkpoints may be sharded; the model is written whole, or not at all
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(f"{scratch}/model")
        if context.get_world_rank() == 0:
            _upload_metrics(trainer, scratch, job.output)
            _upload_model(f"{scratch}/model", job.output)


def make_trainer(job: Job, scratch: str, workers: int, fresh: bool) -> Any:
    """TRL's trainer for a job, in one of `workers` processes.

    `per_device_train_batch_size` is kept, and the accumulation derived, so that a step takes the global batch.
    """
    arguments = trl_arguments(
        job.fields, gpu=job.gpu, lora=job.lora is not None, seed=job.seed, held_out=bool(job.held_out)
    )
    per_worker = arguments.get("per_device_train_batch_size", 8)
    arguments["gradient_accumulation_steps"] = math.ceil(job.global_batch / (per_worker * workers))
    arguments["eval_on_start"] = arguments["eval_on_start"] and fresh
    arguments["trust_remote_code"] = job.trust_remote_code  # for what TRL loads itself, DPO's reference
    args = trl_config(job.kind, arguments, scratch)
    trainer_class = SteadyDPOTrainer if job.kind == "dpo" else SteadySFTTrainer
    trainer = trainer_class(
        model=_model(job, args.model_init_kwargs),
        args=args,
        train_dataset=_examples(job.train),
        eval_dataset=_examples(job.held_out) if job.held_out else None,
        processing_class=_tokenizer(job),
        peft_config=None if job.start else lora_config(job.lora),
    )
    trainer.global_batch = job.global_batch
    trainer.train_dataset = _with_filler(trainer.train_dataset, job.kind)
    trainer.data_collator = _keeping_ids(trainer.data_collator)
    return trainer


def _model(job: Job, init: dict[str, Any]) -> Any:
    """The model to train. DPO's reference is made by TRL from the same start: the same folder, or a frozen copy of the
    adapter; so a resumed round keeps the reference that it began with.
    """
    init = {"trust_remote_code": job.trust_remote_code, **init}
    start = resolve_model(f"{job.start}/model") if job.start else ""
    if not start:
        return create_model_from_path(resolve_model(job.model), **init)
    if job.lora is None:
        return create_model_from_path(start, **init)
    from peft import PeftModel

    base = create_model_from_path(resolve_model(job.model), **init)
    return PeftModel.from_pretrained(base, start, is_trainable=True)


def _tokenizer(job: Job) -> Any:
    from transformers import AutoTokenizer

    place = f"{job.start}/model" if job.start else job.model
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(place), trust_remote_code=job.trust_remote_code)
    if job.chat_template:
        tokenizer.chat_template = job.chat_template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _examples(uri: str) -> Dataset:
    """Examples as a memory-mapped Arrow table: on disk once per machine, not in the memory of every worker."""
    examples: Dataset = load_dataset("parquet", data_files=uri, split="train")
    return examples.add_column("row", np.arange(len(examples)))


# ---- the order of rows -----------------------------------------------------------------------------------------------


class StepSampler(Sampler[int]):
    """Row indices of one epoch, step by step, with `filler` where a step's share does not go up evenly.

    Args:
        rows: how many rows there are.
        global_batch: rows of one step.
        slots: rows that all workers together take in one step, at least `global_batch`.
        filler: the index to fill up with.
        seed: decides the permutations.
        epoch: tells the epoch, when an iteration begins.
    """

    def __init__(
        self, rows: int, global_batch: int, slots: int, filler: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._rows, self._global_batch, self._slots, self._filler = rows, global_batch, slots, filler
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch()]).permutation(self._rows)
        for start in range(0, self._rows, self._global_batch):
            step = order[start : start + self._global_batch].tolist()
            yield from step + [self._filler] * (self._slots - len(step))

    def __len__(self) -> int:
        return math.ceil(self._rows / self._global_batch) * self._slots


def _with_filler(dataset: Dataset, kind: str) -> Dataset:
    """The dataset with one more example at its end that teaches nothing: no token of it is an answer."""
    filler = dict(dataset[0])
    filler |= {name: _NOTHING for name in ("row", "id") if name in filler}
    if kind == "dpo":
        filler["prompt_ids"] = filler["prompt_ids"][:2]
        filler["chosen_ids"] = filler["rejected_ids"] = []
        filler |= {name: 0.0 for name in ("ref_chosen_logps", "ref_rejected_logps") if name in filler}
    else:
        filler["input_ids"] = filler["input_ids"][:2]
        filler["labels"] = [-100] * len(filler["input_ids"])
        if "seq_lengths" in filler:
            filler["seq_lengths"] = [len(filler["input_ids"])]
    return concatenate_datasets([dataset, Dataset.from_list([filler], features=dataset.features)])


def _keeping_ids(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """TRL's collator, with rows and ids beside the tokens. Packed sequences hold several rows and have none."""

    def collate_with_ids(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(examples)
        if "row" in examples[0]:
            batch["rows"] = torch.tensor([[example["row"], example["id"]] for example in examples])
        return batch

    return collate_with_ids


class Steady:
    """What both trainers get: the order of rows by step, and a record of the rows that were learnt from."""

    global_batch: int
    seen: list[Any]
    """Per example learnt from: (step, epoch, row, id)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = []
        self._rows_of_step: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        me: Any = self
        rows = len(me.train_dataset) - 1  # the last is the filler
        slots = me.args.per_device_train_batch_size * me.args.gradient_accumulation_steps * me.args.world_size
        steps = math.ceil(rows / self.global_batch)
        # The epoch is told by the steps done: accelerate's set_epoch does not reach a sampler behind skipped batches.
        return StepSampler(
            rows, self.global_batch, slots, rows, me.args.seed, lambda: int(me.state.global_step // steps)
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, with the ids of the batch taken out and kept."""
        rows = inputs.pop("rows", None)
        if rows is not None and model.training:
            self._rows_of_step.append(rows)
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]  # the trainer's

    def note_rows(self) -> None:
        """After a step: gather which rows it took, and remember them on rank 0. All workers call it together."""
        me: Any = self
        if not self._rows_of_step:
            return
        rows = me.accelerator.gather(torch.cat(self._rows_of_step)).tolist()
        self._rows_of_step = []
        steps = math.ceil((len(me.train_dataset) - 1) / self.global_batch)
        epoch = (me.state.global_step - 1) // steps
        if me.args.process_index == 0:
            self.seen += [(me.state.global_step, epoch, row, one) for row, one in rows if row != _NOTHING]


class SteadySFTTrainer(Steady, SFTTrainer):
    """TRL's SFT trainer."""


class SteadyDPOTrainer(Steady, DPOTrainer):
    """TRL's DPO trainer."""


# ---- what survives ---------------------------------------------------------------------------------------------------


class Durable(TrainerCallback):
    """Hands every checkpoint to Ray Train, asks for one when the last is old or a node is about to be taken away, and
    reports progress.
    """

    def __init__(self, trainer: Any, job: Job, scoreboard: Any, rank: int):
        self._trainer, self._job, self._scoreboard, self._rank = trainer, job, scoreboard, rank
        self._saved_at = time.monotonic()
        self._preempted: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how far there is to go."""
        self._tell({"steps": state.global_step}, f"{args.world_size} workers", total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Note the rows, and save where it is time to. Every worker gets the same answer in the same step."""
        self._trainer.note_rows()
        self._tell({"steps": 1})
        preempted = ray.train.get_preemption_info()
        if preempted is not None and preempted != self._preempted:
            self._preempted, control.should_save = preempted, True
        old = torch.tensor(int(time.monotonic() - self._saved_at > self._job.save_every_s), device=args.device)
        if broadcast(old).item():  # the first worker's clock counts
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand over the checkpoint that was just written: weights, optimizer, schedule, position, rows seen."""
        self._saved_at = time.monotonic()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folder.mkdir(exist_ok=True)
        if self._rank == 0:
            np.save(folder / ROWS_SEEN, np.array(self._trainer.seen, dtype=np.int64).reshape(-1, 4))
            _upload_metrics(self._trainer, args.output_dir, self._job.output)
        metrics = {"step": state.global_step, **(state.log_history[-1] if state.log_history else {})}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        if self._rank:  # the trainer itself deletes old checkpoints on rank 0 only
            shutil.rmtree(folder, ignore_errors=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Pass the loss on to whoever watches."""
        for name in ("loss", "eval_loss"):
            if logs and name in logs:
                label = "loss" if name == "loss" else "held-out loss"
                self._tell({}, f"{label} {float(logs[name]):.3f}, {args.world_size} workers")

    def _tell(self, counts: dict[str, int], notes: str = "", total: int = 0) -> None:
        if self._scoreboard is not None and self._rank == 0:
            self._scoreboard.add.remote(counts, notes, total)


def _upload_metrics(trainer: Any, scratch: str, output: str) -> None:
    """The losses and the rows seen so far, and TensorBoard's events where it was asked for, into the step's folder."""
    fs, path = fsspec.core.url_to_fs(output)
    fs.makedirs(path, exist_ok=True)
    with fs.open(f"{path}/metrics.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in trainer.state.log_history)
    with fs.open(f"{path}/{ROWS_SEEN}", "wb") as file:
        np.save(file, np.array(trainer.seen, dtype=np.int64).reshape(-1, 4))
    for events in Path(scratch, "tensorboard").glob("events*"):
        fs.makedirs(f"{path}/tensorboard", exist_ok=True)
        fs.put_file(str(events), f"{path}/tensorboard/{events.name}")


def _upload_model(folder: str, output: str) -> None:
    """The trained model, into the step's folder.

    Raises:
        RunError: nothing with weights was saved.
    """
    Path(folder, "training_args.bin").unlink(missing_ok=True)  # a pickle, of use to nobody else
    if not any(name.endswith((".safetensors", ".bin")) for name in os.listdir(folder)):
        raise RunError(f"the trained model was not saved whole: there are no weights among {os.listdir(folder)}")
    fs, path = fsspec.core.url_to_fs(output)
    if fs.exists(f"{path}/model"):  # of a driver that died before it could mark the step as done
        fs.rm(f"{path}/model", recursive=True)
    fs.makedirs(f"{path}/model", exist_ok=True)
    for name in os.listdir(folder):
        fs.put(f"{folder}/{name}", f"{path}/model/{name}", recursive=Path(folder, name).is_dir())
