"""TRL's trainers as a training step makes them: without Ray, and with nothing but torch, transformers, peft, trl and
accelerate, and what these require.
"""

import math
import os
from pathlib import Path
from typing import Any, Literal

from tests.gpu_check.part import Failed, Figures, Here
from tests.train.forced import join, log_probabilities, with_fsdp

LENGTH = 512
"""Tokens of every example, and `max_length`: what memory is reckoned for."""

PAIRS = 8
"""Examples; two steps of four each."""

NEAR = 2e-3
"""By how much the sum of a text's log-probabilities in bfloat16 may differ from float32's, relatively. A sum that was
itself rounded to bfloat16 may differ by as much as 4e-3."""

UNDERRATED = 1.1
"""Most of the memory that a training may take, to what `ultraif plan` reckons."""


def _write_examples(here: Here, kind: Literal["sft", "dpo"]) -> str:
    """A file of examples as a training reads them, with their tokens; right answers and wrong ones are easy to tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from ultraif_ray.engine.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(here.asked))

    def tokens(text: str, count: int) -> list[int]:
        ids: list[int] = tokenizer(text * count, add_special_tokens=False)["input_ids"]
        return ids[:count]

    rows = []
    for number in range(PAIRS):
        prompt, right = tokens(f"Case {number}: what is it? ", LENGTH // 8), tokens("It is a row. ", LENGTH * 7 // 8)
        row = {"prompt_ids": prompt, "chosen_ids": right, "rejected_ids": tokens("Workers train. ", len(right))}
        if kind == "sft":
            row = {"input_ids": prompt + right, "labels": [-100] * len(prompt) + right}
        rows.append({"id": number, **row})
    file = f"{here.scratch}/{kind}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def _job(here: Here, kind: Literal["sft", "dpo"], fields: dict[str, Any], lora: dict[str, Any] | None = None) -> Any:
    from ultraif_ray.train.job import Job

    return Job(
        kind=kind, model=here.asked, start="", chat_template="", trust_remote_code=False, lora=lora, fields=fields,
        train=f"{here.scratch}/{kind}.parquet", held_out="", output=f"{here.scratch}/{kind}", global_batch=PAIRS // 2,
        seed=0, gpu=here.gpus > 0, save_every_s=math.inf,
    )  # fmt: skip


def _fields(here: Here) -> dict[str, Any]:
    """As a recipe has them, but for steps large enough to be seen."""
    return {
        "max_length": LENGTH, "per_device_train_batch_size": 2, "num_train_epochs": 1, "warmup_steps": 0,
        "learning_rate": 1e-4, "save_strategy": "no",
    }  # fmt: skip


# ---- DPO under FSDP --------------------------------------------------------------------------------------------------


def dpo(here: Here) -> Figures:
    """Two steps of DPO under FSDP 2 in bfloat16: on one GPU or two, over NCCL; without one in two processes, over gloo,
    which accelerate is made to take for GPUs.
    """
    import torch

    _write_examples(here, "dpo")
    workers = min(2, here.gpus) or 2
    torch.multiprocessing.spawn(_train_dpo, (workers, here), nprocs=workers)
    found = [torch.load(f"{here.scratch}/dpo-{rank}.pt") for rank in range(workers)]
    for one in found:
        _check_dpo(one, workers)
    first = found[0]
    figures = {"workers": workers, "losses": [round(loss, 4) for loss in first["losses"]]}
    for name in ("policy", "reference"):
        ours, whole = (first[f"{name}'s log-probabilities"], first[f"{name}'s in float32"])
        figures[f"{name}'s log-probability, and in float32"] = f"{ours[0].sum():.2f}, {whole[0].sum():.2f}"
    return figures | ({"memory in GB": first["peak"], "reckoned": first["reckoned"]} if here.gpus else {})


def _check_dpo(found: dict[str, Any], workers: int) -> None:
    """What a worker found, against what docs/design.md says of FSDP."""
    import torch

    if not found["enabled"]:
        raise Failed("accelerate dropped FSDP")
    if not found["policy in pieces"] or not found["reference in pieces"]:
        raise Failed("the policy or the reference is whole in a worker")
    layers = found["layers"]
    if found["units of the policy"] != layers or (workers > 1 and found["units of the reference"] != layers):
        raise Failed(f"of {layers} layers {found['units of the policy']} of the policy and "
                     f"{found['units of the reference']} of the reference are in pieces of their own")  # fmt: skip
    first, *_, last = found["losses"]
    if abs(first - math.log(2)) > 1e-4:
        raise Failed(f"the first loss is {first:.6f}, not ln 2: the reference is not the policy that it was")
    if not last < first - 0.01:
        raise Failed(f"nothing is learnt: the losses are {found['losses']}")
    for name in ("policy", "reference"):
        ours, whole = found[f"{name}'s log-probabilities"], found[f"{name}'s in float32"]
        if ours.dtype != torch.float32:
            raise Failed(f"the {name} hands out its log-probabilities in {ours.dtype}")
        apart = ((ours.sum(1) - whole.sum(1)) / whole.sum(1)).abs().max().item()
        if apart > NEAR:
            raise Failed(f"the {name}'s log-probabilities are off by {apart:.1%}: {ours.sum(1)}, {whole.sum(1)}")
    if found["peak"] > UNDERRATED * found["reckoned"] > 0:
        raise Failed(f"it took {found['peak']} GB of a GPU, and `ultraif plan` reckons {found['reckoned']} GB")


def _train_dpo(rank: int, workers: int, here: Here) -> None:
    """One worker of it. Leaves what it found in the scratch folder."""
    import torch
    from torch.distributed.fsdp import FSDPModule
    from trl.trainer.utils import add_fused_lm_head, create_model_from_path

    from ultraif_ray.engine.models import resolve_model
    from ultraif_ray.train.checkpointing import save_whole
    from ultraif_ray.train.worker import make_trainer

    join(rank, workers, f"{here.scratch}/rendezvous", "nccl" if here.gpus else "gloo")
    fields = _fields(here) | {"fsdp": True}
    if not here.gpus:
        fields |= {"bf16": True, "fsdp_config": {"activation_checkpointing": True}}
    trainer = make_trainer(
        _job(here, "dpo", fields if here.gpus else with_fsdp(fields)), f"{here.scratch}/{rank}", workers, fresh=True
    )
    found: dict[str, Any] = {"reference in pieces": _in_pieces(trainer.ref_model)}  # forward leaves its head whole
    trainer.train()
    found |= {
        "policy in pieces": _in_pieces(trainer.model),
        "enabled": trainer.is_fsdp_enabled,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "layers": len(trainer.model.model.layers),
        "peak": 0.0,
        "reckoned": 0.0,
    }
    if here.gpus:
        found |= {"peak": _gb(torch.cuda.max_memory_allocated()), "reckoned": _reckoned(here, fields, workers)}
    folder = f"{here.scratch}/dpo-model"
    save_whole(trainer, folder)

    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    batch = {name: one.to(trainer.args.device) for name, one in batch.items() if isinstance(one, torch.Tensor)}
    start = resolve_model(here.asked)
    for name, place, sharded in (("reference", start, trainer.ref_model), ("policy", folder, trainer.model)):
        sharded.eval()
        found[f"units of the {name}"] = sum(isinstance(layer, FSDPModule) for layer in sharded.model.layers)
        found[f"{name}'s log-probabilities"] = log_probabilities(sharded, batch).cpu()
        whole = create_model_from_path(place, dtype="float32", device_map=None).to(trainer.args.device)
        add_fused_lm_head(whole)
        found[f"{name}'s in float32"] = log_probabilities(whole, batch).cpu()
        del whole
    torch.save(found, f"{here.scratch}/dpo-{rank}.pt")
    torch.distributed.destroy_process_group()


def _in_pieces(model: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return all(isinstance(weights, DTensor) for weights in model.parameters())


def _reckoned(here: Here, fields: dict[str, Any], workers: int) -> float:
    from transformers import AutoConfig

    from ultraif_ray.engine.models import resolve_model
    from ultraif_ray.train.memory import gpu_memory, shapes_of

    shapes = shapes_of(AutoConfig.from_pretrained(resolve_model(here.asked)))
    memory = gpu_memory(shapes, "dpo", fields, lora=False, workers=workers)
    return _gb(memory.total) if memory else 0.0


def _gb(size: int) -> float:
    return round(size / 1e9, 2)


# ---- an adapter ------------------------------------------------------------------------------------------------------


def adapter(here: Here) -> Figures:
    """Two steps of SFT of an adapter, in this process: what it learns, and what is saved."""
    if here.gpus:  # of several, transformers would take all in one process
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    from ultraif_ray.train.checkpointing import save_whole
    from ultraif_ray.train.worker import make_trainer

    _write_examples(here, "sft")
    trainer = make_trainer(_job(here, "sft", _fields(here), lora={"r": 8}), f"{here.scratch}/sft", 1, fresh=True)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not losses[-1] < losses[0]:
        raise Failed(f"nothing is learnt: the losses are {losses}")
    save_whole(trainer, f"{here.scratch}/sft-model")
    saved = [file.name for file in Path(here.scratch, "sft-model").glob("*.safetensors")]
    if saved != ["adapter_model.safetensors"]:
        raise Failed(f"an adapter was to be saved, and there are {saved}")
    return {"losses": [round(loss, 4) for loss in losses]}
