"""The paper's recipes hold the paper's settings (arXiv 2502.04153v2, section 3.1, appendix A)."""

import json
from pathlib import Path

import pytest

from ultraif_ray.flow.placement import cut, resources
from ultraif_ray.recipe import Recipe, VllmPool, load_recipe
from ultraif_ray.steps.engines import EngineStep
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder

SMALL, LARGE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
BASE = "meta-llama/Llama-3.1-8B"

PLAYERS = {
    "strong_to_weak": {"decomposer": LARGE, "composer": SMALL, "responder": LARGE, "judge": LARGE},
    "self_alignment": {"decomposer": LARGE, "composer": SMALL, "responder": SMALL, "judge": SMALL},
}

PROMPTS = 225_000
"""How many the recipes' comments reckon with: 150K of OpenHermes 2.5, 10K of No Robots, the rest of several turns."""

SFT_PASS_RATE, DPO_PASS_RATE = 0.85, 0.60
"""Table 7."""


@pytest.fixture(params=sorted(PLAYERS))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return load_recipe(request.param)


def test_who_plays_what(recipe: Recipe) -> None:
    assert {role: recipe.pools[settings.pool].model for role, settings in recipe.roles} == PLAYERS[recipe.name]
    assert recipe.composer
    assert recipe.policy
    assert (recipe.composer.model, recipe.policy.model) == (SMALL, BASE)
    assert recipe.composer.lora is recipe.policy.lora is None  # both are trained whole
    assert recipe.composer.prompts != recipe.prompts  # ShareGPT teaches the composer, other corpora are composed


def test_the_policy_is_served_where_a_model_of_its_size_fits(recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    steps = {step.name: step for step in plan(recipe, folder)}
    last = steps["round-3/synthesize"]
    assert isinstance(last, EngineStep)
    served = last.serving(Context(in_round(recipe, 3), folder))
    policy = served.pools[served.roles.responder.pool]
    assert isinstance(policy, VllmPool)
    assert (policy.model, policy.gpus) == (folder.uri("round-2/dpo", "model"), 1)
    assert served.pools[served.roles.judge.pool].model == PLAYERS[recipe.name]["judge"]
    asked = [resources(served, operator)["GPU"] for operator in cut(served, last.stages)]
    assert sum(asked) <= 8  # one node of the paper's


def test_how_they_sample(recipe: Recipe) -> None:
    sampling = {role: (settings.temperature, settings.top_p) for role, settings in recipe.roles}
    assert sampling["responder"] == (1.0, 0.95)
    assert sampling["composer"][0] == 0.7
    assert sampling["judge"][0] == sampling["decomposer"][0] == 0.0
    assert (recipe.synthesize.k, recipe.synthesize.judge, recipe.synthesize.goal) == (5, "rationale", "sft")
    assert recipe.synthesize.rounds == {3: 1.0}  # figure 5: best at three constraints
    assert recipe.synthesize.checkers == "none"  # no hand-written checkers


def test_how_they_train(recipe: Recipe) -> None:
    assert recipe.composer
    shared = {"num_train_epochs": 3, "max_length": 8192, "warmup_steps": 0.03, "lr_scheduler_type": "cosine"}
    for fields in (recipe.composer.sft, recipe.sft, recipe.dpo):
        assert fields | shared == fields
    assert recipe.composer.sft["learning_rate"] == recipe.sft["learning_rate"] == 1e-5
    assert (recipe.dpo["learning_rate"], recipe.dpo["beta"]) == (5e-7, 0.1)


def test_three_iterations_each_harder_and_the_last_with_nca(recipe: Recipe) -> None:
    assert recipe.align.iterations == 3
    rounds = [in_round(recipe, number) for number in (1, 2, 3)]
    assert [made.dpo["loss_type"] for made in rounds] == [["sigmoid"], ["sigmoid"], ["nca_pair"]]
    assert [max(made.synthesize.rounds) for made in rounds] == [4, 5, 6]
    assert all(made.dpo["beta"] == 0.1 for made in rounds)


def test_the_counts_come_to_the_papers(recipe: Recipe) -> None:
    trained_on = 1 - recipe.export.held_out
    sft = PROMPTS * SFT_PASS_RATE * trained_on
    dpo = recipe.align.iterations * recipe.align.prompt_fraction * PROMPTS * DPO_PASS_RATE * trained_on
    assert sft == pytest.approx(181_000, rel=0.01)
    assert dpo == pytest.approx(20_000, rel=0.01)
    assert recipe.align.iterations * recipe.align.prompt_fraction <= 1  # no prompt in two rounds


# ---- the chat template of the base model -----------------------------------------------------------------------------


def test_the_base_model_has_llama_3s_turns_without_a_date(recipe: Recipe) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    assert recipe.policy
    assert recipe.policy.chat_template
    text = Path(recipe.policy.chat_template).read_text(encoding="utf-8")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi\n\nAssistant:\nHello \n"}]
    whole = template.render(messages=[*asked, {"role": "assistant", "content": "Hello."}])
    opening = template.render(messages=asked, add_generation_prompt=True)
    assert opening == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi\n\nAssistant:\nHello<|eot_id|>"  # no turn is forged
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert whole == opening + "Hello.<|eot_id|>"
    assert recipe.sft["eos_token"] == "<|eot_id|>"  # noqa: S105 - a token of text


def test_the_composers_prompts_are_named_beside_the_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "wild.jsonl").write_text(json.dumps({"prompt": "Hi"}))
    roles = {role: {"pool": "m"} for role in ("decomposer", "composer", "responder", "judge")}
    data = {"name": "x", "pools": {"m": {"engine": "simulated"}}, "roles": roles}
    data["composer"] = {"model": "packaged", "prompts": ["wild.jsonl", "org/name"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(data))
    made = load_recipe(tmp_path / "recipe.yaml")
    assert made.composer
    assert made.composer.prompts == (f"{tmp_path}/wild.jsonl", "org/name")
