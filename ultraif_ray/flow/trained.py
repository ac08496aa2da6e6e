"""The recipe as later steps see it: with what the run has trained in its place.

A LoRA adapter on the model that a pool serves anyway is served from that pool, next to the frozen base. Anything else
gets a pool of its own, placed like the one it takes over from.
"""

from typing import Any

from ultraif_ray.recipe import Composer, Policy, Recipe, VllmPool, parse_recipe
from ultraif_ray.store.folder import RunFolder


def in_round(recipe: Recipe, number: int) -> Recipe:
    """The recipe of a DPO round: instructions are drawn anew, `align.deeper` rounds of constraints deeper each time."""
    deeper = {rounds + number * recipe.align.deeper: weight for rounds, weight in recipe.synthesize.rounds.items()}
    synthesize = recipe.synthesize.model_copy(update={"rounds": deeper, "goal": "dpo"})
    return recipe.model_copy(update={"synthesize": synthesize, "seed": recipe.seed + number})


def with_trained(recipe: Recipe, folder: RunFolder, inputs: list[str]) -> Recipe:
    """The recipe with the trained models that a step is made from: composer and policy in the place of their roles."""
    data = recipe.model_dump(mode="json")
    for step in inputs:
        if step == "composer" and recipe.composer:
            _serve(data, recipe, "composer", recipe.composer, recipe.roles.composer.pool, folder.uri(step))
            data["roles"]["composer"]["trained"] = True
        elif recipe.policy and (step == "sft" or step.endswith("/dpo")):
            pool = recipe.policy.pool or recipe.roles.responder.pool
            _serve(data, recipe, "responder", recipe.policy, pool, folder.uri(step))
    used = {role["pool"] for role in data["roles"].values()}
    data["pools"] = {name: pool for name, pool in data["pools"].items() if name in used}
    if data["policy"]:
        data["policy"]["pool"] = None
    return parse_recipe(data)


def is_adapter(recipe: Recipe, trained: Composer | Policy, pool: str) -> bool:
    """Whether what is trained can be served as an adapter on a pool's own model."""
    serving = recipe.pools[pool]
    same = isinstance(serving, VllmPool) and serving.model == trained.model
    return trained.lora is not None and same and not getattr(trained, "chat_template", None)


def _serve(data: dict[str, Any], recipe: Recipe, role: str, trained: Composer | Policy, pool: str, folder: str) -> None:
    """Let `role` be played by what stands in a training step's `folder`."""
    placed = recipe.pools[pool]
    data["roles"][role]["pool"] = pool
    if not isinstance(placed, VllmPool):
        return  # simulated, in scale tests: there is no model to change
    if is_adapter(recipe, trained, pool):
        data["roles"][role]["adapter"] = f"{folder}/model"
        return
    name = f"trained-{role}"
    data["pools"][name] = data["pools"][pool] | {
        "model": f"{folder}/{'merged' if trained.lora is not None else 'model'}",
        "trust_remote_code": trained.trust_remote_code,
    }
    data["roles"][role] |= {"pool": name, "adapter": None}  # the recipe's own adapter belongs to another model
