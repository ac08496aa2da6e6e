"""What a training leaves behind while it runs and at its end: checkpoints, metrics, the model."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, TrainerCallback

from ultraif_ray.engine.models import resolve_model
from ultraif_ray.errors import RunError
from ultraif_ray.train.job import Job

ROWS_SEEN = "rows_seen.npy"
"""In each checkpoint: for every example that was trained on so far its step, epoch, row in the file of examples, and
prompt id, in order, as int64 of shape (examples, 4)."""


MASTER = "master"
"""Beside a step's `model`: the weights in float32, as they were trained. The next training goes on from them; nobody
else reads them.
"""


class CheckpointCallback(TrainerCallback):
    """Hands every checkpoint to Ray Train, asks for one when the last is old or a node is about to be taken away, and
    reports progress.
    """

    def __init__(self, trainer: Any, job: Job, scoreboard: Any, rank: int):
        self._trainer, self._job, self._scoreboard, self._rank = trainer, job, scoreboard, rank
        self._saved_at = time.monotonic()
        self._preempted: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how far there is to go."""
        self._report({"steps": state.global_step}, f"{args.world_size} workers", total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Note the rows, and save where it is time to. Every worker gets the same answer in the same step."""
        import ray.train

        self._trainer.note_rows()
        self._report({"steps": 1})
        preempted = ray.train.get_preemption_info()
        if preempted is not None and preempted != self._preempted:
            self._preempted, control.should_save = preempted, True
        if state.global_step in moments(state.max_steps, self._job.keep):
            self._keep(Path(args.output_dir) / "kept", f"kept/step-{state.global_step}")
        # After an epoch's last step the trainer evaluates, which it would never do if it went on from a checkpoint of
        # before that.
        ends_epoch = bool(state.epoch) and float(state.epoch).is_integer()
        return control if ends_epoch else self._save_if_due(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save where it is time to; the trainer does so behind the evaluation."""
        return self._save_if_due(args, control)

    def _save_if_due(self, args: Any, control: Any) -> Any:
        old = torch.tensor(int(time.monotonic() - self._saved_at > self._job.save_every_s), device=args.device)
        if broadcast(old).item():  # the first worker's clock counts
            control.should_save = True
        return control

    def _keep(self, folder: Path, name: str) -> None:
        """Put the model as it is into the step's folder. All workers do this in the same step."""
        save_whole(self._trainer, folder)
        if self._rank == 0:
            served = folder_to_serve(str(folder), self._job)
            upload_model(served, self._job.output, name)
            shutil.rmtree(served, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand over the checkpoint that was just written: weights, optimizer, schedule, position, rows seen."""
        import ray.train

        self._saved_at = time.monotonic()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folder.mkdir(exist_ok=True)
        if self._rank == 0:
            np.save(folder / ROWS_SEEN, np.array(self._trainer.seen, dtype=np.int64).reshape(-1, 4))
            upload_metrics(self._trainer, args.output_dir, self._job.output)
        metrics = {"step": state.global_step, **(state.log_history[-1] if state.log_history else {})}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        if self._rank:  # the trainer itself deletes old checkpoints on rank 0 only
            shutil.rmtree(folder, ignore_errors=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Pass the loss on to whoever watches."""
        for name in ("loss", "eval_loss"):
            if logs and name in logs:
                label = "loss" if name == "loss" else "held-out loss"
                self._report({}, f"{label} {float(logs[name]):.3f}, {args.world_size} workers")

    def _report(self, counts: dict[str, int], notes: str = "", total: int = 0) -> None:
        if self._scoreboard is not None and self._rank == 0:
            self._scoreboard.add.remote(counts, notes, total)


def moments(steps: int, keep: int) -> list[int]:
    """The optimizer steps after which the model is kept: `keep` of them, evenly spread, without the last of all."""
    return sorted({round(steps * number / keep) for number in range(1, keep)} - {0, steps}) if keep else []


def save_whole(trainer: Any, folder: str | Path) -> None:
    """Save the model as one, also under FSDP, whose checkpoints may be sharded."""
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    before = plugin and plugin.state_dict_type
    if plugin:
        plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    if plugin:
        plugin.set_state_dict_type(before)


def upload_metrics(trainer: Any, scratch: str, output: str) -> None:
    """The losses and the rows seen so far, and TensorBoard's events where it was asked for, into the step's folder."""
    from ultraif_ray.store.folder import filesystem

    fs, path = filesystem(output)
    fs.makedirs(path, exist_ok=True)
    with fs.open(f"{path}/metrics.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in trainer.state.log_history)
    with fs.open(f"{path}/{ROWS_SEEN}", "wb") as file:
        np.save(file, np.array(trainer.seen, dtype=np.int64).reshape(-1, 4))
    for events in Path(scratch, "tensorboard").glob("events*"):
        fs.makedirs(f"{path}/tensorboard", exist_ok=True)
        fs.put_file(str(events), f"{path}/tensorboard/{events.name}")


def upload_trained(folder: str, job: Job) -> None:
    """What was trained, into the step's folder: `model`, and beside it MASTER where that is another, and of use.

    Raises:
        RunError: nothing with weights was saved.
    """
    served = folder_to_serve(folder, job)
    if served != folder and job.goes_on:
        upload_model(folder, job.output, MASTER)
    upload_model(served, job.output)


def folder_to_serve(folder: str, job: Job) -> str:
    """A saved model as it is served and published: with weights of the type that the recipe's model has, mostly
    bfloat16, half as large as the float32 that it is trained in. An engine would round them all the same.

    Args:
        folder: where training has saved it.
        job: the training.

    Returns:
        A folder beside it; the same one, where nothing is to be done: an adapter, or a model of float32.
    """
    if job.lora is not None:
        return folder
    config = AutoConfig.from_pretrained(
        resolve_model(job.model, weights=False), trust_remote_code=job.trust_remote_code
    )
    dtype = getattr(torch, str(config.dtype or config.get_text_config().dtype).removeprefix("torch."), None)
    if dtype is None or dtype == torch.float32:
        return folder
    target = f"{folder}-to-serve"
    cast(Path(folder), Path(target), dtype)
    return target


def cast(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """Copy a saved model, with its weights in another type. One file's weights are in memory at once, in that type."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as saved:
            weights = {name: _as(dtype, saved.get_tensor(name)) for name in saved.keys()}  # noqa: SIM118 - no dict
            save_file(weights, target / file.name, metadata=saved.metadata())
        sizes += [one.nbytes for one in weights.values()]
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in target.glob("*.safetensors.index.json"):
        index = json.loads(file.read_text(encoding="utf-8"))
        index["metadata"]["total_size"] = sum(sizes)
        file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _as(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def upload_model(folder: str, output: str, name: str = "model") -> None:
    """A model, into the step's folder under a name.

    Raises:
        RunError: nothing with weights was saved.
    """
    from ultraif_ray.store.folder import filesystem

    Path(folder, "training_args.bin").unlink(missing_ok=True)  # a pickle, of use to nobody else
    if not any(name.endswith((".safetensors", ".bin")) for name in os.listdir(folder)):
        raise RunError(f"the trained model was not saved whole: there are no weights among {os.listdir(folder)}")
    fs, path = filesystem(output)
    target = f"{path}/{name}"
    if fs.exists(target):  # of a driver that died before it could mark the step as done
        fs.rm(target, recursive=True)
    fs.makedirs(target, exist_ok=True)
    for file in os.listdir(folder):
        fs.put(f"{folder}/{file}", f"{target}/{file}", recursive=Path(folder, file).is_dir())
