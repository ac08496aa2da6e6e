"""What the engines of a worker are opened with: the adapters of their roles, and their own part of its GPUs."""

import os
from typing import Any

import pytest

from tests.scripted import ScriptedEngine, saying
from ultraif_ray.engine.opening import open_engines, wants_schema
from ultraif_ray.errors import RecipeError
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Pool, parse_recipe
from ultraif_ray.records import ROLES

GPUS = "CUDA_VISIBLE_DEVICES"


class Opened:
    """Stands in for `open_engine`: notes what each engine is opened with, by its model, and what it checks."""

    def __init__(self) -> None:
        self.adapters: dict[str, tuple[str, ...]] = {}
        self.gpus: dict[str, str | None] = {}
        self.samples: dict[str, int] = {}
        self.checked: dict[str, tuple[tuple[str, ...], bool]] = {}
        self.broken = ""

    def __call__(self, pool: Pool, seed: int, adapters: tuple[str, ...] = (), samples: int = 1) -> ScriptedEngine:
        assert seed == 7
        self.samples[pool.model] = samples
        self.adapters[pool.model], self.gpus[pool.model] = adapters, os.environ.get(GPUS)
        if pool.model == self.broken:
            raise RecipeError("it does not fit")
        engine = saying()

        async def check(labels: tuple[str, ...], schema: bool) -> None:
            self.checked[pool.model] = labels, schema

        engine.check = check  # type: ignore[method-assign]
        return engine


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    made = Opened()
    monkeypatch.setattr("ultraif_ray.engine.opening.open_engine", made)
    return made


def recipe(gpus: tuple[float, float] = (1, 1), **roles: dict[str, Any]) -> Any:
    """A policy that answers and a judge that decides, each on a pool of its own; the judge's pool has the rest too."""
    pools = {
        name: {"engine": "vllm", "model": name, "gpus": count, "args": {"tensor_parallel_size": max(1, int(count))}}
        for name, count in zip(("policy", "judge"), gpus, strict=True)
    }
    playing = {"decomposer": "judge", "composer": "judge", "responder": "policy", "judge": "judge"}
    settings = {role: {"pool": pool, **roles.get(role, {})} for role, pool in playing.items()}
    logprob = {"judge": "logprob", "labels": ["Y", "N"]}
    return parse_recipe({"name": "x", "seed": 7, "pools": pools, "roles": settings, "synthesize": logprob})


async def test_an_engine_has_the_adapters_of_its_roles_each_once_and_checks_their_labels(opened: Opened) -> None:
    made = recipe(
        composer={"adapter": "/run/composer/model"},
        responder={"adapter": "/run/sft/model"},
        judge={"adapter": "/run/composer/model"},
    )
    assert list(await open_engines(made, ("policy", "judge"), STAGES)) == ["policy", "judge"]
    assert opened.adapters == {"policy": ("/run/sft/model",), "judge": ("/run/composer/model",)}
    assert opened.checked == {"policy": ((), False), "judge": (("Yes", "No", "Y", "N"), True)}


@pytest.mark.parametrize(
    ("stages", "settings", "samples"),
    [
        (STAGES, {}, {"policy": 1, "judge": 1}),
        (STAGES, {"wave": 3}, {"policy": 3, "judge": 3}),
        (STAGES, {"wave": 3, "k": 2}, {"policy": 2, "judge": 2}),
        (STAGES, {"wave": 3, "pairs": "contrast"}, {"policy": 1, "judge": 1}),
        (("decompose", "compose"), {"wave": 3}, {"policy": 1, "judge": 1}),
        (("judge",), {"k": 4}, {"policy": 1, "judge": 4}),
    ],
)
async def test_an_engine_has_room_for_what_a_row_samples_and_judges_at_once(
    opened: Opened, stages: tuple[str, ...], settings: dict[str, Any], samples: dict[str, int]
) -> None:
    made = recipe()
    made = made.model_copy(update={"synthesize": made.synthesize.model_copy(update=settings)})
    await open_engines(made, ("policy", "judge"), stages)
    assert opened.samples == samples


@pytest.mark.parametrize(
    ("stages", "judge", "wanting"),
    [
        (("decompose",), "each", ["decomposers"]),
        (("compose",), "each", ["composers"]),
        (("respond",), "each", ["judges"]),
        (("respond",), "logprob", []),
        (("judge",), "rationale", ["judges"]),
        (("ask",), "rationale", []),
        (STAGES, "rationale", ["decomposers", "composers", "judges"]),
    ],
)
def test_a_pool_is_asked_for_json_where_a_role_of_it_is(
    stages: tuple[str, ...], judge: str, wanting: list[str]
) -> None:
    pools = [f"{role}s" for role in ROLES]
    made = parse_recipe(
        {
            "name": "x",
            "pools": {pool: {"engine": "openai", "model": "m", "base_url": "http://x"} for pool in pools},
            "roles": {role: {"pool": f"{role}s"} for role in ROLES},
            "synthesize": {"judge": judge},
        }
    )
    assert [pool for pool in pools if wants_schema(made, pool, stages)] == wanting


@pytest.mark.parametrize(("gpus", "shown"), [((1, 1), ("4", "5")), ((4, 1), ("4,5,6,7", "8"))])
async def test_engines_of_whole_gpus_that_share_a_worker_see_their_own(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, gpus: tuple[int, int], shown: tuple[str, str]
) -> None:
    every = ",".join(str(4 + number) for number in range(sum(gpus)))
    monkeypatch.setenv(GPUS, every)
    await open_engines(recipe(gpus), ("policy", "judge"), STAGES)
    assert (opened.gpus["policy"], opened.gpus["judge"]) == shown
    assert os.environ[GPUS] == every
    opened.broken = "judge"
    with pytest.raises(RecipeError, match="it does not fit"):
        await open_engines(recipe(gpus), ("policy", "judge"), STAGES)
    assert os.environ[GPUS] == every


async def test_engines_with_parts_of_a_gpu_share_one_behind_the_whole_ones_of_others(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GPUS, "6")
    await open_engines(recipe((0.5, 0.5)), ("policy", "judge"), STAGES)
    assert opened.gpus == {"policy": "6", "judge": "6"}
    monkeypatch.setenv(GPUS, "3,4,5,6")
    three = recipe((0.5, 0.5)).model_dump()
    wide = {"engine": "vllm", "model": "wide", "gpus": 3, "args": {"tensor_parallel_size": 3}}
    three["pools"]["wide"] = wide
    three["roles"]["composer"]["pool"] = "wide"
    await open_engines(parse_recipe(three), ("policy", "wide", "judge"), STAGES)
    assert opened.gpus == {"policy": "6", "wide": "3,4,5", "judge": "6"}


async def test_an_engine_alone_in_its_worker_sees_all_of_its_gpus(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GPUS, "2,3")
    await open_engines(recipe((2, 1)), ("policy",), STAGES)
    assert opened.gpus == {"policy": "2,3"}
