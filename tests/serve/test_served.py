"""What a service is made from: a run's recipe with what the run trained, or one model."""

from pathlib import Path
from typing import Any

import pytest

from ultraif_ray.errors import RecipeError, RunError
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.serve.served import Model, adapters_served, models_of, recipe_of_service, shown_name
from ultraif_ray.steps.run import save_recipe
from ultraif_ray.store.folder import RunFolder

BASE = {"engine": "vllm", "model": "org/base"}


def run_of(tmp_path: Path, *done: str, **sections: Any) -> str:
    """The folder of a run with these steps done."""
    folder = RunFolder(str(tmp_path / "run"))
    roles = {role: {"pool": "m"} for role in ROLES}
    save_recipe(parse_recipe({"name": "mine", "pools": {"m": BASE}, "roles": roles, **sections}), folder)
    for step in done:
        folder.open_step(step, {})
        folder.finish(step)
    return folder.path


TRAINED = {"composer": {"model": "org/base", "lora": {}}, "policy": {"model": "org/base", "lora": {}}}


def test_a_run_is_served_with_all_that_it_trained(tmp_path: Path) -> None:
    done = ("ingest", "decompose", "composer", "synthesize", "export", "sft", "round-1/dpo", "model")
    run = run_of(tmp_path, *done, **TRAINED)
    recipe = recipe_of_service(run)
    assert list(recipe.pools) == ["m"]
    assert recipe.roles.composer.trained
    assert recipe.roles.composer.adapter == f"{run}/composer/model"
    assert recipe.roles.responder.adapter == f"{run}/round-1/dpo/model"  # the last of the policies
    assert recipe.roles.judge.adapter is None
    models = models_of(recipe)
    assert models["mine"] == models["responder"] == Model("m", f"{run}/round-1/dpo/model")
    assert shown_name(recipe, models["judge"]) == "base"
    assert "/" not in shown_name(recipe, models["composer"])


def test_a_run_that_is_to_train_a_model_and_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no trained model"):
        recipe_of_service(run_of(tmp_path, "ingest", "sft", **TRAINED))


def test_a_run_without_a_policy_is_served_as_its_recipe_says(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ingest", "decompose", "composer", composer=TRAINED["composer"])
    recipe = recipe_of_service(run, ["synthesize.judge=each"])
    assert (recipe.roles.composer.trained, recipe.roles.responder.adapter) == (True, None)
    assert recipe.synthesize.judge == "each"


def test_a_model_plays_every_role(tmp_path: Path) -> None:
    recipe = recipe_of_service("org/some-Model", ["pools.served.gpus=1", "serve.max_n=2"])
    assert recipe.name == "some-Model"
    (pool,) = recipe.pools.values()
    assert (pool.model, pool.gpus, recipe.serve.max_n) == ("org/some-Model", 1, 2)
    assert models_of(recipe) == dict.fromkeys(["some-Model", *ROLES], Model("served"))


def with_adapters(**adapters: str) -> Recipe:
    pools = {"a": BASE, "b": BASE | {"model": "org/judge"}}
    roles = {role: {"pool": "b" if role == "judge" else "a"} for role in ROLES}
    return parse_recipe({"name": "mine", "pools": pools, "roles": roles, "serve": {"adapters": adapters}})


def test_further_adapters_are_models_of_the_responders_pool() -> None:
    recipe = with_adapters(tuned="/models/tuned")
    assert models_of(recipe)["tuned"] == Model("a", "/models/tuned")
    assert adapters_served(recipe, "a") == ("/models/tuned",)
    assert adapters_served(recipe, "b") == ()


@pytest.mark.parametrize("name", ["mine", "judge"])
def test_an_adapter_takes_no_name_that_is_taken(name: str) -> None:
    with pytest.raises(RecipeError, match=f"serve.adapters names '{name}'"):
        with_adapters(**{name: "/models/tuned"})
