"""The recipe as a step after training sees it: what the run has trained plays its role.

A LoRA adapter on the model that a pool serves anyway is served from that pool, next to the frozen base. Anything else
gets a pool of its own, placed like the one it takes over from.
"""

from pathlib import Path
from typing import Any

from ultraif_ray.recipe import Composer, Policy, Recipe, Thinking, VllmPool, parse_recipe
from ultraif_ray.records import ROLES


def in_round(recipe: Recipe, number: int) -> Recipe:
    """The recipe of a DPO round: instructions are drawn anew, with `align.extra_constraints` more each time, `dpo` is
    what it is in this round, and the responder is asked as the policy was trained, or with `align.system`.
    """
    if not number:
        return recipe
    more = number * recipe.align.extra_constraints
    rounds = {constraints + more: weight for constraints, weight in recipe.synthesize.rounds.items()}
    synthesize = recipe.synthesize.model_copy(update={"rounds": rounds, "goal": "dpo"})
    dpo = recipe.dpo_in_round(number)
    system = recipe.align.system or recipe.export.system_prompt
    responder = recipe.roles.responder.model_copy(update={"system": system})
    roles = recipe.roles.model_copy(update={"responder": responder})
    update = {"synthesize": synthesize, "roles": roles, "seed": recipe.seed + number, "dpo": dpo}
    return recipe.model_copy(update=update)


def with_trained_models(recipe: Recipe, composer: str = "", policy: str = "") -> Recipe:
    """The recipe with trained models in their roles, and without the pools that then serve no role.

    Args:
        recipe: the run's recipe.
        composer: the folder of the step that trained the composer; or empty.
        policy: the folder of the step that trained the policy, which becomes the responder; or empty.
    """
    data = recipe.model_dump(mode="json")
    if composer and recipe.composer:
        _serve(data, recipe, "composer", recipe.composer, composer_pool(recipe), composer)
        data["roles"]["composer"]["trained"] = True
    if policy and recipe.policy:
        _serve(data, recipe, "responder", recipe.policy, policy_pool(recipe), policy)
    return _without_unused(data)


def sharing_gpu(recipe: Recipe) -> Recipe:
    """The recipe with half a GPU each for the engines of policy and judge, where these are two: in one worker they are
    the halves of one.
    """
    both = {recipe.roles.responder.pool, recipe.roles.judge.pool}
    if len(both) == 1:
        return recipe
    halves = {name: recipe.pools[name].model_copy(update={"gpus": recipe.pools[name].gpus / 2}) for name in both}
    return recipe.model_copy(update={"pools": recipe.pools | halves})


def _without_unused(data: dict[str, Any]) -> Recipe:
    """The recipe of `data`, without the pools that serve no role."""
    used = {role["pool"] for role in data["roles"].values()}
    data["pools"] = {name: pool for name, pool in data["pools"].items() if name in used}
    if data["policy"]:
        data["policy"]["pool"] = None
    return parse_recipe(data)


def responder_alone(recipe: Recipe) -> Recipe:
    """The recipe with the responder's pool for all roles, where nobody else is asked, and nothing is checked."""
    data = recipe.model_dump(mode="json")
    responder = data["roles"]["responder"]
    pool = responder["pool"]
    data["roles"] = {role: {"pool": pool} for role in ROLES} | {"responder": responder}
    data["pools"] = {pool: data["pools"][pool]}
    data["decompose"]["check"] = data["synthesize"]["check"] = "text"
    data["synthesize"]["judge"] = "rationale"
    return parse_recipe(data | dict.fromkeys(("policy", "composer", "sets", "responses", "evaluate")))


def policy_as_it_starts(recipe: Recipe) -> Recipe:
    """The recipe with the model that the policy's training starts from as the responder."""
    assert recipe.policy  # noqa: S101 - a plan asks for none without one
    data, pool = recipe.model_dump(mode="json"), policy_pool(recipe)
    data["roles"]["responder"] |= {"pool": pool, "thinking_tokens": None, "adapter": None}
    if isinstance(placed := recipe.pools[pool], VllmPool) and (
        recipe.policy.model != placed.model or recipe.policy.chat_template
    ):
        template = recipe.policy.chat_template and Path(recipe.policy.chat_template).read_text(encoding="utf-8")
        data["roles"]["responder"]["pool"] = "policy-start"
        data["pools"]["policy-start"] = data["pools"][pool] | {
            "model": recipe.policy.model,
            "trust_remote_code": recipe.policy.trust_remote_code,
            "chat_template": template,
            "thinking": Thinking().model_dump(),
        }
    return _without_unused(data)


def composer_pool(recipe: Recipe) -> str:
    """The pool whose place the trained composer takes."""
    return recipe.roles.composer.pool


def policy_pool(recipe: Recipe) -> str:
    """The pool whose place the trained policy takes."""
    return (recipe.policy and recipe.policy.pool) or recipe.roles.responder.pool


def is_adapter(recipe: Recipe, trained: Composer | Policy, pool: str) -> bool:
    """Whether what is trained can be served as an adapter on a pool's own model."""
    serving = recipe.pools[pool]
    # Training renders with the model's own template, so an adapter would not know the one that a pool has instead.
    same = isinstance(serving, VllmPool) and serving.model == trained.model and serving.chat_template is None
    has_template = isinstance(trained, Policy) and trained.chat_template is not None
    return trained.lora is not None and same and not has_template


def _serve(data: dict[str, Any], recipe: Recipe, role: str, trained: Composer | Policy, pool: str, folder: str) -> None:
    """Let `role` be played by the model in a training step's `folder`."""
    placed = recipe.pools[pool]
    data["roles"][role] |= {"pool": pool, "thinking_tokens": None}  # it was trained on answers alone
    if not isinstance(placed, VllmPool):
        return  # simulated, in scale tests: there is no model to change
    if is_adapter(recipe, trained, pool):
        data["roles"][role]["adapter"] = f"{folder}/model"
        return
    name = f"trained-{role}"
    data["pools"][name] = data["pools"][pool] | {
        "model": f"{folder}/{'merged' if trained.lora is not None else 'model'}",
        "trust_remote_code": trained.trust_remote_code,
        "chat_template": None,  # the trained model's own, which it was trained with
        "thinking": Thinking().model_dump() if trained.model != placed.model else data["pools"][pool]["thinking"],
    }
    data["roles"][role] |= {"pool": name, "adapter": None}  # the recipe's own adapter belongs to another model
