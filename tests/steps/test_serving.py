"""What was trained takes the place of what it was trained from."""

from typing import Any

import pytest

from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.placement import cut, resources
from ultraif_ray.recipe import Recipe, VllmPool, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.steps.serving import in_round, sharing_gpu, with_trained_models

BASE = {"engine": "vllm", "model": "org/base", "gpus": 1}
OTHER = {"engine": "vllm", "model": "org/other", "gpus": 2}


def made(pools: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    roles = {role: {"pool": "m"} for role in ROLES}
    return parse_recipe({"name": "x", "pools": pools or {"m": BASE}, "roles": roles, **sections})


def test_adapters_on_a_pools_own_model_are_served_from_it() -> None:
    recipe = made(composer={"model": "org/base", "lora": {}}, policy={"model": "org/base", "lora": {}})
    later = with_trained_models(recipe, composer="/run/composer", policy="/run/round-1/dpo")
    assert list(later.pools) == ["m"]
    assert later.roles.composer.adapter == "/run/composer/model"
    assert later.roles.composer.trained
    assert later.roles.responder.adapter == "/run/round-1/dpo/model"  # a name of its own for every round
    assert later.roles.judge.adapter is later.roles.decomposer.adapter is None


def test_a_whole_model_gets_a_pool_placed_like_the_one_it_takes_over_from() -> None:
    recipe = made(composer={"model": "org/base"}, policy={"model": "org/policy", "lora": {}})
    responder = recipe.roles.responder.model_copy(update={"adapter": "/before"})
    recipe = recipe.model_copy(update={"roles": recipe.roles.model_copy(update={"responder": responder})})
    later = with_trained_models(recipe, composer="/run/composer", policy="/run/sft")
    composer, policy = (later.pools[later.roles.composer.pool], later.pools[later.roles.responder.pool])
    assert (composer.model, composer.gpus) == ("/run/composer/model", 1)
    assert policy.model == "/run/sft/merged"  # an adapter on another base is served merged
    assert later.roles.responder.adapter is None  # it was made for another model
    assert later.pools[later.roles.judge.pool].model == "org/base"


def test_what_was_trained_on_answers_alone_is_asked_for_no_thought_and_its_tags_are_its_own() -> None:
    tags = {"start": "[T]", "end": "[/T]"}
    thinks = {role: {"pool": "m", "thinking_tokens": 9} for role in ROLES}
    for model, start in (("org/base", "[T]"), ("org/policy", "<think>\n")):
        recipe = parse_recipe(
            {"name": "x", "pools": {"m": BASE | {"thinking": tags}}, "roles": thinks, "policy": {"model": model}}
        )
        later = with_trained_models(recipe, policy="/run/sft")
        policy = later.pools["trained-responder"]
        assert isinstance(policy, VllmPool)
        assert policy.thinking
        assert policy.thinking.start == start
        assert (later.roles.responder.thinking_tokens, later.roles.judge.thinking_tokens) == (None, 9)


def test_a_pool_with_a_template_of_its_own_serves_no_adapter_that_was_trained_without_it() -> None:
    pool = BASE | {"chat_template": "{{ messages }}"}
    later = with_trained_models(made({"m": pool}, composer={"model": "org/base", "lora": {}}), composer="/run/composer")
    served = later.pools[later.roles.composer.pool]
    assert isinstance(served, VllmPool)
    assert (served.model, served.chat_template) == ("/run/composer/merged", None)
    kept = later.pools["m"]
    assert isinstance(kept, VllmPool)
    assert kept.chat_template == "{{ messages }}"


def test_the_policy_goes_where_policy_pool_says_and_pools_without_a_role_are_dropped() -> None:
    pools = {"m": BASE, "p": OTHER}
    recipe = made(pools, policy={"model": "org/policy", "pool": "p"})
    assert set(with_trained_models(recipe).pools) == {"m"}
    later = with_trained_models(recipe, policy="/run/sft")
    assert set(later.pools) == {"m", "trained-responder"}
    policy = later.pools["trained-responder"]
    assert (policy.model, policy.gpus) == ("/run/sft/model", 2)


def test_policy_and_judge_share_a_gpu_where_the_recipe_says_so() -> None:
    policy = {"model": "org/policy", "share_gpu": True}
    later = sharing_gpu(with_trained_models(made(policy=policy), policy="/run/sft"))
    assert {name: pool.gpus for name, pool in later.pools.items()} == {"m": 0.5, "trained-responder": 0.5}
    (operator,) = cut(later, ("compose", "respond"))
    assert resources(later, operator) == {"CPU": 2, "GPU": 1}
    adapter = made(policy={"model": "org/base", "lora": {}, "share_gpu": True})
    assert sharing_gpu(with_trained_models(adapter, policy="/run/sft")).pools["m"].gpus == 1  # one engine


def test_a_gpu_is_shared_by_those_that_have_one() -> None:
    with pytest.raises(RecipeError, match=r"policy\.share_gpu is for .* one GPU each, but pools\.p has 2"):
        made({"m": BASE, "p": OTHER}, policy={"model": "org/policy", "pool": "p", "share_gpu": True})
    with pytest.raises(RecipeError, match=r"pools\.m has 0\.5: set its gpus to 1"):
        made({"m": BASE | {"gpus": 0.5}}, policy={"model": "org/policy", "share_gpu": True})


def test_in_a_round_the_policy_is_asked_as_it_was_trained_unless_the_recipe_says_otherwise() -> None:
    recipe = made(align={"iterations": 2})
    assert in_round(recipe, 0).templates_of_roles.responder.system == recipe.templates.responder.system
    assert in_round(recipe, 1).templates_of_roles.responder.system is None
    assert in_round(recipe, 1).templates_of_roles.judge == recipe.templates.judge
    trained = with_trained_models(in_round(made(policy={"model": "org/p"}), 1), policy="/run/sft")
    assert trained.templates_of_roles.responder.system is None
    assert in_round(made(export={"system_prompt": "Be brief."}), 1).templates_of_roles.responder.system == "Be brief."
    assert in_round(made(align={"system": "Try hard."}), 1).templates_of_roles.responder.system == "Try hard."


def test_a_round_has_more_constraints_and_is_drawn_anew() -> None:
    recipe = made(synthesize={"rounds": {1: 3, 2: 1}, "goal": "sft"}, align={"extra_constraints": 2}, seed=5)
    second = in_round(recipe, 2)
    assert second.synthesize.rounds == {5: 3, 6: 1}
    assert (second.synthesize.goal, second.seed) == ("dpo", 7)


@pytest.mark.parametrize(
    ("align", "dpo", "losses"),
    [
        ({"iterations": 3}, {}, [["sigmoid"], ["sigmoid"], ["nca_pair"]]),
        ({"iterations": 1}, {}, [["sigmoid"]]),
        ({"iterations": 2}, {"loss_type": ["ipo"]}, [["ipo"], ["ipo"]]),  # who chose a loss has it in every round
        ({"iterations": 2, "last_round_dpo": {}}, {}, [["sigmoid"], ["sigmoid"]]),
        (
            {"iterations": 2, "last_round_dpo": {"loss_type": ["apo_zero"]}},
            {"loss_type": ["ipo"]},
            [["ipo"], ["apo_zero"]],
        ),
        ({"iterations": 1, "last_round_dpo": {"loss_type": ["nca_pair"]}}, {}, [["nca_pair"]]),
    ],
)
def test_the_last_of_several_rounds_has_the_papers_loss_unless_the_recipe_says_another(
    align: dict[str, Any], dpo: dict[str, Any], losses: list[list[str]]
) -> None:
    recipe = made(align=align, dpo=dpo)
    assert [in_round(recipe, number).dpo["loss_type"] for number in range(1, len(losses) + 1)] == losses
