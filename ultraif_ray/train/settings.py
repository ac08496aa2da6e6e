"""From the recipe's training sections to TRL's and peft's own configs, and every fault in them found on the driver."""

import dataclasses
import difflib
import functools
import importlib.util
import json
import os
import platform
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ultraif_ray.engine.devices import check_devices
from ultraif_ray.errors import RecipeError
from ultraif_ray.train.fsdp import (
    check_layers,
    check_plugin,
    check_settings,
    fsdp_arguments,
    layers_to_wrap,
    set_precision,
)
from ultraif_ray.train.job import Job

if TYPE_CHECKING:  # what makes a trainer wants neither Ray nor pydantic, as `make gpu-check` does
    from ultraif_ray.flow.cluster import Need
    from ultraif_ray.recipe import Composer, Policy, Recipe, Train

Count = TypeVar("Count")


def trl_arguments(fields: dict[str, Any], *, gpu: bool, lora: bool, seed: int, held_out: bool) -> dict[str, Any]:
    """The arguments of TRL's config for one training: ours, then the recipe's.

    Args:
        fields: the recipe's own, under TRL's names.
        gpu: bfloat16, gradient checkpointing and, where the package flash-attn is installed, FlashAttention 2 on a GPU;
            float32 without them on CPU, where bfloat16 is slow.
        lora: whether only an adapter is trained. Then the frozen base is held in bfloat16; weights that are trained are
            held in float32, since steps as small as the paper's vanish in bfloat16.
        seed: for the order of rows and for dropout.
        held_out: whether there is a held-out split to report the loss of.
    """
    from transformers.utils import is_flash_attn_2_available

    # DPO's reference is loaded with these too; `auto` would offload it where it does not fit, and crawl.
    init: dict[str, Any] = {"dtype": "bfloat16" if gpu and lora else "float32", "device_map": None}
    if gpu and is_flash_attn_2_available():
        init["attn_implementation"] = "flash_attention_2"
    ours: dict[str, Any] = {
        "use_cpu": not gpu,
        "bf16": gpu and not fields.get("fp16", False),
        "activation_checkpointing": fields.get("gradient_checkpointing", gpu),
        "dataloader_pin_memory": gpu,
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": 0.1,
        "save_total_limit": 1,  # of the worker's own copies; Ray Train keeps what it was given
        "logging_steps": 1,
        "eval_strategy": "epoch" if held_out else "no",
        "eval_on_start": held_out,
        # Else the loss is a mean of batches' means, which are others with another number of workers.
        "per_device_eval_batch_size": 1,
        "report_to": "none",
        "disable_tqdm": True,
        # Ids stay with their rows; TRL's collators pass over columns they do not know.
        "remove_unused_columns": False,
    }
    merged = ours | fields | (fsdp_arguments(fields, gpu) if fields.get("fsdp") else {})
    merged["model_init_kwargs"] = init | (fields.get("model_init_kwargs") or {})
    if not (fields.get("packing") or fields.get("eval_packing")):
        merged["max_length"] = None  # those too long were left out before; TRL would go through all again, to cut none
    if not held_out:
        merged |= {"eval_strategy": "no", "eval_on_start": False}
    return merged


def without_padding(arguments: dict[str, Any]) -> dict[str, Any]:
    """SFT's arguments, with the examples of a batch laid end to end where FlashAttention keeps them apart: nothing is
    computed for what would fill up the shorter ones. What the recipe says of it stays; packing does the same.

    Args:
        arguments: those of `trl_arguments`.
    """
    packs = arguments.get("packing") or arguments.get("eval_packing")
    batches = arguments.get("per_device_train_batch_size", 8) > 1
    flash = "flash" in str(arguments["model_init_kwargs"].get("attn_implementation", ""))
    return {"padding_free": batches and flash and not packs} | arguments


def trl_config(trainer: str, arguments: dict[str, Any], output_dir: str) -> Any:
    """Build TRL's `SFTConfig` (`sft`) or `DPOConfig` (`dpo`)."""
    config = _config_class(trainer)(output_dir=output_dir, **arguments)
    set_precision(config)
    return config


def lora_config(fields: dict[str, Any] | None) -> Any:
    """Build peft's `LoraConfig`, on all linear layers unless fields say otherwise; None for full fine-tuning."""
    if fields is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **fields})


def counted_once(count: Callable[..., Count]) -> Callable[..., Count]:
    """Count the parameters of a model once: it takes seconds, and the trainings of a run mostly have the same model."""
    known: dict[str, Count] = {}

    @functools.wraps(count)
    def counted(config: Any, lora: dict[str, Any] | None = None, trust_remote_code: bool = False) -> Count:
        key = json.dumps([config.to_dict(), lora], sort_keys=True, default=str)
        if key not in known:
            known[key] = count(config, lora, trust_remote_code)
        return known[key]

    return counted


@counted_once
def adapter_size(config: Any, lora: dict[str, Any], trust_remote_code: bool = False) -> int:
    """Count the parameters of a LoRA adapter on a model, without making either.

    Args:
        config: transformers' configuration of the model.
        lora: fields of peft's `LoraConfig`.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ValueError: peft refuses it, for instance since the model has no such module.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by names that it gives up
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        adapted = get_peft_model(model, lora_config(lora))
    return int(adapted.num_parameters(only_trainable=True))


def _config_class(trainer: str) -> Any:
    # The trainers pull in much more than these two modules do.
    if trainer == "dpo":
        from trl.trainer.dpo_config import DPOConfig

        return DPOConfig
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig


# ---- checks on the driver --------------------------------------------------------------------------------------------


def check_place(recipe: "Recipe", fields: dict[str, Any]) -> None:
    """Refuse a training that could not run where the recipe wants it, or could not read what is exported.

    Args:
        recipe: the run's recipe.
        fields: the training's TRL fields.

    Raises:
        RecipeError: what to change.
    """
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise RecipeError(f"training needs the `train` extra ({error}): pip install 'ultraif-ray[train]'") from None
    if "parquet" not in recipe.export.files or recipe.export.layout != "trl":
        raise RecipeError(
            f"training reads the sets as Parquet in TRL's layout, but export.files={list(recipe.export.files)} and "
            f"export.layout={recipe.export.layout}: add parquet, set layout to trl, or leave out composer and policy"
        )
    if recipe.train.gpus not in (0, 1):
        raise RecipeError(
            f"train.gpus is {recipe.train.gpus:g}: a worker trains on one GPU; ask for more workers with train.workers"
        )
    if fields.get("fsdp") and not recipe.train.gpus:
        raise RecipeError("`fsdp` is set, but train.gpus is 0: accelerate runs FSDP on GPUs only; set train.gpus to 1")
    elastic = recipe.train.workers.min < recipe.train.workers.max
    if elastic and recipe.train.labels:  # and then wait for ever for those that have no place
        raise RecipeError(
            f"train.labels is {recipe.train.labels}, but Ray Train counts what an elastic training may have on all "
            "nodes, whatever their labels: set train.workers.min and max to the same, or name the nodes by "
            "train.accelerator_type or train.resources"
        )
    if elastic and fields.get("deepspeed"):
        raise RecipeError(
            "DeepSpeed's checkpoints hold for one number of workers: set train.workers.min and max to the same, or "
            "use fsdp"
        )


def worker_need(place: "Train", count: int | None = None) -> "Need":
    """What `count` training workers, by default the fewest, ask of the cluster."""
    from ultraif_ray.flow.cluster import Need

    advice = "lower train.workers.min, train.cpus or train.gpus, or add nodes"
    count = count or place.workers.min
    return Need("a training worker", count, place.asked | place.accelerator, place.labels, advice)


def check_machine(job: Job) -> None:
    """Refuse a GPU worker's machine that cannot train as the job says: what the driver, which may be on a machine of
    another kind, cannot see.

    Raises:
        RecipeError: what the machine lacks.
    """
    check_devices(1)
    wanted = (job.fields.get("model_init_kwargs") or {}).get("attn_implementation")
    # With the package `kernels`, transformers gets FlashAttention from the hub.
    if wanted == "flash_attention_2" and not any(map(importlib.util.find_spec, ("flash_attn", "kernels"))):
        raise RecipeError(
            f"model_init_kwargs.attn_implementation is {wanted}, but {platform.node()} does not have the package "
            "flash-attn: build it there, or leave the field out (then it is used where it is installed)"
        )
    if job.fields.get("use_liger_kernel") and importlib.util.find_spec("liger_kernel") is None:
        raise RecipeError(
            f"use_liger_kernel is set, but {platform.node()} does not have the package liger-kernel: install it there, "
            "or leave the field out"
        )


def check_fields(key: str, trainer: str, fields: dict[str, Any], seed: int) -> None:
    """Refuse fields that TRL's config does not have, and values that it or its trainer would fail on.

    Args:
        key: where the recipe has the fields.
        trainer: `sft` or `dpo`.
        fields: the recipe's fields, under TRL's names.
        seed: the run's seed.

    Raises:
        RecipeError: naming the field, the value seen and what would be right.
    """
    check_values(key, trainer, fields)
    if fields.get("fsdp_config") and not fields.get("fsdp"):
        raise RecipeError(f"{key}.fsdp_config does nothing without {key}.fsdp: set it to true, or leave both out")
    _check_deepspeed(key, fields.get("deepspeed"))
    # This machine may have no GPU where the workers have: what depends on one is left to them.
    here = {name: value for name, value in fields.items() if name not in ("bf16", "fp16", "tf32", "deepspeed")}
    arguments = trl_arguments(here, gpu=False, lora=False, seed=seed, held_out=True)
    with tempfile.TemporaryDirectory() as scratch, _environment_kept():
        try:
            config = trl_config(trainer, arguments, scratch)
        except (ValueError, TypeError, ImportError) as error:
            raise RecipeError(f"{key}: TRL refuses it: {' '.join(str(error).split())[:400]}") from None
        if config.fsdp:
            check_plugin(key, config)


def check_values(key: str, trainer: str, fields: dict[str, Any]) -> None:
    """The part of `check_fields` that looks at each field by itself, such as those that are laid over others."""
    known = [field.name for field in dataclasses.fields(_config_class(trainer)) if field.init]
    hints = get_type_hints(_config_class(trainer))
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see TRL's documentation for the fields there are"
            raise RecipeError(f"{key}.{name} is not a field of TRL's {_config_class(trainer).__name__}; {hint}")
        if name != "fsdp":  # whose hint is of the form that transformers gives up
            _check_type(f"{key}.{name}", fields[name], hints[name])
    check_settings(key, fields)
    if trainer == "dpo":
        _check_losses(key, fields.get("loss_type", []))
    _check_reports(key, fields.get("report_to") or [])


def _check_type(key: str, value: Any, hint: Any) -> None:
    """TRL's config takes values of any type, and fails on them in a worker."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # Strict: the value goes to TRL as it is, so that text which could be read as a number is no number.
        TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value, strict=True)
    except ValidationError as error:
        raise RecipeError(f"{key}: {value!r} cannot be used: {error.errors()[0]['msg']}") from None


def _check_losses(key: str, losses: str | list[str]) -> None:
    """TRL itself finds an unknown loss in the first step of training; the help of its field names those there are."""
    loss_type = next(field for field in dataclasses.fields(_config_class("dpo")) if field.name == "loss_type")
    known = re.findall(r"`'(\w+)'`", loss_type.metadata.get("help", ""))
    for loss in [losses] if isinstance(losses, str) else losses:
        if known and loss not in known:
            raise RecipeError(f"{key}.loss_type: '{loss}' is not a loss of TRL's; those are {', '.join(known)}")


def _check_reports(key: str, trackers: str | list[str]) -> None:
    """transformers itself finds a missing tracker in a worker."""
    from transformers.integrations import get_available_reporting_integrations

    there = ["none", "all", *get_available_reporting_integrations()]
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        if tracker not in there:
            raise RecipeError(f"{key}.report_to: '{tracker}' is not installed, or no tracker of transformers' at all")


def _check_deepspeed(key: str, config: dict[str, Any] | str | None) -> None:
    """TRL reads this only where deepspeed and a GPU are; here it is looked at without either."""
    if not config:
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(f"{key}.deepspeed needs the package deepspeed, which is not installed: add it, or use fsdp")
    check_zero(key, config)


def check_zero(key: str, config: dict[str, Any] | str) -> None:
    """Refuse settings under which a trained model would be in pieces.

    Raises:
        RecipeError: what to set, or that the file cannot be read.
    """
    if isinstance(config, str):
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{key}.deepspeed: {config} cannot be read: {error}") from None
    zero = config.get("zero_optimization", {}) if isinstance(config, dict) else {}
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise RecipeError(
            f"{key}.deepspeed: ZeRO 3 saves no whole model unless zero_optimization."
            "stage3_gather_16bit_weights_on_model_save is true: set it"
        )


@contextmanager
def _environment_kept() -> Iterator[None]:
    """transformers writes FSDP's settings into the environment, where a Ray started later would hand them on."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_lora(key: str, fields: dict[str, Any] | None) -> None:
    try:
        lora_config(fields)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{key}: peft's LoraConfig refuses it: {error}") from None


def check_model(key: str, section: "Composer | Policy") -> None:
    """Refuse a model without a tokenizer that could be trained with, and LoRA fields that peft does not take.

    Raises:
        RecipeError: naming the key, the value seen and what would be right.
    """
    _check_lora(f"{key}.lora", section.lora)
    load_tokenizer(key, section)


def check_modules(key: str, section: "Composer | Policy", fields_key: str, fields: dict[str, Any]) -> None:
    """Refuse modules to adapt (LoRA) and layers to wrap (FSDP) that the model does not have: peft and accelerate would,
    in a worker.

    Args:
        key: where the recipe has the model: `composer` or `policy`.
        section: that section.
        fields_key: where the recipe has the fields of TRL's config.
        fields: those fields.

    Raises:
        RecipeError: naming the field, the value seen and what would be right.
    """
    wrapped = layers_to_wrap(fields)
    if section.lora is None and not wrapped:
        return
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(key, section)
    if wrapped:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
        check_layers(fields_key, wrapped, model)
    if section.lora is not None:
        try:
            adapter_size(config, section.lora, section.trust_remote_code)
        except ValueError as error:
            raise RecipeError(f"{key}.lora: peft refuses it: {' '.join(str(error).split())[:300]}") from None


def check_end(tokenizer: Any, fields: dict[str, Any]) -> None:
    """Refuse a chat template whose turns end with a token that ends no answer: the policy would be trained to write it,
    and the engine that serves it in the next round would go on after it.

    Args:
        tokenizer: the policy's, with the recipe's chat template.
        fields: the fields of `sft`.

    Raises:
        RecipeError: what to set `sft.eos_token` to.
    """
    end = fields.get("eos_token") or tokenizer.eos_token
    if end not in tokenizer.get_vocab():
        raise RecipeError(f"sft.eos_token is {end!r}, which is no token of policy.model")
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(answer)[2]
    if end not in after:
        written = f"ends an answer with {after!r}" if after else "writes nothing after an answer"
        raise RecipeError(
            f"policy.chat_template {written}, but the policy stops at {end!r}: set sft.eos_token to the token that the "
            "template writes there"
        )


def load_config(key: str, section: "Composer | Policy") -> Any:
    """A model's configuration, which has its shapes.

    Args:
        key: where the recipe has the model: `composer` or `policy`.
        section: that section.

    Raises:
        RecipeError: there is no such model.
    """
    from transformers import AutoConfig

    from ultraif_ray.engine.models import resolve_model

    try:
        return AutoConfig.from_pretrained(
            resolve_model(section.model, weights=False), trust_remote_code=section.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _no_model(f"{key}.model", section.model, error) from None


def _no_model(key: str, model: str, error: Exception) -> RecipeError:
    return RecipeError(f"{key} is '{model}', which cannot be loaded: {' '.join(str(error).split())[:300]}")


def load_tokenizer(key: str, section: "Composer | Policy") -> Any:
    """A model's tokenizer, with the recipe's chat template where it names one.

    Args:
        key: where the recipe has the model: `composer` or `policy`.
        section: that section.

    Raises:
        RecipeError: there is no such model, or it has no chat template.
    """
    from transformers import AutoTokenizer

    from ultraif_ray.engine.models import check_access, resolve_model
    from ultraif_ray.recipe import Policy

    key, model = f"{key}.model", section.model
    chat_template = section.chat_template if isinstance(section, Policy) else None

    check_access(key, model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_model(model, weights=False), trust_remote_code=section.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _no_model(key, model, error) from None
    if chat_template:
        try:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"policy.chat_template is '{chat_template}', which cannot be read: {error}") from None
    if not tokenizer.chat_template:
        raise RecipeError(
            f"{key} is '{model}', which has no chat template: give one in policy.chat_template (a Jinja file), or "
            "choose a chat model"
        )
    if tokenizer.eos_token is None:
        raise RecipeError(f"{key} is '{model}', whose tokenizer has no end-of-sequence token: an answer could not end")
    return tokenizer
