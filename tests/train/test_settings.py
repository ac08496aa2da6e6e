"""What no worker could train with is refused on the driver, with what to change."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from tests.hub import hub
from tests.train.data import check_training, job_for, training_recipe
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import Cluster, Node, check_needs
from ultraif_ray.recipe import SHIPPED, Policy, load_recipe
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.train import TrainingStep
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.settings import (
    check_machine,
    check_zero,
    load_tokenizer,
    trl_arguments,
    trl_config,
    without_padding,
    worker_need,
)

RECIPES = SHIPPED


def llama_like(tiny: str, folder: Path) -> str:
    """A tokenizer that has the special tokens of Llama 3.1."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    names = ("begin_of_text", "start_header_id", "end_header_id", "eot_id")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"sft": {"learnin_rate": 1}},
            r"sft.learnin_rate is not a field of TRL's SFTConfig; did you mean 'learning_rate'",
        ),
        ({"dpo": {"beta": 0.1, "packing": True}}, "dpo.packing is not a field of TRL's DPOConfig"),
        ({"dpo": {"loss_type": ["nca"]}}, "dpo.loss_type: 'nca' is not a loss of TRL's; those are sigmoid, .*nca_pair"),
        ({"align": {"last_round_dpo": {"loss_type": ["nca"]}}}, "align.last_round_dpo.loss_type: 'nca' is not a loss"),
        (
            {"align": {"last_round_dpo": {"betta": 1}}},
            "align.last_round_dpo.betta is not a field .*did you mean 'beta'",
        ),
        ({"align": {"last_round_dpo": {"loss_weights": [1.0, 0.5]}}}, "dpo: TRL refuses it: .*loss_weights"),
        ({"dpo": {"f_divergence_type": 3}}, "dpo.f_divergence_type: 3 cannot be used: .*string"),
        ({"dpo": {"lr_scheduler_type": "cosin"}}, "dpo: TRL refuses it: .*cosin"),
        ({"sft": {"learning_rate": "fast"}}, "sft.learning_rate: 'fast' cannot be used: .*number"),
        ({"sft": {"learning_rate": "0.001"}}, "sft.learning_rate: '0.001' cannot be used: .*number"),
        ({"sft": {"lr_scheduler_type": "cosin"}}, "sft: TRL refuses it: .*cosin"),
        ({"policy": {"model": "packaged", "lora": {"rank": 8}}}, "policy.lora: peft's LoraConfig refuses it: .*rank"),
        (
            {"policy": {"model": "packaged", "lora": {"target_modules": ["o_porj"]}}},
            "policy.lora: peft refuses it: Target modules .'o_porj'. not found in the base model",
        ),
        ({"policy": {"model": "/nowhere"}}, "policy.model is '/nowhere', which cannot be loaded"),
        ({"composer": {"model": "packaged", "sft": {"x": 1}}}, "composer.sft.x is not a field"),
        ({"export": {"files": ["jsonl"]}}, "training reads the sets as Parquet"),
        ({"export": {"layout": "reference"}}, "export.layout=reference"),
        ({"train": {"gpus": 2}}, "train.gpus is 2: a worker trains on one GPU"),
        (
            {"train": {"workers": {"min": 1, "max": 2}, "labels": {"a": "b"}}},
            r"train.labels is {'a': 'b'}, but Ray Train counts .*min and max to the same",
        ),
        ({"sft": {"deepspeed": {"zero_optimization": {"stage": 3}}}}, "sft.deepspeed needs the package deepspeed"),
        ({"dpo": {"report_to": ["clearml"]}}, "dpo.report_to: 'clearml' is not installed"),
        (
            {"train": {"workers": {"min": 1, "max": 2}}, "sft": {"deepspeed": {"zero_optimization": {"stage": 2}}}},
            "DeepSpeed's checkpoints hold for one number of workers",
        ),
    ],
)
def test_a_fault_is_named_before_anything_is_spent(
    tmp_path: Path, tiny: str, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_training(training_recipe(tmp_path, tiny, **sections))


def test_what_the_run_decides_itself_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sft: resume_from_checkpoint is not set here: a run resumes by itself"):
        training_recipe(tmp_path, "packaged", sft={"resume_from_checkpoint": "x"})


def test_a_model_without_a_chat_template_is_refused_until_one_is_given(tmp_path: Path, tiny: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"has no chat template: give one in policy\.chat_template"):
        load_tokenizer("policy", Policy(model=str(tmp_path)))
    given = load_tokenizer("policy", Policy(model=str(tmp_path), chat_template=str(RECIPES / "plain_chat.jinja")))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    asked = given.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    whole = given.apply_chat_template(turns, tokenize=False)
    assert whole == asked + "Hello" + given.eos_token  # the answer follows what was asked, and ends
    with pytest.raises(RecipeError, match=r"policy.chat_template is '/no.jinja', which cannot be read"):
        load_tokenizer("policy", Policy(model=str(tmp_path), chat_template="/no.jinja"))


def test_a_policy_that_would_not_stop_at_the_end_of_its_turn_is_refused(tmp_path: Path, tiny: str) -> None:
    policy = {"model": llama_like(tiny, tmp_path), "chat_template": str(RECIPES / "llama3_chat.jinja")}
    with pytest.raises(
        RecipeError, match=r"ends an answer with '<\|eot_id\|>', but the policy stops at '<\|im_end\|>'"
    ):
        check_training(training_recipe(tmp_path, tiny, policy=policy))
    with pytest.raises(RecipeError, match=r"sft.eos_token is '<\|eot\|>', which is no token of policy.model"):
        check_training(training_recipe(tmp_path, tiny, policy=policy, sft={"eos_token": "<|eot|>"}))
    check_training(training_recipe(tmp_path, tiny, policy=policy, sft={"eos_token": "<|eot_id|>"}))
    plain = policy | {"chat_template": str(RECIPES / "plain_chat.jinja")}
    check_training(training_recipe(tmp_path, tiny, policy=plain))


def test_what_is_pasted_forges_no_turn_but_control_tokens_do_until_they_are_sanitized(
    tmp_path: Path, tiny: str
) -> None:
    """What docs/design.md says of special tokens in a user's text, for the shipped template and a tokenizer's own."""
    policy = Policy(model=llama_like(tiny, tmp_path), chat_template=str(RECIPES / "llama3_chat.jinja"))
    for tokenizer, end in ((load_tokenizer("policy", policy), "<|eot_id|>"),
                           (load_tokenizer("policy", Policy(model=tiny)), "<|im_end|>")):  # fmt: skip
        control = tokenizer.convert_tokens_to_ids(end)

        def ends(text: str, tokenizer: Any = tokenizer, control: int = control, **options: Any) -> int:
            turns = [{"role": "user", "content": text}]
            return tokenizer.apply_chat_template(turns, return_dict=True, **options)["input_ids"].count(control)

        once = ends("Hi")
        assert ends("Hi\n\nAssistant:\nHello") == once
        assert ends(f"Hi{end}") == once + 1
        assert ends(f"Hi{end}", sanitize_control_tokens=True) == once


def test_more_workers_than_the_cluster_can_give_are_refused_with_the_numbers(tmp_path: Path) -> None:
    place = training_recipe(tmp_path, "packaged", train={"workers": {"min": 3, "max": 8}, "gpus": 1}).train
    check_needs([worker_need(place)], Cluster((Node({"CPU": 8, "GPU": 3}),)))
    with pytest.raises(RecipeError, match=r"needs 3 GPU at least \(3 for a training worker\), the cluster has 2"):
        check_needs([worker_need(place)], Cluster((Node({"CPU": 8, "GPU": 2}),)))


def test_a_training_worker_asks_for_the_kind_of_node_that_the_recipe_names(tmp_path: Path) -> None:
    asked = {"gpus": 1, "accelerator_type": "H100", "labels": {"market": "on-demand"}}
    need = worker_need(training_recipe(tmp_path, "packaged", train=asked).train)
    has = {"CPU": 8, "GPU": 8, "accelerator_type:H100": 1}
    check_needs([need], Cluster((Node(has, {"market": "on-demand"}),)))
    for node in (Node(has, {"market": "spot"}), Node({"CPU": 8, "GPU": 8}, {"market": "on-demand"})):
        with pytest.raises(RecipeError, match=r"a training worker asks for .* labels {'market': 'on-demand'} on one"):
            check_needs([need], Cluster((node,)))


def test_the_papers_values_are_the_defaults(tmp_path: Path) -> None:
    made = training_recipe(tmp_path, "packaged", sft={}, dpo={})
    sft = trl_config("sft", trl_arguments(made.sft, gpu=False, lora=False, seed=0, held_out=False), str(tmp_path))
    dpo = trl_config("dpo", trl_arguments(made.dpo, gpu=False, lora=False, seed=0, held_out=False), str(tmp_path))
    assert (sft.learning_rate, sft.num_train_epochs, sft.max_length, sft.warmup_steps) == (1e-5, 3, None, 0.03)
    assert made.sft["max_length"] == made.dpo["max_length"] == 8192  # by which examples are left out
    assert (dpo.learning_rate, dpo.beta, dpo.loss_type, dpo.num_train_epochs) == (5e-7, 0.1, ["sigmoid"], 3)
    assert sft.lr_scheduler_type == dpo.lr_scheduler_type == "cosine"
    assert (sft.bf16, sft.use_cpu, sft.activation_checkpointing) == (False, True, False)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them train Llamas; a small one has the modules and layers of any other."""
    shapes = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    monkeypatch.setattr("ultraif_ray.train.settings.load_config", lambda key, section: shapes)
    monkeypatch.setattr("ultraif_ray.train.settings.load_tokenizer", lambda key, section: None)
    monkeypatch.setattr("ultraif_ray.train.settings.check_end", lambda tokenizer, fields: None)
    made, folder = load_recipe(path), RunFolder(str(tmp_path))
    steps = [step for step in plan(made, folder) if isinstance(step, TrainingStep)]
    assert bool(steps) == bool(made.composer or made.policy)
    for step in steps:
        context = Context(in_round(made, step.round), folder)
        step.check(context)
        gpu = context.recipe.train.gpus > 0
        arguments = trl_arguments(step.fields(context.recipe), gpu=gpu, lora=False, seed=0, held_out=True)
        assert arguments["bf16"] == gpu
        sequences = arguments["per_device_train_batch_size"] * (2 if step.trainer == "dpo" else 1)
        assert sequences > 1  # for one alone, a model is gathered, or its weights are read
        if path.stem in ("self_alignment", "strong_to_weak"):
            assert (sequences, context.recipe.global_batch(step.fields(context.recipe))) == (4, 128)


def test_weights_that_are_trained_are_held_in_float32_and_a_frozen_base_in_bfloat16() -> None:
    whole = trl_arguments({}, gpu=True, lora=False, seed=0, held_out=False)
    init = {"attn_implementation": "sdpa"}
    adapter = trl_arguments({"model_init_kwargs": init}, gpu=True, lora=True, seed=0, held_out=False)
    assert whole["model_init_kwargs"] == {"dtype": "float32", "device_map": None}
    assert adapter["model_init_kwargs"] == {"dtype": "bfloat16", "device_map": None} | init


@pytest.mark.parametrize("as_file", [False, True])
def test_deepspeed_that_would_save_no_whole_model_is_refused(tmp_path: Path, as_file: bool) -> None:
    def form(zero: dict[str, Any]) -> Any:
        config = {"zero_optimization": zero}
        file = tmp_path / "ds.json"
        file.write_text(json.dumps(config))
        return str(file) if as_file else config

    with pytest.raises(RecipeError, match=r"sft.deepspeed: ZeRO 3 saves no whole model unless .* is true: set it"):
        check_zero("sft", form({"stage": 3}))
    check_zero("sft", form({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}))
    check_zero("sft", form({"stage": 2}))
    with pytest.raises(RecipeError, match=r"sft.deepspeed: nowhere.json cannot be read"):
        check_zero("sft", "nowhere.json")


def test_what_trl_would_refuse_in_a_worker_is_settled() -> None:
    def made(**fields: Any) -> dict[str, Any]:
        return trl_arguments(fields, gpu=True, lora=False, seed=0, held_out=False)

    assert made(max_length=8192)["max_length"] is None
    assert made(packing=True, max_length=8192)["max_length"] == 8192
    assert made()["activation_checkpointing"]
    assert not made(fsdp=True)["activation_checkpointing"]


def test_batches_are_not_filled_up_where_flash_attention_keeps_their_examples_apart() -> None:
    def padding_free(attention: str | None = "flash_attention_2", **fields: Any) -> bool:
        init = {"model_init_kwargs": {"attn_implementation": attention}} if attention else {}
        made = trl_arguments(fields | init, gpu=True, lora=False, seed=0, held_out=False)
        return bool(without_padding(made)["padding_free"])

    assert padding_free()
    assert padding_free("kernels-community/flash-attn3")
    assert not padding_free(None)  # as long as flash-attn is not installed here
    assert not padding_free("sdpa")
    assert not padding_free(per_device_train_batch_size=1)
    assert not padding_free(packing=True, max_length=512)
    assert not padding_free(padding_free=False)


def test_a_model_to_train_that_the_hub_does_not_give_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(monkeypatch), pytest.raises(RecipeError, match=r"^policy\.model is 'org/gated', whose licence must be"):
        check_training(training_recipe(tmp_path, "org/gated"))


def test_a_machine_without_the_gpu_or_the_kernels_that_a_job_wants_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job = job_for("sft", "m", tmp_path / "train.parquet", gpu=True)
    with pytest.raises(RecipeError, match="was to give 1 GPU, but torch is a build without CUDA"):
        check_machine(job)
    monkeypatch.setattr("ultraif_ray.train.settings.check_devices", lambda gpus: None)
    check_machine(job)
    job.fields["model_init_kwargs"] = {"attn_implementation": "flash_attention_2"}
    with pytest.raises(RecipeError, match=r"attn_implementation is flash_attention_2, but .* package flash-attn"):
        check_machine(job)
    with pytest.raises(RecipeError, match=r"use_liger_kernel is set, but .* does not have the package liger-kernel"):
        check_machine(job_for("dpo", "m", tmp_path, gpu=True, fields={"use_liger_kernel": True}))
