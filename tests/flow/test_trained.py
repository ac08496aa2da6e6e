"""What was trained takes the place of what it was trained from."""

from pathlib import Path
from typing import Any

from tests import scripted
from ultraif_ray.flow.steps import inputs_of, settings_of, steps_of
from ultraif_ray.flow.trained import in_round, with_trained
from ultraif_ray.recipe import Recipe, content_settings, parse_recipe
from ultraif_ray.store.folder import RunFolder

BASE = {"engine": "vllm", "model": "org/base", "gpus": 1}
OTHER = {"engine": "vllm", "model": "org/other", "gpus": 2}


def made(pools: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    roles = {role: {"pool": "m"} for role in ("decomposer", "composer", "responder", "judge")}
    return parse_recipe({"name": "x", "pools": pools or {"m": BASE}, "roles": roles, **sections})


def test_adapters_on_a_pools_own_model_are_served_from_it(tmp_path: Path) -> None:
    recipe = made(composer={"model": "org/base", "lora": {}}, policy={"model": "org/base", "lora": {}})
    folder = RunFolder(str(tmp_path))
    later = with_trained(recipe, folder, ["decompose", "composer", "round-1/dpo"])
    assert list(later.pools) == ["m"]
    assert later.roles.composer.adapter == f"{tmp_path}/composer/model"
    assert later.roles.composer.trained
    assert later.roles.responder.adapter == f"{tmp_path}/round-1/dpo/model"  # a name of its own for every round
    assert later.roles.judge.adapter is later.roles.decomposer.adapter is None


def test_a_whole_model_gets_a_pool_placed_like_the_one_it_takes_over_from(tmp_path: Path) -> None:
    recipe = made(composer={"model": "org/base"}, policy={"model": "org/policy", "lora": {}})
    responder = recipe.roles.responder.model_copy(update={"adapter": "/before"})
    recipe = recipe.model_copy(update={"roles": recipe.roles.model_copy(update={"responder": responder})})
    later = with_trained(recipe, RunFolder(str(tmp_path)), ["decompose", "composer", "sft"])
    composer, policy = (later.pools[later.roles.composer.pool], later.pools[later.roles.responder.pool])
    assert (composer.model, composer.gpus) == (f"{tmp_path}/composer/model", 1)
    assert policy.model == f"{tmp_path}/sft/merged"  # an adapter on another base is served merged
    assert later.roles.responder.adapter is None  # it was made for another model
    assert later.pools[later.roles.judge.pool].model == "org/base"


def test_the_policy_goes_where_policy_pool_says_and_pools_without_a_role_are_dropped(tmp_path: Path) -> None:
    pools = {"m": BASE, "p": OTHER}
    recipe = made(pools, policy={"model": "org/policy", "pool": "p"})
    assert set(with_trained(recipe, RunFolder(str(tmp_path)), ["decompose"]).pools) == {"m"}
    later = with_trained(recipe, RunFolder(str(tmp_path)), ["decompose", "sft"])
    assert set(later.pools) == {"m", "trained-responder"}
    assert (later.pools["trained-responder"].model, later.pools["trained-responder"].gpus) == (
        f"{tmp_path}/sft/model",
        2,
    )


def test_a_round_is_deeper_and_drawn_anew() -> None:
    recipe = made(synthesize={"rounds": {1: 3, 2: 1}, "goal": "sft"}, align={"deeper": 2}, seed=5)
    second = in_round(recipe, 2)
    assert second.synthesize.rounds == {5: 3, 6: 1}
    assert (second.synthesize.goal, second.seed) == ("dpo", 7)


def test_the_steps_of_a_run_and_what_each_is_made_from(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert steps_of(made(), folder) == ["ingest", "synthesize", "export"]
    begun = RunFolder(str(tmp_path / "begun"))  # what is to be trained is added later
    begun.begin("synthesize", {"input": {"ingest": "x"}})
    assert steps_of(made(), begun) == ["ingest", "synthesize", "export"]
    assert steps_of(made(composer={"model": "a"}), begun)[:3] == ["ingest", "decompose", "composer"]
    steps = steps_of(made(composer={"model": "a"}, policy={"model": "b"}, align={"iterations": 2}), folder)
    assert steps[:6] == ["ingest", "decompose", "composer", "synthesize", "export", "sft"]
    assert steps[6:] == [f"round-{t}/{s}" for t in (1, 2) for s in ("synthesize", "export", "dpo")] + ["model"]
    assert inputs_of("round-2/synthesize", steps) == ["decompose", "composer", "round-1/dpo"]
    assert inputs_of("round-2/dpo", steps) == ["round-2/export", "round-1/dpo"]
    assert inputs_of("model", steps) == ["round-2/dpo"]
    assert all(source in steps[: steps.index(step)] for step in steps for source in inputs_of(step, steps))


def test_fingerprints_of_training_cover_the_global_batch_and_not_the_workers_that_share_it() -> None:
    def settings(**train: Any) -> dict[str, Any]:
        return content_settings(made(policy={"model": "b"}, train=train), "sft")

    eight = settings(workers={"min": 8, "max": 8})
    assert eight == settings(workers={"min": 1, "max": 8}, cpus=4, max_failures=9)
    assert eight != settings(workers={"min": 1, "max": 4})


def test_the_share_of_the_prompts_decides_what_a_round_holds_and_nothing_before_it(tmp_path: Path) -> None:
    folder, made = RunFolder(str(tmp_path)), {}
    for share in (0.5, 1.0):
        recipe = scripted.recipe(policy={"model": "packaged"}, align={"share": share})
        made[share] = [
            settings_of(recipe, folder, step, steps_of(recipe, folder)) for step in ("synthesize", "round-1/synthesize")
        ]
    assert made[0.5][0] == made[1.0][0]
    assert made[0.5][1] != made[1.0][1]
