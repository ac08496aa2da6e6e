"""FSDP 2: weights, gradients and optimizer state in pieces over all workers. What the libraries leave to be said, and
what they would pass over without a word.
"""

import difflib
from typing import Any

from ultraif_ray.errors import RecipeError

SETTINGS = (
    "activation_checkpointing",
    "auto_wrap_policy",
    "cpu_offload",
    "cpu_ram_efficient_loading",
    "min_num_params",
    "reshard_after_forward",
    "state_dict_type",
    "transformer_layer_cls_to_wrap",
    "version",
)
"""What transformers 5.23 reads of `fsdp_config` for FSDP 2 (`TrainingArguments._process_fsdp_args`), also with `fsdp_`
in front. It drops every other key."""


def fsdp_arguments(fields: dict[str, Any], gpu: bool) -> dict[str, Any]:
    """What `fsdp: true` changes among the arguments of TRL's config; what the recipe says of the same stays.

    - Activations are recomputed by FSDP's own wrapper: the trainer's would gather each layer once more.
    - Checkpoints are sharded: none has to fit into one worker.
    - Gradients are reduced after each batch, not after the last of a step: between them FSDP would keep the gradient
      whole on every GPU, 32 GB for 8 billion weights.

    Args:
        fields: the recipe's, under TRL's names, with `fsdp`.
        gpu: whether activations are recomputed where the fields do not say.
    """
    recompute = fields.get("activation_checkpointing", fields.get("gradient_checkpointing", gpu))
    ours = {"activation_checkpointing": recompute, "state_dict_type": "SHARDED_STATE_DICT"}
    given = {name.removeprefix("fsdp_"): value for name, value in (fields.get("fsdp_config") or {}).items()}
    arguments: dict[str, Any] = {"fsdp_config": ours | given, "activation_checkpointing": False}
    accelerator = fields.get("accelerator_config") or {}
    if isinstance(accelerator, dict):  # else a file's name
        accumulation = {"sync_each_batch": True} | (accelerator.get("gradient_accumulation_kwargs") or {})
        arguments["accelerator_config"] = accelerator | {"gradient_accumulation_kwargs": accumulation}
    return arguments


def set_precision(config: Any) -> None:
    """Compute in bfloat16, but sum gradients and hand out what the model returns in float32.

    By itself accelerate casts all that a model returns to bfloat16. DPO sums log-probabilities of hundreds of tokens
    from it, and numbers of that size are 2 to 8 apart in bfloat16, more than a step of training moves them.

    Args:
        config: TRL's, changed in place.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if config.fsdp_plugin_args and config.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        config.fsdp_plugin_args["mixed_precision_policy"] = policy


def load_in_pieces(place: str, workers: int, config: Any) -> Any:
    """DPO's reference, layer by layer in pieces from the start: no worker ever holds it whole, and its forward passes
    gather a layer at a time. TRL itself would load it whole, in float32, in every worker, and gather it whole in each
    forward pass.

    With bfloat16 the result is the same to the bit: FSDP casts float32 weights to it before it computes with them.

    Args:
        place: the model's folder.
        workers: how many share it; all call this together. One alone gets it whole, for TRL to wrap.
        config: TRL's.
    """
    from transformers.distributed import DistributedConfig
    from trl.trainer.utils import create_model_from_path

    pieces = DistributedConfig(fsdp_size=workers, fsdp_mixed_precision=config.bf16)
    init = {"trust_remote_code": config.trust_remote_code, **config.model_init_kwargs}
    init |= {"dtype": "bfloat16" if config.bf16 else "float32", "distributed_config": pieces}
    return create_model_from_path(place, **init)


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_settings(key: str, fields: dict[str, Any]) -> None:
    """Refuse values of `fsdp` and keys of `fsdp_config` that transformers would read otherwise, or not at all.

    Args:
        key: where the recipe has the fields.
        fields: the recipe's fields, under TRL's names.

    Raises:
        RecipeError: naming the field, the value seen and what would be right.
    """
    if not isinstance(fields.get("fsdp") or False, bool):
        raise RecipeError(f"{key}.fsdp is {fields['fsdp']!r}: set it to true, and all else in {key}.fsdp_config")
    config = fields.get("fsdp_config") or {}
    if not isinstance(config, dict):
        raise RecipeError(
            f"{key}.fsdp_config is {config!r}: write the settings themselves, a worker may not see a file"
        )
    for name in config:
        if name.removeprefix("fsdp_") not in SETTINGS:
            close = difflib.get_close_matches(name.removeprefix("fsdp_"), SETTINGS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"those there are: {', '.join(SETTINGS)}"
            raise RecipeError(f"{key}.fsdp_config.{name} is not a setting of FSDP 2; {hint}")
    version = config.get("version", config.get("fsdp_version", 2))
    if version != 2:
        raise RecipeError(f"{key}.fsdp_config.version is {version!r}: only FSDP 2 is supported; leave it out")


def check_plugin(key: str, config: Any) -> None:
    """Refuse values that accelerate would fail on in a worker. It writes some of them into the environment.

    Args:
        key: where the recipe has the fields.
        config: TRL's.

    Raises:
        RecipeError: naming the value.
    """
    from accelerate import FullyShardedDataParallelPlugin

    try:
        FullyShardedDataParallelPlugin(**config.fsdp_plugin_args)
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"{key}.fsdp_config: accelerate refuses it: {' '.join(str(error).split())[:400]}") from None


def layers_to_wrap(fields: dict[str, Any]) -> list[str]:
    """The classes of layers that the recipe's fields name; empty where the model's own are taken."""
    given = {name.removeprefix("fsdp_"): value for name, value in (fields.get("fsdp_config") or {}).items()}
    named = given.get("transformer_layer_cls_to_wrap") or []
    return [named] if isinstance(named, str) else list(named)


def check_layers(key: str, wrapped: list[str], model: Any) -> None:
    """Refuse layers to wrap that a model does not have.

    Args:
        key: where the recipe has the fields.
        wrapped: their classes.
        model: it, with or without weights.

    Raises:
        RecipeError: naming the class, and what would be right.
    """
    there = {type(module).__name__ for module in model.modules()}
    for name in wrapped:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"those there are: {', '.join(sorted(there))}"
            raise RecipeError(
                f"{key}.fsdp_config.transformer_layer_cls_to_wrap: the model has no layer '{name}'; {hint}"
            )


def check_honoured(trainer: Any) -> None:
    """Refuse to train without FSDP what is to be trained with it.

    Args:
        trainer: TRL's, made from the recipe's fields.

    Raises:
        RecipeError: accelerate has dropped it.
    """
    if trainer.args.fsdp and not trainer.is_fsdp_enabled:
        device = trainer.args.device.type
        raise RecipeError(
            f"`fsdp` is set, but accelerate runs FSDP on GPUs only, and this worker computes on '{device}': set "
            "train.gpus to 1, or leave fsdp out"
        )
