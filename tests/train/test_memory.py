"""What a training takes of a GPU: the estimate against torch's own memory tracker, under fake tensors, and what it says
of the sizes that were published."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import trl.kernels.chunked_logprob
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_apply_ac, fsdp2_prepare_model
from peft import get_peft_model
from ray.util.accelerators import accelerators
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from trl.trainer.utils import add_fused_lm_head

from ultraif_ray.errors import RecipeError
from ultraif_ray.recipe import Replicas, Train
from ultraif_ray.train.memory import CARDS, GB, Footprint, card, check_card, footprint, gpu_memory, shapes_of
from ultraif_ray.train.settings import lora_config

Trainer = Literal["sft", "dpo"]


def llama(hidden: int, mlp: int, vocabulary: int, keys: int, layers: int = 3) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=keys, vocab_size=vocabulary,
    )  # fmt: skip


def llama_8b(layers: int = 32) -> LlamaConfig:
    """Llama 3.1's published shapes."""
    return LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip


# ---- one step, tracked -----------------------------------------------------------------------------------------------


class Tracker(MemTracker):
    """Torch's, which would put hooks on the gradients of frozen weights. (Its FSDPMemTracker wants every module of a
    group to run, and TRL takes the head's weight without running the head.)"""

    def _track_module_params_and_buffers(self, module: Any, install_grad_hooks: bool = True) -> Any:
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)

    def total(self, which: str) -> int:
        """Bytes, `current` or at the `peak`."""
        return int(self.get_tracker_snapshot(which)[torch.device("cpu")]["Total"])


@pytest.fixture(autouse=True)
def head_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There TRL's kernels work on a tile of logits in place. What stands in for them on a CPU copies it to float32."""
    monkeypatch.setattr(trl.kernels.chunked_logprob, "_forward_tile", lambda *tile, **more: None)
    monkeypatch.setattr(trl.kernels.chunked_logprob, "_backward_tile", lambda *tile, **more: None)
    monkeypatch.setattr(trl.kernels.chunked_logprob, "_addmm_fp32", lambda total, a, b: total)


@contextmanager
def one_of(workers: int) -> Iterator[Any]:
    """What accelerate's own functions for FSDP ask of an accelerator, in a group whose other workers are not there."""
    init_process_group("fake", store=FakeStore(), rank=0, world_size=workers)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        mixed_precision_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    )
    try:
        yield SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin),
            mixed_precision="no",  # else it makes the reference float32
            is_main_process=True,
            device=torch.device("cpu"),
            torch_device_mesh=init_device_mesh("cpu", (workers,), mesh_dim_names=("fsdp",)),
            parallelism_config=SimpleNamespace(fsdp_dim_names=("fsdp",)),
        )
    finally:
        destroy_process_group()


def made(config: LlamaConfig, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def tracked(model: Any, reference: Any, sequences: int, length: int, autocast: bool) -> tuple[int, int]:
    """Bytes before a step, with gradients and AdamW's state of steps before it; and at its peak."""
    trained = [weights for weights in model.train().parameters() if weights.requires_grad]
    for weights in trained:
        weights.grad = torch.zeros_like(weights)
    optimizer = torch.optim.AdamW(trained, fused=True)
    optimizer.step()
    ids = torch.zeros((sequences, length), dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    def log_probabilities(of: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return of(**inputs, fused_lm_head=True).log_probs.sum(dim=1)

    tracker = Tracker()
    tracker.track_external(model, reference, optimizer, *inputs.values())
    before = tracker.total("current")
    with tracker:
        loss = log_probabilities(model)
        if reference is not None:
            with torch.no_grad():
                compared = log_probabilities(reference)
            loss = loss - compared
        loss.sum().backward()
    return before, tracker.total("peak")


def tracked_with_fsdp(config: LlamaConfig, trainer: str, workers: int, sequences: int, length: int) -> tuple[int, int]:
    with one_of(workers) as accelerator, FakeTensorMode(allow_non_fake_inputs=True):
        accelerator.state.fsdp_plugin.set_auto_wrap_policy(model := made(config, torch.float32))
        model = fsdp2_prepare_model(accelerator, fsdp2_apply_ac(accelerator, model))
        reference = None
        if trainer == "dpo":
            reference = fsdp2_prepare_model(accelerator, made(config, torch.bfloat16).eval())
        return tracked(model, reference, sequences, length, autocast=False)


def tracked_alone(config: LlamaConfig, lora: dict[str, Any] | None, sequences: int, length: int) -> tuple[int, int]:
    with torch.device("meta"):  # peft cannot put an adapter on fake tensors
        model = made(config, torch.bfloat16 if lora else torch.float32)
        model = get_peft_model(model, lora_config(lora)) if lora else model
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").activation_checkpointing_enable({"use_reentrant": False})
        if lora:
            model.enable_input_require_grads()
        return tracked(model, None, sequences, length, autocast=True)


@pytest.mark.parametrize(
    ("config", "trainer", "workers", "batch", "length"),
    [
        pytest.param(
            llama(1024, 2048, 128_000, keys=4), "sft", 8, 2, 1024, id="SFT, at the head", marks=pytest.mark.slow
        ),
        pytest.param(
            llama(1024, 2048, 1000, keys=4, layers=4), "dpo", 8, 8, 1024, id="DPO, in a layer", marks=pytest.mark.slow
        ),
        pytest.param(llama_8b(layers=2), "dpo", 4, 1, 8192, id="DPO, as wide as 8B", marks=pytest.mark.long),
        pytest.param(llama_8b(), "dpo", 4, 1, 8192, id="DPO of 8B", marks=pytest.mark.long),
    ],
)
def test_under_fsdp_it_is_what_torchs_tracker_counts(
    config: LlamaConfig, trainer: Trainer, workers: int, batch: int, length: int
) -> None:
    fields = {"per_device_train_batch_size": batch, "max_length": length, "fsdp": True}
    takes = gpu_memory(shapes_of(config), trainer, fields, lora=False, workers=workers)
    assert takes
    before, peak = tracked_with_fsdp(config, trainer, workers, batch * (2 if trainer == "dpo" else 1), length)
    at_rest = takes.weights + takes.gradients + takes.optimizer + takes.reference
    assert at_rest == pytest.approx(before, rel=0.01)
    assert takes.total == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("config", "trainer", "lora", "batch", "length"),
    [
        pytest.param(
            llama(1024, 4096, 1000, keys=4), "dpo", {"r": 64}, 8, 1024, id="LoRA, in a layer", marks=pytest.mark.slow
        ),
        pytest.param(
            llama(512, 1024, 32_000, keys=4), "sft", {"r": 16}, 2, 1024, id="LoRA, at the head", marks=pytest.mark.slow
        ),
        pytest.param(llama(1024, 2048, 1000, keys=4), "sft", None, 8, 1024, id="whole, in a layer"),
        pytest.param(llama(1024, 2048, 1000, keys=4, layers=4), "sft", None, 2, 64, id="whole, after forward"),
    ],
)
def test_on_one_gpu_it_is_what_torchs_tracker_counts(
    config: LlamaConfig, trainer: Trainer, lora: dict[str, Any] | None, batch: int, length: int
) -> None:
    fields = {"per_device_train_batch_size": batch, "max_length": length}
    takes = gpu_memory(shapes_of(config, lora), trainer, fields, lora=lora is not None, workers=1)
    assert takes
    before, peak = tracked_alone(config, lora, batch * (2 if trainer == "dpo" else 1), length)
    assert takes.weights + takes.gradients + takes.optimizer == pytest.approx(before, rel=0.01)
    assert takes.total == pytest.approx(peak, rel=0.1)


# ---- published sizes -------------------------------------------------------------------------------------------------


def takes_8b(trainer: Trainer, workers: int, lora: dict[str, Any] | None = None, **more: Any) -> Footprint:
    fields = {"per_device_train_batch_size": 1, "max_length": 8192, **more}
    train = Train(gpus=1, workers=Replicas(min=workers, max=workers))
    return footprint(shapes_of(llama_8b(), lora), trainer, fields, lora=lora is not None, train=train)


def test_weights_are_counted_and_not_made() -> None:
    shapes = shapes_of(llama_8b(), {"r": 32})
    assert (shapes.weights, shapes.head, shapes.layer) == (8_030_261_248, 525_336_576, 218_112_000)
    assert (shapes.queries, shapes.keys, shapes.mlp) == (4096, 1024, 14336)
    assert shapes.adapter == 32 * 32 * (
        2 * 8192 + 2 * 5120 + 3 * 18432
    )  # r x layers x (in + out) of q, o; k, v; the MLP
    tied = LlamaConfig(
        hidden_size=64, intermediate_size=128, vocab_size=1000, num_hidden_layers=1, num_attention_heads=4
    )
    untied_too = [shapes_of(LlamaConfig(**tied.to_dict() | {"tie_word_embeddings": tie})) for tie in (True, False)]
    assert untied_too[1].weights - untied_too[0].weights == 64_000
    experts = MixtralConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4)
    assert shapes_of(experts).mlp == 96 * experts.num_experts_per_tok


def test_dpo_of_8b_fits_80_gb_on_four_gpus_and_not_on_one() -> None:
    four, eight, one = (takes_8b("dpo", workers, fsdp=True) for workers in (4, 8, 1))
    assert four.gpu
    assert eight.gpu
    weights = 8_030_261_248
    assert (four.gpu.weights, four.gpu.optimizer, four.gpu.reference) == (weights, 2 * weights, weights // 2)
    assert (round(eight.gpu.total / GB), round(four.gpu.total / GB)) == (31, 50)
    assert not check_card("dpo", four, 80 * GB)
    assert check_card("dpo", four, 52 * GB)
    with pytest.raises(
        RecipeError, match=r"dpo: with 1 worker\(s\) .* about 158\.0 GB \(weights 32\.1, .* has 80 GB: "
    ):
        check_card("dpo", one, 80 * GB)


def test_an_adapter_of_8b_fits_24_gb() -> None:
    adapter = takes_8b("dpo", 1, {"r": 32}, max_length=2048)
    assert adapter.gpu
    assert round(adapter.gpu.total / GB) == 20
    assert not check_card("dpo", adapter, 24 * GB)
    assert adapter.gpu.optimizer == 2 * adapter.gpu.gradients
    shared = takes_8b("dpo", 2, {"r": 32}, max_length=2048)
    assert shared.gpu
    assert shared.gpu.gradients == 2 * adapter.gpu.gradients  # DDP's buckets


def test_what_is_said_in_the_fields_counts() -> None:
    def total(**more: Any) -> int:
        gpu = takes_8b("dpo", 4, **({"fsdp": True} | more)).gpu
        assert gpu
        return gpu.total

    plain = total()
    assert plain == total(fsdp_config={"activation_checkpointing": True})
    assert total(fsdp_config={"activation_checkpointing": False}) > plain + 50 * GB
    assert total(gradient_checkpointing=False) == total(fsdp_config={"activation_checkpointing": False})
    assert total(optim="adamw_8bit") < plain
    assert total(precompute_ref_log_probs=True) < plain
    assert total(model_init_kwargs={"attn_implementation": "flash_attention_2"}) < plain


@pytest.mark.parametrize(
    "field", [{"deepspeed": "z.json"}, {"max_length": None}, {"model_init_kwargs": {"quantization_config": {}}}]
)
def test_what_cannot_be_reckoned_is_not(field: dict[str, Any]) -> None:
    takes = takes_8b("sft", 1, **field)
    assert takes.gpu is None
    assert not check_card("sft", takes, 1)


def test_what_a_worker_loads() -> None:
    weights = 8_030_261_248
    assert takes_8b("sft", 4, fsdp=True).host == 4 * weights
    assert takes_8b("dpo", 4, fsdp=True).host == 4 * weights + weights // 2
    assert takes_8b("dpo", 4).host == 8 * weights
    assert takes_8b("sft", 1, {"r": 32}).host == 2 * weights + 4 * 83_886_080
    on_cpus = footprint(shapes_of(llama_8b()), "sft", {}, lora=True, train=Train())
    assert (on_cpus.gpu, on_cpus.host) == (None, 4 * weights)


# ---- cards -----------------------------------------------------------------------------------------------------------


def test_cards_have_the_names_that_ray_gives_them() -> None:
    assert set(CARDS) <= {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA_")}


def test_the_smallest_card_counts_and_none_where_one_is_unknown() -> None:
    assert card(["H100", "L4"]) == 24 * GB
    assert card(["A100"]) == 80 * GB
    assert card([]) is None
    assert card(["L4", "Ascend910B"]) is None
    assert card([""]) is None
