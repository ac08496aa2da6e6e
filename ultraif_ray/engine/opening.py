"""Open the engines that a worker, or a preview, needs. Each engine's libraries are imported only where it is opened."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ultraif_ray.engine.protocol import Engine
from ultraif_ray.recipe import CHECK_LABELS, OpenAIPool, Pool, Recipe, SimulatedPool


def open_engine(pool: Pool, seed: int, adapters: tuple[str, ...] = (), samples: int = 1) -> Engine:
    """The engine of a pool, with the LoRA adapters that its roles use, and room for so many samples of a row at once.
    Call it inside a running event loop.
    """
    if isinstance(pool, OpenAIPool):
        from ultraif_ray.engine.openai import OpenAIEngine

        return OpenAIEngine(pool)
    if isinstance(pool, SimulatedPool):
        from ultraif_ray.engine.simulated import SimulatedEngine

        return SimulatedEngine(pool)
    from ultraif_ray.engine.vllm import VllmEngine

    return VllmEngine(pool, seed, adapters, samples)


async def open_engines(
    recipe: Recipe, pools: tuple[str, ...], stages: tuple[str, ...], further: tuple[str, ...] = ()
) -> dict[str, Engine]:
    """Open the engines of `pools` and check each for what the `stages` of a journey will ask of it, so that what cannot
    work fails here and not row by row. `further` are adapters beside those of the roles.
    """
    engines: dict[str, Engine] = {}
    for name in pools:
        adapters = dict.fromkeys(s.adapter for _, s in recipe.roles if s.pool == name and s.adapter)
        adapters |= dict.fromkeys(further)
        with _devices_of(recipe, pools, name):
            samples = samples_at_once(recipe, name, stages)
            engines[name] = open_engine(recipe.pools[name], recipe.seed, tuple(adapters), samples)
    for name, engine in engines.items():
        await engine.check(labels_of(recipe, name), wants_schema(recipe, name, stages))
    return engines


def wants_schema(recipe: Recipe, pool: str, stages: tuple[str, ...]) -> bool:
    """Whether some role of a pool is asked for JSON."""
    roles, judged = recipe.roles, recipe.synthesize.judge != "logprob"
    asked = {"decompose": roles.decomposer, "compose": roles.composer}
    asked |= {"respond": roles.judge} if judged and recipe.synthesize.pairs == "judged" else {}
    asked |= {"judge": roles.judge} if judged else {}
    return any(stage in stages and role.pool == pool for stage, role in asked.items())


def samples_at_once(recipe: Recipe, pool: str, stages: tuple[str, ...]) -> int:
    """How many answers a row wants of a pool at once: those of a wave are sampled and judged side by side, and stored
    ones are judged all together.
    """
    settings, roles = recipe.synthesize, recipe.roles
    if "judge" in stages and roles.judge.pool == pool:
        return settings.k
    in_waves = settings.pairs == "judged" and pool in (roles.responder.pool, roles.judge.pool)
    if not in_waves or "respond" not in stages or settings.wave == "auto":  # which takes the places that are free
        return 1
    return min(settings.wave, settings.k)


def labels_of(recipe: Recipe, pool: str) -> tuple[str, ...]:
    """The labels whose probabilities are asked of a pool, by its roles' checks and by the judge."""
    roles, found = recipe.roles, dict[str, None]()
    checks_compositions = roles.judge if roles.composer.is_a_model_of_its_own else roles.composer
    if recipe.decompose.check == "model" and roles.decomposer.pool == pool:
        found |= dict.fromkeys(CHECK_LABELS)
    if recipe.synthesize.check == "model" and checks_compositions.pool == pool:
        found |= dict.fromkeys(CHECK_LABELS)
    if recipe.synthesize.judge == "logprob" and roles.judge.pool == pool:
        found |= dict.fromkeys(recipe.synthesize.labels)
    return tuple(found)


@contextmanager
def _devices_of(recipe: Recipe, pools: tuple[str, ...], name: str) -> Iterator[None]:
    """Show an engine only its own part of the worker's GPUs, where several engines share the worker: each has its whole
    ones, and behind them come those that engines have parts of.
    """
    visible, gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ""), {pool: recipe.pools[pool].gpus for pool in pools}
    if len(pools) == 1 or not visible or not gpus[name]:
        yield
        return
    in_order = sorted(pools, key=lambda pool: not gpus[pool].is_integer())
    start = sum(gpus[pool] for pool in in_order[: in_order.index(name)])
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[int(start) : math.ceil(start + gpus[name])])
    try:
        yield
    finally:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
