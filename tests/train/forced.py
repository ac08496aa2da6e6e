"""FSDP on CPUs, which accelerate keeps for GPUs: what the tests of it share, and what runs outside of their process."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

FIELDS = {
    "fsdp": True,
    "fsdp_config": {"activation_checkpointing": True},
    "bf16": True,
    "max_length": 512,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
}
"""What a recipe for GPUs has, said on CPUs."""


def with_fsdp(fields: dict[str, Any]) -> dict[str, Any]:
    """Let accelerate believe that the workers have GPUs; the fields are those with which TRL leaves it so."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    return fields | {"accelerator_config": {"use_configured_state": True}}


def work(config: dict[str, Any]) -> None:
    """What Ray Train runs in each worker, but that accelerate believes in GPUs."""
    from ultraif_ray.train import job

    forced = dataclasses.replace(config["job"], fields=with_fsdp(config["job"].fields))
    job.work(config | {"job": forced})


def train_sft(model: str, folder: str, workers: str) -> None:
    """SFT under Ray Train, from the folder's examples, or from where it was killed."""
    from tests.train.data import job_for
    from ultraif_ray.flow.cluster import connect
    from ultraif_ray.recipe import Replicas, Train
    from ultraif_ray.train import run

    place = Path(folder)
    job = job_for("sft", model, place / "train.parquet", held_out=f"{folder}/held_out.parquet", fields=FIELDS)
    count = int(workers)
    train = Train(workers=Replicas(min=count, max=count))
    connect(False)
    with patch.object(run, "work", work):
        run.fit(dataclasses.replace(job, global_batch=4), train, "sft", 1, False)


def join(rank: int, workers: int, rendezvous: str, backend: str = "gloo") -> None:
    """Make this process one of `workers`, as Ray Train would."""
    import torch.distributed

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_WORLD_SIZE=str(workers))
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=workers)


def log_probabilities(model: Any, batch: dict[str, Any]) -> Any:
    """Those of the answers' tokens, as DPO asks for them. Shape (sequences, tokens)."""
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad():
        return model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs


def dpo(model: str, folder: Path) -> Any:
    """A DPO of the pairs in a folder, four in a step, from the policy in `folder/start`; the recipe's is `model`."""
    from tests.train.data import job_for

    start = str(folder / "start")
    return job_for("dpo", model, folder / "pairs.parquet", start=start, fields=FIELDS, global_batch=4)


def train_dpo(rank: int, workers: int, model: str, folder: str) -> None:
    """One worker of a DPO under FSDP. Leaves what the tests ask about in `folder`, and the trained model."""
    import torch
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from transformers import TrainerCallback
    from trl.trainer.utils import add_fused_lm_head, create_model_from_path

    from ultraif_ray.errors import RecipeError
    from ultraif_ray.train.checkpointing import save_whole
    from ultraif_ray.train.worker import make_trainer

    job = dpo(model, Path(folder))
    found: dict[str, Any] = {"gradients between batches": []}

    class Watch(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            weights = [p for p in kwargs["model"].parameters() if p.requires_grad]
            found["gradients between batches"].append(all(p.grad is not None for p in weights))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                save_whole(trainer, f"{folder}/kept")

    join(rank, workers, f"{folder}/rendezvous")
    in_pieces = dataclasses.replace(job, fields=with_fsdp(job.fields))
    trainer = make_trainer(in_pieces, f"{folder}/{rank}", workers, fresh=True)
    found["enabled"] = trainer.is_fsdp_enabled
    found["reference"] = [isinstance(layer, FSDPModule) for layer in trainer.ref_model.model.layers]
    found["reference's type"] = {str(weights.dtype) for weights in trainer.ref_model.parameters()}
    trainer.add_callback(Watch())
    trainer.train()
    found["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found["policy"] = [isinstance(module, FSDPModule) for module in trainer.model.model.layers]
    found["in pieces"] = all(isinstance(weights, DTensor) for weights in trainer.model.parameters())
    found["checkpoints"] = str(trainer.accelerator.state.fsdp_plugin.state_dict_type)
    save_whole(trainer, f"{folder}/model")

    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    places = (("reference", "start/model", trainer.ref_model), ("policy", "model", trainer.model))
    for name, place, sharded in places:
        sharded.eval()
        found[f"{name}'s log-probabilities"] = log_probabilities(sharded, batch)
        whole = create_model_from_path(f"{folder}/{place}", dtype="float32", device_map=None)
        add_fused_lm_head(whole)
        found[f"{name}'s in float32"] = log_probabilities(whole, batch)

    try:  # as it is
        make_trainer(job, f"{folder}/{rank}", workers, fresh=True)
    except RecipeError as error:
        found["refused"] = str(error)
    torch.save(found, f"{folder}/found-{rank}.pt")
    torch.distributed.destroy_process_group()


LORA_FIELDS = {
    "bf16": True,
    "activation_checkpointing": True,
    "model_init_kwargs": {"dtype": "bfloat16", "device_map": None},
    "max_length": 512,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
}
"""What an adapter's training on GPUs is given, said on CPUs."""


def train_lora(rank: int, workers: int, kind: Literal["sft", "dpo"], model: str, folder: str) -> None:
    """One worker of a training of an adapter, under DDP. Leaves what it found in `folder`."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from tests.train.data import job_for
    from ultraif_ray.train.worker import make_trainer

    join(rank, workers, f"{folder}/rendezvous")
    examples = Path(folder, "examples-with-tokens.parquet")
    job = job_for(kind, model, examples, lora={"r": 4}, fields=LORA_FIELDS, global_batch=4)
    trainer = make_trainer(job, f"{folder}/{rank}", workers, fresh=True)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    wrapped = trainer.model_wrapped
    assert isinstance(wrapped, DistributedDataParallel)
    found = {
        "looks for idle weights": wrapped.find_unused_parameters,
        "types": {name: str(p.dtype) for name, p in before.items()},
        "moved": [name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])],
        "weights": {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad},
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    torch.save(found, f"{folder}/found-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    train_sft(*sys.argv[1:])
