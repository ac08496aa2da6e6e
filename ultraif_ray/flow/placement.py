"""Where a journey runs: its operators, what a replica of each asks of the cluster, and Ray's options for it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import READING_AND_WRITING, Need
from ultraif_ray.recipe import OpenAIPool, Pool, Recipe, VllmPool
from ultraif_ray.records import Role

ROLES_OF_STAGE: dict[str, tuple[Role, ...]] = {
    "decompose": ("decomposer",),
    "compose": ("composer",),
    "respond": ("responder", "judge"),
    "converse": ("responder",),
    "plant": ("responder",),
    "judge": ("judge",),
    "ask": ("responder",),
}


@dataclass(frozen=True)
class Operator:
    """A part of the journey that runs in one pool of Ray actors.

    `pools` are those whose engines the actor opens. The first decides how many replicas there are; a replica asks for
    what all of them ask together.
    """

    stages: tuple[str, ...]
    pools: tuple[str, ...]


def cut(recipe: Recipe, stages: tuple[str, ...]) -> list[Operator]:
    """Cut a journey into operators at the borders of the pools that live in a worker.

    Neighbouring stages that share a pool stay together, so that no engine is loaded twice, and in self-alignment the
    whole journey is one operator. A server reached over HTTP lives in no worker and causes no cut.
    """
    operators: list[Operator] = []
    for stage in stages:
        pools = tuple(dict.fromkeys(getattr(recipe.roles, role).pool for role in ROLES_OF_STAGE[stage]))
        if operators:
            last = operators[-1]
            resident, before = _resident(recipe, pools), _resident(recipe, last.pools)
            together = stage == "respond" and recipe.synthesize.band is not None  # it composes as well
            if together or resident & before or not resident or not before:
                operators[-1] = Operator((*last.stages, stage), _in_order(recipe, (*last.pools, *pools)))
                continue
        operators.append(Operator((stage,), _in_order(recipe, pools)))
    return operators


def _resident(recipe: Recipe, pools: tuple[str, ...]) -> set[str]:
    return {pool for pool in pools if not isinstance(recipe.pools[pool], OpenAIPool)}


def _in_order(recipe: Recipe, pools: tuple[str, ...]) -> tuple[str, ...]:
    """Each pool once, those that live in the worker first."""
    return tuple(sorted(dict.fromkeys(pools), key=lambda pool: isinstance(recipe.pools[pool], OpenAIPool)))


ADVICE = "lower replicas.min, cpus or gpus of the pools, or add nodes"


def needs(recipe: Recipe, stages: tuple[str, ...]) -> list[Need]:
    """What a journey's operators, with the fewest replicas, and what reads and writes ask of the cluster.

    Raises:
        RecipeError: pools that could share no worker.
    """
    needs = [Need("reading and writing", READING_AND_WRITING, {"CPU": 1.0}, advice=ADVICE)]
    for operator in cut(recipe, stages):
        _check_spread(recipe, operator)
        pools = [recipe.pools[name] for name in operator.pools]
        accelerator = {name: amount for pool in pools for name, amount in pool.accelerator.items()}
        labels = {key: value for pool in pools for key, value in pool.labels.items()}
        what, count = f"a replica of pool '{operator.pools[0]}'", pools[0].replicas.min
        asked = resources(recipe, operator)
        if any(spreads(pool) for pool in pools):  # each of its GPUs may be on a node of its own
            others = count * (int(asked["GPU"]) - 1)
            needs.append(Need(f"a further GPU of {what}", others, {"GPU": 1.0} | accelerator, labels, ADVICE))
            asked["GPU"] = 1.0
        needs.append(Need(what, count, asked | accelerator, labels, ADVICE))
    return needs


def _check_spread(recipe: Recipe, operator: Operator) -> None:
    """An engine whose GPUs are on several nodes has its worker for itself, and loads what all of them can see."""
    resident = sorted(_resident(recipe, operator.pools))
    for name in resident:
        pool = recipe.pools[name]
        if not isinstance(pool, VllmPool) or not spreads(pool):
            continue
        if len(resident) > 1:
            raise RecipeError(
                f"pools {' and '.join(resident)} share a worker, but the GPUs of {name} may be on several nodes "
                "(distributed_executor_backend: ray): keep them on one node, or reach one of the two through `openai`"
            )
        adapters = [settings.adapter for _, settings in recipe.roles if settings.pool == name and settings.adapter]
        for model in (pool.model, *adapters):
            if "://" in model:
                raise RecipeError(
                    f"pool '{name}' may have its GPUs on several nodes, which must all see its model as a folder, but "
                    f"it is {model}: give --run and the model on a shared file system, or keep the GPUs on one node"
                )


def resources(recipe: Recipe, operator: Operator) -> dict[str, float]:
    """What one replica of an operator asks of the cluster, by Ray's resource names."""
    asked: Counter[str] = Counter()
    for name in operator.pools:
        asked.update(recipe.pools[name].asked)
    return dict(asked)


def actor_options(recipe: Recipe, operator: Operator, groups: list[PlacementGroup]) -> dict[str, Any]:
    """Ray's options for the actors of an operator.

    An engine that Ray spreads over nodes gets a placement group for each replica: one bundle for each GPU, as vLLM
    wants it, on as few nodes as will do. The group ends up in `groups`, to be freed.
    """
    pools = [recipe.pools[name] for name in operator.pools]
    asked = resources(recipe, operator)
    cpus, gpus = asked.pop("CPU", 0), asked.pop("GPU", 0)
    options: dict[str, Any] = {"num_cpus": cpus}
    accelerators = [pool for pool in pools if pool.accelerator_type]
    if labels := {key: value for pool in pools for key, value in pool.labels.items()}:
        options["label_selector"] = labels
    if not any(spreads(pool) for pool in pools):
        if gpus:
            options["num_gpus"] = gpus
        if accelerators:
            options["accelerator_type"] = accelerators[0].accelerator_type
        if asked:
            options["resources"] = asked
        return options
    accelerator = accelerators[0].accelerator if accelerators else {}
    bundles = [{"GPU": 1.0, **accelerator} for _ in range(int(gpus))]
    bundles[0] |= {"CPU": cpus, **asked}
    selectors = [labels] * len(bundles) if labels else None

    def in_a_group() -> dict[str, Any]:
        groups.append(placement_group(bundles, strategy="PACK", bundle_label_selector=selectors))
        strategy = PlacementGroupSchedulingStrategy(
            groups[-1], placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        return {"scheduling_strategy": strategy}

    return {"num_cpus": cpus, "resources": asked or None, "ray_remote_args_fn": in_a_group}


def spreads(pool: Pool) -> bool:
    """Whether one replica's GPUs may be on several nodes: vLLM's Ray executor places them."""
    return isinstance(pool, VllmPool) and pool.args.get("distributed_executor_backend") == "ray"
