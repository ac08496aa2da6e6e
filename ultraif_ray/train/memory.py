"""What a training takes of its GPUs' memory and of its machines', reckoned from the model's shapes: nothing is loaded.

Factors of bytes were read in the sources of TRL 1.16, transformers 5.23, accelerate 1.15, peft and torch 2.13. The sum
is held against torch's own memory tracker (`tests/train/test_memory.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from ultraif_ray.errors import RecipeError
from ultraif_ray.train.settings import adapter_size, counted_once

if TYPE_CHECKING:
    from ultraif_ray.recipe import Train

GB = 10**9

CARDS = {
    "P100": 16, "V100": 32, "T4": 16, "L4": 24, "A10G": 24, "L40S": 48, "RTX-PRO-6000": 96, "A100": 80, "A100-40G": 40,
    "A100-80G": 80, "H20": 96, "H100": 80, "H200": 141, "B200": 180,
}  # fmt: skip
"""GB of GPU memory (NVIDIA's data sheets) by Ray's name of the GPU model (`ray.util.accelerators`). Where a name stands
for several, the largest: what is refused then fits none of them."""

_TIGHT = 0.9
"""Share of a card from which on the rest may not do for what is not reckoned: CUDA's context, NCCL, fragments."""


@dataclass(frozen=True)
class Shapes:
    """The numbers of a model that decide how much memory its training takes."""

    weights: int
    """Parameters; those that are tied count once."""
    adapter: int
    """Parameters of the LoRA adapter that is trained; 0 where the weights themselves are."""
    head: int
    """Parameters of the output layer, vocabulary x hidden; as many as those of the embeddings."""
    layer: int
    """Parameters of the largest decoder layer."""
    layers: int
    """Decoder layers."""
    hidden: int
    """Width of the stream between layers."""
    queries: int
    """Width of all attention heads together."""
    keys: int
    """Width of all heads of keys, or of values, together."""
    mlp: int
    """Width inside the MLP that a token goes through; of several experts, together."""
    quantised: bool = False
    """Whether the checkpoint's weights are."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the moment that takes most of them, by what they are."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    """The second model that DPO compares with."""
    gathered: int
    """Under FSDP the weights and gradients that are whole for a while; else copies of weights in bfloat16."""
    activations: int
    """What backward needs of forward, with its own intermediate results."""
    logits: int
    """A tile of logits (TRL never has them all), and the gradients of the head and of what goes into it."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """In GB, with the parts that count."""
        parts = {field.name: getattr(self, field.name) / GB for field in fields(self)}
        listed = ", ".join(f"{name} {size:.1f}" for name, size in parts.items() if size >= 0.05)
        return f"{self.total / GB:.1f} GB" + (f" ({listed})" if listed else "")


@counted_once
def shapes_of(config: Any, lora: dict[str, Any] | None = None, trust_remote_code: bool = False) -> Shapes:
    """Count a model's parameters, without making them.

    Args:
        config: transformers' configuration of the model.
        lora: fields of peft's `LoraConfig`; None for full fine-tuning.
        trust_remote_code: run Python code that comes with the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        weights = model.num_parameters()
        kinds = model._no_split_modules or ()
        layers = [module for module in model.modules() if type(module).__name__ in kinds]
        layer = max((sum(p.numel() for p in module.parameters()) for module in layers), default=weights)
    adapter = 0 if lora is None else adapter_size(config, lora, trust_remote_code)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    expert = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", 4 * text.hidden_size)
    return Shapes(
        weights=weights,
        adapter=adapter,
        head=text.vocab_size * text.hidden_size,
        layer=layer,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=head_dim * text.num_attention_heads,
        keys=head_dim * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        mlp=expert * (getattr(text, "num_experts_per_tok", None) or 1),
        quantised=bool(getattr(config, "quantization_config", None)),
    )


# ---- a GPU's memory --------------------------------------------------------------------------------------------------

_HEAD_TILE = 4096, 32768
"""Tokens and columns of the tile in which TRL goes through the logits (`trl.kernels.chunked_logprob`)."""

_OPTIMIZER_STATE = {"8bit": 2, "4bit": 1, "sgd": 0, "adafactor": 0, "lion": 4}
"""Bytes of optimizer state per weight, by what is in the name of TRL's `optim`; all others are held to be AdamW's 8."""


def gpu_memory(
    shapes: Shapes, trainer: Literal["sft", "dpo"], trl: dict[str, Any], *, lora: bool, workers: int
) -> Memory | None:
    """The memory of one GPU that a training takes, with batches of the longest examples.

    Full fine-tuning is held to be in float32 and computed in bfloat16 (by FSDP 2, else by autocast), the base below an
    adapter to be in bfloat16. Not reckoned: CUDA's own context, NCCL's buffers, fragments between allocations.

    Args:
        shapes: the model's.
        trainer: TRL's trainer. DPO takes both answers of a pair at once.
        trl: the fields of its config.
        lora: whether an adapter is trained.
        workers: how many train together, one on each GPU.

    Returns:
        None where the fields ask for what is not reckoned: DeepSpeed, quantised weights, examples of any length.
    """
    init, length = trl.get("model_init_kwargs") or {}, trl.get("max_length", 1024)
    if trl.get("deepspeed") or shapes.quantised or "quantization_config" in init or length is None:
        return None
    fsdp = bool(trl.get("fsdp"))
    parts, trained = workers if fsdp else 1, shapes.adapter if lora else shapes.weights
    state = next((size for name, size in _OPTIMIZER_STATE.items() if name in str(trl.get("optim", ""))), 8)
    compared = trainer == "dpo" and not trl.get("precompute_ref_log_probs")
    at_rest = {
        "weights": (2 * shapes.weights + 4 * shapes.adapter if lora else 4 * shapes.weights) // parts,
        # DDP copies them into buckets, unless there is nobody to share them with.
        "gradients": 4 * trained * (2 if workers > 1 and not fsdp else 1) // parts,
        "optimizer": state * trained // parts,
        "reference": (2 if fsdp and not lora else 4) * trained // parts if compared else 0,
    }

    sequences = trl.get("per_device_train_batch_size", 8) * (2 if trainer == "dpo" else 1)
    tokens = sequences * length
    # Sequences of one batch are padded, and then attention is given a mask; FlashAttention needs none.
    unmasked = sequences == 1 or trl.get("packing") or "flash" in str(init.get("attn_implementation", ""))
    mask = 0 if unmasked else sequences * length**2
    stream = 2 if lora or fsdp else 4  # bytes of a number between layers: the embeddings'
    layer = tokens * _saved_by_layer(shapes, lora, stream, masked=not unmasked)
    recomputed = _recomputes(trl)
    kept = tokens * shapes.layers * shapes.hidden * stream if recomputed else shapes.layers * layer
    # What follows the last layer: its output, in float32 for the norm, and the norm's results.
    kept_at_head = kept + mask + tokens * shapes.hidden * (4 + 3 * stream)
    tile = 2 * min(tokens, _HEAD_TILE[0]) * _HEAD_TILE[1]

    # FSDP keeps the head whole between forward and backward, and the reference's, which has no backward, for good. A
    # layer is whole twice, since the next is on its way, and what was summed last, in float32, is still in its buffer.
    reference_head = 2 * shapes.head if fsdp and compared and not lora else 0
    summed = 0 if lora else 4 * max(shapes.head, shapes.layer)
    moments = [
        # Backward through the head, whose gradient is made in float32 and then cast.
        Memory(
            **at_rest,
            gathered=2 * shapes.head + reference_head if fsdp else 0,
            activations=kept_at_head,
            logits=tile + 6 * tokens * shapes.hidden + (0 if lora else 6 * shapes.head),
        ),
        # Backward through the last layer, which is there again in full; peft computes with a copy in float32.
        Memory(
            **at_rest,
            gathered=4 * shapes.layer + summed + reference_head if fsdp else 0 if lora else 2 * shapes.layer,
            activations=kept
            + (layer if recomputed else 0)
            + 3 * mask  # once more as numbers, for the kernel
            + tokens * ((8 if lora else 4) * shapes.mlp + 2 * stream * shapes.hidden),
            logits=0,
        ),
    ]
    if not (fsdp or lora):
        # The end of forward: autocast keeps its copy of every weight until then.
        moments.append(Memory(**at_rest, gathered=2 * shapes.weights, activations=kept_at_head, logits=tile))
    return max(moments, key=lambda moment: moment.total)


def _saved_by_layer(shapes: Shapes, lora: bool, stream: int, masked: bool) -> int:
    """Bytes per token that autograd saves in a decoder layer of two RMS norms, attention and a gated MLP.

    Both norms' inputs in float32, and their results; queries, keys, values and the output of attention (with a mask,
    keys and values are repeated for every head of queries); gate, up, the activation and the product. An adapter saves
    a copy of what goes into it, and frozen weights nothing.
    """
    attention = 4 * shapes.queries + 4 * (shapes.queries if masked else shapes.keys)
    around = 18 * shapes.hidden + 2 * shapes.queries if lora else (16 if stream == 2 else 26) * shapes.hidden
    return around + attention + 8 * shapes.mlp


def _recomputes(trl: dict[str, Any]) -> bool:
    """Whether backward makes the activations of a layer again; on a GPU it does where nothing is said."""
    said = trl.get("activation_checkpointing", trl.get("gradient_checkpointing", True))
    config = trl.get("fsdp_config")
    by_fsdp = {name.removeprefix("fsdp_"): value for name, value in config.items()} if isinstance(config, dict) else {}
    return bool(by_fsdp.get("activation_checkpointing", said))


# ---- one worker's ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """The memory that one worker of a training takes."""

    workers: int
    """With so many: under FSDP the fewest, of which each holds the largest part; else the most."""
    gpu: Memory | None
    """Of its GPU. None on CPUs, and where it is not reckoned."""
    host: int
    """Bytes of its machine's memory while it loads: the whole model, in float32 where it is trained, and DPO's
    reference; under FSDP only a part of that one."""


def footprint(
    shapes: Shapes, trainer: Literal["sft", "dpo"], trl: dict[str, Any], *, lora: bool, train: "Train"
) -> Footprint:
    """What one worker of a training takes; see `gpu_memory` for the arguments.

    Args:
        train: where it runs.
    """
    fsdp, gpu = bool(trl.get("fsdp")), train.gpus > 0
    workers = train.workers.min if fsdp else train.workers.max
    if lora:
        host = (2 if gpu else 4) * shapes.weights + 4 * shapes.adapter
    else:
        reference = 0 if trainer == "sft" else 2 * shapes.weights // workers if fsdp else 4 * shapes.weights
        host = 4 * shapes.weights + reference
    return Footprint(workers, gpu_memory(shapes, trainer, trl, lora=lora, workers=workers) if gpu else None, host)


# ---- against what a card has -----------------------------------------------------------------------------------------


def card(models: Iterable[str]) -> int | None:
    """Bytes of the smallest GPU of these models, by Ray's names; None where there is none, or one is not known."""
    sizes = [CARDS.get(model) for model in models]
    known = [size for size in sizes if size is not None]
    return min(known) * GB if known and len(known) == len(sizes) else None


def check_card(key: str, takes: Footprint, has: int) -> bool:
    """Refuse a training that a GPU could not hold.

    Args:
        key: where the recipe has TRL's fields.
        takes: what a worker takes.
        has: bytes of its GPU.

    Returns:
        Whether it is tight.

    Raises:
        RecipeError: the sum, its parts, and what to change.
    """
    if takes.gpu is None:
        return False
    if takes.gpu.total > has:
        raise RecipeError(
            f"{key}: with {takes.workers} worker(s) training takes about {takes.gpu} of each GPU, which has "
            f"{has / GB:.0f} GB: lower {key}.per_device_train_batch_size or {key}.max_length, shard over more workers "
            f"({key}.fsdp, train.workers.min), train an adapter (lora), or name a larger GPU in train.accelerator_type"
        )
    return takes.gpu.total > _TIGHT * has
