"""Which steps a run has, what each is made from, and what its fingerprint covers."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import scripted
from ultraif_ray.recipe import Recipe, difference, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.steps.engines import EngineStep
from ultraif_ray.steps.plan import following, plan
from ultraif_ray.steps.step import Context, Step, whole_settings
from ultraif_ray.store.folder import RunFolder


def made(**sections: Any) -> Recipe:
    pools = {"m": {"engine": "vllm", "model": "org/base", "gpus": 1}}
    return parse_recipe({"name": "x", "pools": pools, "roles": {role: {"pool": "m"} for role in ROLES}, **sections})


def names(recipe: Recipe, folder: RunFolder) -> list[str]:
    return [step.name for step in plan(recipe, folder)]


def step_of(name: str, recipe: Recipe, folder: RunFolder) -> Step:
    return next(step for step in plan(recipe, folder) if step.name == name)


def settings(name: str, recipe: Recipe, tmp_path: Path) -> dict[str, Any]:
    folder = RunFolder(str(tmp_path))
    return whole_settings(step_of(name, recipe, folder), Context(recipe, folder))


def test_the_steps_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert names(made(), folder) == ["ingest", "synthesize", "export"]
    steps = names(made(composer={"model": "a"}, policy={"model": "b"}, align={"iterations": 2}), folder)
    assert steps[:6] == ["ingest", "decompose", "composer", "synthesize", "export", "sft"]
    assert steps[6:] == [f"round-{t}/{s}" for t in (1, 2) for s in ("synthesize", "export", "dpo")] + ["model"]


def test_a_run_that_has_begun_keeps_its_shape(tmp_path: Path) -> None:
    folder, recipe = RunFolder(str(tmp_path)), made()
    synthesis = step_of("synthesize", recipe, folder)
    folder.open_step("synthesize", whole_settings(synthesis, Context(recipe, folder)))
    trained_later = made(policy={"model": "b"})
    assert names(trained_later, folder)[:3] == ["ingest", "synthesize", "export"]
    assert names(made(composer={"model": "a"}), folder)[:3] == ["ingest", "decompose", "composer"]
    apart = RunFolder(str(tmp_path / "apart"))
    apart.open_step("decompose", {"made": "by hand"})
    assert names(trained_later, apart)[:3] == ["ingest", "decompose", "synthesize"]


def test_steps_that_need_engines_never_stand_side_by_side(tmp_path: Path) -> None:
    """Engines that are up would be stopped for the next step to start the same."""
    folder = RunFolder(str(tmp_path))
    trained: list[dict[str, Any]] = [{}, {"composer": {"model": "a"}}, {"policy": {"model": "b"}}]
    for sections in [*trained, trained[1] | trained[2]]:
        steps = plan(made(**sections, align={"iterations": 2}), folder)
        costly = [step for step in steps if not step.cheap]
        assert not any(isinstance(a, EngineStep) and isinstance(b, EngineStep) for a, b in pairwise(costly))


def test_what_each_step_is_made_from(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    steps = plan(made(composer={"model": "a"}, policy={"model": "b"}, align={"iterations": 2}), folder)
    inputs = {step.name: {name: source.name for name, source in step.inputs.items()} for step in steps}
    assert inputs["ingest"] == {}
    assert inputs["round-2/synthesize"] == {"rows": "decompose", "composer": "composer", "policy": "round-1/dpo"}
    assert inputs["round-2/dpo"] == {"examples": "round-2/export", "policy": "round-1/dpo"}
    assert inputs["model"] == {"policy": "round-2/dpo"}
    in_one_go = plan(made(policy={"model": "b"}), folder)
    (synthesis,) = (step for step in in_one_go if step.name == "round-1/synthesize")
    assert {name: source.name for name, source in synthesis.inputs.items()} == {"rows": "synthesize", "policy": "sft"}
    assert all(source in steps[:place] for place, step in enumerate(steps) for source in step.inputs.values())


def test_what_is_made_from_a_step_directly_or_not(tmp_path: Path) -> None:
    steps = plan(made(composer={"model": "a"}, policy={"model": "b"}), RunFolder(str(tmp_path)))
    by_name = {step.name: step for step in steps}
    assert [step.name for step in following(by_name["round-1/export"], steps)] == ["round-1/dpo", "model"]
    assert following(by_name["decompose"], steps) == steps[2:]


def test_a_fingerprint_of_training_covers_the_global_batch_and_not_the_workers_that_share_it(tmp_path: Path) -> None:
    def sft(**train: Any) -> dict[str, Any]:
        return settings("sft", made(policy={"model": "b"}, train=train), tmp_path)

    eight = sft(workers={"min": 8, "max": 8})
    assert eight == sft(workers={"min": 1, "max": 8}, cpus=4, max_failures=9)
    assert eight != sft(workers={"min": 1, "max": 4})


def test_the_fraction_of_the_prompts_decides_what_a_round_holds_and_nothing_before_it(tmp_path: Path) -> None:
    half, whole = (
        scripted.recipe(policy={"model": "packaged"}, align={"prompt_fraction": fraction}) for fraction in (0.5, 1.0)
    )
    assert settings("synthesize", half, tmp_path) == settings("synthesize", whole, tmp_path)
    assert settings("round-1/synthesize", half, tmp_path) != settings("round-1/synthesize", whole, tmp_path)


@pytest.mark.parametrize(
    ("step", "sections", "covered"),
    [
        ("synthesize", {"synthesize": {"k": 2}}, ["synthesize.k: 5 → 2"]),
        ("decompose", {"synthesize": {"k": 2}}, []),
        ("decompose", {"decompose": {"attempts": 1}}, ["decompose.attempts: 3 → 1"]),
        ("export", {"export": {"layout": "reference"}}, ["export.layout: 'trl' → 'reference'"]),
    ],
)
def test_a_fingerprint_covers_what_decides_the_content(
    step: str, sections: dict[str, Any], covered: list[str], tmp_path: Path
) -> None:
    base: dict[str, Any] = {"composer": {"model": "a"}}
    before, after = (settings(step, made(**changed), tmp_path) for changed in (base, base | sections))
    assert difference(before, after) == covered


def test_a_fingerprint_does_not_cover_where_and_how_fast_it_runs(tmp_path: Path) -> None:
    faster = {"engine": "vllm", "model": "org/base", "gpus": 2, "replicas": {"min": 2, "max": 8}, "rows_in_flight": 9}
    assert settings("synthesize", made(), tmp_path) == settings("synthesize", made(pools={"m": faster}), tmp_path)
