"""FSDP, run for real: processes over gloo, on CPUs, in bfloat16."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tests.train import forced
from tests.train.data import (
    check_training,
    example,
    job_for,
    kill_with_its_ray,
    tiny_model,
    training_recipe,
    wait_for,
    write_tokenised,
)
from ultraif_ray.errors import RecipeError
from ultraif_ray.train.fsdp import SETTINGS
from ultraif_ray.train.settings import trl_arguments, trl_config
from ultraif_ray.train.worker import make_trainer

WORKERS = 2


@pytest.fixture(autouse=True)
def _environment_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's config writes FSDP's settings into it."""
    for name in ("FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_FSDP"):
        monkeypatch.setenv(name, "false")


# ---- fields ----------------------------------------------------------------------------------------------------------


def sharded(tmp_path: Path, gpu: bool = True, **fields: Any) -> Any:
    """TRL's config as a worker makes it of a recipe's fields."""
    arguments = trl_arguments({"fsdp": True, **fields}, gpu=gpu, lora=False, seed=0, held_out=False)
    return trl_config("dpo", arguments | {"use_cpu": True}, str(tmp_path))


def test_what_a_recipe_leaves_unsaid(tmp_path: Path) -> None:
    config = sharded(tmp_path)
    assert not config.activation_checkpointing  # but FSDP's own
    assert config.fsdp_plugin_args["activation_checkpointing"]
    assert config.fsdp_plugin_args["state_dict_type"] == "SHARDED_STATE_DICT"
    assert config.accelerator_config.gradient_accumulation_kwargs == {"sync_each_batch": True}
    policy = config.fsdp_plugin_args["mixed_precision_policy"]
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


def test_what_a_recipe_says_stays(tmp_path: Path) -> None:
    accelerator = {"split_batches": False, "gradient_accumulation_kwargs": {"sync_each_batch": False}}
    config = sharded(
        tmp_path,
        fsdp_config={"fsdp_activation_checkpointing": False, "state_dict_type": "FULL_STATE_DICT"},
        accelerator_config=accelerator,
    )
    assert not config.fsdp_plugin_args["activation_checkpointing"]
    assert config.fsdp_plugin_args["state_dict_type"] == "FULL_STATE_DICT"
    assert config.accelerator_config.gradient_accumulation_kwargs == {"sync_each_batch": False}
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        assert not sharded(tmp_path, **{name: False}).fsdp_plugin_args["activation_checkpointing"]


OTHER_VALUES = {
    "activation_checkpointing": False,
    "auto_wrap_policy": "NO_WRAP",
    "cpu_offload": True,
    "cpu_ram_efficient_loading": True,
    "reshard_after_forward": False,
    "state_dict_type": "FULL_STATE_DICT",
    "transformer_layer_cls_to_wrap": ["LlamaMLP"],
    "version": 1,
}
"""Of each setting a value that is not its default."""


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "min_num_params"])
def test_transformers_reads_every_setting_that_is_let_through(tmp_path: Path, name: str) -> None:
    value = {name: OTHER_VALUES[name]}
    plain = sharded(tmp_path).fsdp_plugin_args
    for form in (value, {f"fsdp_{name}": OTHER_VALUES[name]}):
        assert sharded(tmp_path, fsdp_config=form).fsdp_plugin_args != plain


def test_the_size_of_what_is_wrapped_is_read_beside_its_policy(tmp_path: Path) -> None:
    by_size = {"auto_wrap_policy": "SIZE_BASED_WRAP"}
    config = sharded(tmp_path, fsdp_config=by_size | {"min_num_params": 7})
    assert config.fsdp_plugin_args["min_num_params"] == 7


@pytest.mark.parametrize(
    ("fields", "gpus", "message"),
    [
        ({"fsdp": True}, 0, "`fsdp` is set, but train.gpus is 0: accelerate runs FSDP on GPUs only"),
        ({"fsdp": "full_shard"}, 1, "sft.fsdp is 'full_shard': set it to true, and all else in sft.fsdp_config"),
        (
            {"fsdp": True, "fsdp_config": {"fsdp_state_dict_typ": "x"}},
            1,
            "sft.fsdp_config.fsdp_state_dict_typ is not a setting of FSDP 2; did you mean 'state_dict_type'",
        ),
        ({"fsdp": True, "fsdp_config": {"xla": True}}, 1, "fsdp_config.xla is not a setting .*those there are: activ"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, 1, "fsdp_config.version is 1: only FSDP 2 is supported"),
        ({"fsdp": True, "fsdp_config": "fsdp.json"}, 1, "sft.fsdp_config is 'fsdp.json': write the settings"),
        ({"fsdp": True, "fsdp_config": {"state_dict_type": "PIECES"}}, 1, "sft.fsdp_config: accelerate .*PIECES"),
        ({"fsdp_config": {"cpu_offload": True}}, 1, "sft.fsdp_config does nothing without sft.fsdp"),
        (
            {"fsdp": True, "fsdp_config": {"fsdp_transformer_layer_cls_to_wrap": ["LlamaMLP", "LamaDecoderLayer"]}},
            1,
            "sft.fsdp_config.transformer_.*: the model has no layer 'LamaDecoderLayer'; did you mean 'LlamaDecoderLay",
        ),
    ],
)
def test_what_would_be_passed_over_is_refused(
    tmp_path: Path, tiny: str, fields: dict[str, Any], gpus: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_training(training_recipe(tmp_path, tiny, sft=fields, train={"gpus": gpus}))


def test_what_is_laid_over_the_last_round_is_looked_at_too(tmp_path: Path, tiny: str) -> None:
    sections = {"dpo": {"fsdp": True}, "sft": {"fsdp": True}, "train": {"gpus": 1}}
    over = {"last_round_dpo": {"fsdp_config": {"cpu_ofload": True}}}
    check_training(training_recipe(tmp_path, tiny, **sections))
    with pytest.raises(RecipeError, match=r"align.last_round_dpo.fsdp_config.cpu_ofload .*did you mean 'cpu_offload'"):
        check_training(training_recipe(tmp_path, tiny, **sections, align=over))


# ---- a DPO -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(packaged_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DPO of two steps, four pairs each, that has left its findings and its model."""
    folder: Path = tmp_path_factory.mktemp("fsdp")
    tiny_model(packaged_model, folder / "start/model", tied=False)
    pairs = [example(number, "dpo") for number in range(8)]
    for pair in pairs:
        pair["chosen"][0]["content"] *= 12  # long: what is summed is large
    assert write_tokenised(forced.dpo(packaged_model, folder), pairs) == {"accepted": 8}
    arguments = (WORKERS, packaged_model, str(folder))
    torch.multiprocessing.spawn(forced.train_dpo, arguments, nprocs=WORKERS)
    return folder


@pytest.fixture(params=range(WORKERS))
def found(run: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a worker found."""
    findings: dict[str, Any] = torch.load(run / f"found-{request.param}.pt")
    return findings


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_policy_and_reference_are_in_pieces_layer_by_layer(found: dict[str, Any]) -> None:
    assert found["enabled"]
    assert found["policy"] == found["reference"] == [True, True]
    assert found["in pieces"]


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_log_probabilities_are_summed_in_float32(found: dict[str, Any]) -> None:
    for name in ("policy", "reference"):
        ours, whole = found[f"{name}'s log-probabilities"], found[f"{name}'s in float32"]
        assert ours.dtype == torch.float32
        assert whole.sum(1).abs().max() > 1000  # where bfloat16 knows multiples of 8
        torch.testing.assert_close(ours.sum(1), whole.sum(1), rtol=5e-4, atol=0)


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_a_reference_in_bfloat16_is_the_policy_that_it_was_to_the_bit(found: dict[str, Any]) -> None:
    assert found["reference's type"] == {"torch.bfloat16"}
    assert found["losses"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert found["losses"][1] < 0.6


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_no_gradient_is_kept_whole_between_two_batches_of_a_step(found: dict[str, Any]) -> None:
    assert found["gradients between batches"] == [True, True]


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_the_model_is_saved_whole_and_in_float32_at_the_end_and_in_between(run: Path) -> None:
    from safetensors.torch import load_file

    before, kept, after = (load_file(run / name / "model.safetensors") for name in ("start/model", "kept", "model"))
    assert before.keys() == kept.keys() == after.keys()
    assert {weights.dtype for weights in (*kept.values(), *after.values())} == {torch.float32}
    for earlier, later in ((before, kept), (kept, after)):
        assert all(not torch.equal(earlier[name], later[name]) for name in before)


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_a_model_that_is_kept_leaves_checkpoints_in_pieces(found: dict[str, Any]) -> None:
    assert found["checkpoints"] == "StateDictType.SHARDED_STATE_DICT"


@pytest.mark.ray
@pytest.mark.xdist_group("fsdp")
def test_a_worker_without_fsdp_trains_nothing_that_asks_for_it(found: dict[str, Any]) -> None:
    assert "accelerate runs FSDP on GPUs only, and this worker computes on 'cpu': set" in found["refused"]


# ---- an adapter, without FSDP ----------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_an_adapter_is_trained_by_several_workers_as_on_gpus(
    packaged_model: str, tmp_path: Path, kind: Literal["sft", "dpo"]
) -> None:
    """In bfloat16, recomputing activations, and without a search for idle weights in each step."""
    model = tiny_model(packaged_model, tmp_path / "start")
    job = job_for(kind, model, tmp_path / "examples-with-tokens.parquet")
    assert write_tokenised(job, [example(number, kind) for number in range(16)]) == {"accepted": 16}
    arguments = (WORKERS, kind, model, str(tmp_path))
    torch.multiprocessing.spawn(forced.train_lora, arguments, nprocs=WORKERS)
    found, other = (torch.load(tmp_path / f"found-{rank}.pt") for rank in range(WORKERS))
    assert found["looks for idle weights"] is False
    for name, dtype in found["types"].items():
        assert dtype == ("torch.float32" if "lora_" in name else "torch.bfloat16"), name
    learnt = set(found["weights"])
    assert learnt
    assert all("lora_" in name for name in learnt)
    assert {name for name in learnt if "lora_B" in name} <= set(found["moved"]) <= learnt
    assert all(torch.equal(found["weights"][name], other["weights"][name]) for name in learnt)
    assert found["losses"][-1] < found["losses"][0]


# ---- an SFT under Ray Train ------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.long
def test_what_is_killed_with_two_workers_goes_on_with_one(tmp_path: Path, packaged_model: str) -> None:
    model = tiny_model(packaged_model, tmp_path / "start")
    for split, numbers in (("train", range(24)), ("held_out", range(24, 29))):
        job = job_for("sft", model, tmp_path / f"{split}.parquet")
        assert write_tokenised(job, [example(number, "sft") for number in numbers]) == {"accepted": len(numbers)}

    def start(workers: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.train.forced", model, str(tmp_path), str(workers)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def logged() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    driver = start(WORKERS)
    try:
        # With the second there, Ray Train knows of the first.
        wait_for(lambda: len(list(tmp_path.glob("checkpoints/checkpoint_2*/pytorch_model_fsdp_0"))) > 1, driver)
    finally:
        kill_with_its_ray(driver)
    assert not (tmp_path / "model").exists()
    before = logged()

    resumed = start(1)
    output, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, output
    assert ", 1 workers" in output
    after = logged()
    assert after[0] == before[0]  # its seconds too: it was not begun anew
    assert len(before) < len(after)
    seen = np.load(tmp_path / "rows_seen.npy")
    assert sorted(seen[:, 2].tolist()) == list(range(24))
    assert seen[:, 0].tolist() == [step for step in range(1, 7) for _ in range(4)]
    held_out = [entry["eval_loss"] for entry in after if "eval_loss" in entry]
    for place, loss in ((model, held_out[0]), (str(tmp_path / "model"), held_out[-1])):
        files = {"train": f"{tmp_path}/train.parquet", "held_out": f"{tmp_path}/held_out.parquet"}
        alone = make_trainer(job_for("sft", place, tmp_path, **files), str(tmp_path / "alone"), 1, fresh=True)
        assert loss == pytest.approx(alone.evaluate()["eval_loss"], rel=1e-3)  # in float32
