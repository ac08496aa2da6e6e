"""What is served: the recipe of a run or of one model, and the models by the names that clients have for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ultraif_ray.api import Run, name_of, of_one_model
from ultraif_ray.recipe import Recipe, build_recipe, load_recipe
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.serving import with_trained_models
from ultraif_ray.steps.train import PolicyTraining, TrainComposer, takes_over
from ultraif_ray.store.folder import RunFolder


def recipe_of_service(target: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a service: that of a run, with what it trained in its roles; or one model for all roles, from a
    pool called `served`.

    Args:
        target: the folder of a run; or a model, as a recipe names one.
        overrides: `section.key=value` over the recipe.

    Raises:
        RecipeError: naming the key, the value seen and what would be right.
        RunError: the run is to train a model, and has not made it yet.
    """
    folder = RunFolder(target)
    if not folder.fs.exists(folder.at("recipe.yaml")):
        return build_recipe(of_one_model(target), overrides)
    recipe = load_recipe(f"{target.rstrip('/')}/recipe.yaml", overrides)
    if recipe.policy:
        _ = Run(target).model_path  # is made last
    trained: dict[str, str] = {}
    for step in plan(recipe, folder):
        if folder.state(step.name) != "done":
            continue
        if isinstance(step, PolicyTraining):  # the last one stays
            trained["policy"] = folder.uri(step.name)
        elif isinstance(step, TrainComposer) and takes_over(folder, step):
            trained["composer"] = folder.uri(step.name)
    return with_trained_models(recipe, **trained)


@dataclass(frozen=True)
class Model:
    """A model that clients can name: a pool, and the adapter that it answers with, if any."""

    pool: str
    adapter: str = ""


def models_of(recipe: Recipe) -> dict[str, Model]:
    """The models by name: the recipe's own name for the responder, then the further adapters, and the roles, each by
    its name.
    """
    roles = {role: Model(one.pool, one.adapter or "") for role, one in recipe.roles}
    pool = roles["responder"].pool
    further = {name: Model(pool, adapter) for name, adapter in recipe.serve.adapters.items()}
    return {recipe.name: roles["responder"]} | further | roles


def adapters_served(recipe: Recipe, pool: str) -> tuple[str, ...]:
    """The adapters that a pool's engine wants beside those of its roles."""
    return tuple(recipe.serve.adapters.values()) if pool == recipe.roles.responder.pool else ()


def shown_name(recipe: Recipe, model: Model) -> str:
    """A model as clients may see it: without the folders that it is in."""
    return name_of(model.adapter or recipe.pools[model.pool].model)
