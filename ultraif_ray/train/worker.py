"""What every Ray Train worker runs: TRL's own trainer, with an order of rows that survives anything (`order.py`)."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from transformers.utils import logging as transformers_logging
from trl.trainer.utils import create_model_from_path

from ultraif_ray.engine.models import resolve_model
from ultraif_ray.train.checkpointing import (
    MASTER,
    ROWS_SEEN,
    CheckpointCallback,
    save_whole,
    upload_metrics,
    upload_trained,
)
from ultraif_ray.train.fsdp import check_honoured, load_in_pieces
from ultraif_ray.train.job import TOKENS, Job, tokenizer_of
from ultraif_ray.train.order import OrderedDPOTrainer, OrderedSFTTrainer, with_filler, with_row_ids
from ultraif_ray.train.settings import lora_config, trl_arguments, trl_config, without_padding


def train_worker(config: dict[str, Any]) -> None:
    """Train, from the last checkpoint if there is one, and leave the model in the step's folder."""
    import ray.train  # here, since a trainer can be made without

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
        if config.get("scoreboard") is not None and context.get_world_rank() == 0:
            config["scoreboard"].add.remote({}, f"{context.get_world_size()} workers load {job.start or job.model}")
        trainer = make_trainer(job, scratch, context.get_world_size(), fresh=checkpoint is None)
        trainer.add_callback(CheckpointCallback(trainer, job, config.get("scoreboard"), context.get_world_rank()))
        if checkpoint is None:
            trainer.train()
        else:
            with checkpoint.as_directory() as folder:
                trainer.seen = np.load(Path(folder) / ROWS_SEEN).tolist()
                trainer.train(resume_from_checkpoint=folder)
        save_whole(trainer, f"{scratch}/model")
        if context.get_world_rank() == 0:
            upload_metrics(trainer, scratch, job.output)
            upload_trained(f"{scratch}/model", job)


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
    args = trl_config(job.kind, without_padding(arguments) if job.kind == "sft" else arguments, scratch)
    trainer_class = OrderedDPOTrainer if job.kind == "dpo" else OrderedSFTTrainer
    reference = {"ref_model": load_in_pieces(_start(job), workers, args)} if _reference_is_ours(job, args) else {}
    model = _model(job, args.model_init_kwargs)
    if job.lora is not None and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = _leaves_weights_out(model.config)
    trainer = trainer_class(
        model=model,
        **reference,
        args=args,
        train_dataset=_examples(job, job.train),
        eval_dataset=_examples(job, job.held_out) if job.held_out else None,
        processing_class=tokenizer_of(job),
        peft_config=None if job.start else lora_config(job.lora),
    )
    check_honoured(trainer)
    trainer.global_batch = job.global_batch
    if len(trainer.train_dataset) <= job.global_batch and args.num_train_epochs <= 1:
        args.warmup_steps = 0  # the first step of a warm-up has a learning rate of 0, and there is no other
    trainer.train_dataset = with_filler(trainer.train_dataset, job.kind)
    trainer.data_collator = with_row_ids(trainer.data_collator)
    return trainer


def _model(job: Job, init: dict[str, Any]) -> Any:
    """The model to train. DPO's reference is made from the same start: the same folder, or a frozen copy of the
    adapter; so a resumed round keeps the reference that it began with.
    """
    init = {"trust_remote_code": job.trust_remote_code, **init}
    if job.lora is None or not job.start:
        return create_model_from_path(_start(job), **init)
    from peft import PeftModel

    base = create_model_from_path(resolve_model(job.model), **init)
    return PeftModel.from_pretrained(base, _start(job), is_trainable=True)


def _start(job: Job) -> str:
    """The folder of the model or adapter that training starts from."""
    if not job.start:
        return resolve_model(job.model)
    from ultraif_ray.store.folder import filesystem

    fs, path = filesystem(job.start)
    return resolve_model(f"{job.start}/{MASTER if fs.exists(f'{path}/{MASTER}') else 'model'}")


def _reference_is_ours(job: Job, args: Any) -> bool:
    """Whether DPO has a second model under FSDP. One that changes, or is asked before training only, is left to TRL."""
    whole_dpo = job.kind == "dpo" and job.lora is None
    return bool(whole_dpo and args.fsdp and not (args.sync_ref_model or args.precompute_ref_log_probs))


def _leaves_weights_out(config: Any) -> bool:
    """Whether a step may pass by weights that an adapter is on: experts, or the eyes of a model that reads text here.
    DDP then looks for them in each step; elsewhere that is a search for nothing.
    """
    return config.get_text_config() is not config or any("expert" in name for name in config.to_dict())


def _examples(job: Job, uri: str) -> Dataset:
    """Examples as a memory-mapped Arrow table: on disk once per machine, not in the memory of every worker. What they
    learn from is in it, the tokens; what else is known of an example stays in the file.
    """
    examples: Dataset = load_dataset("parquet", data_files=uri, columns=["id", *TOKENS[job.kind]], split="train")
    return examples.add_column("row", np.arange(len(examples)))
