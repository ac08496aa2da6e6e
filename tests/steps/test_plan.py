"""Which steps a run has, what each is made from, and what its fingerprint covers."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import scripted
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Recipe, difference, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.steps.engines import EngineStep
from ultraif_ray.steps.export import Export
from ultraif_ray.steps.plan import following, plan
from ultraif_ray.steps.serving import in_round
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


OWN: dict[str, Any] = {"composer": {"model": "a", "prompts": ["wild.jsonl"]}}


def test_a_composer_with_prompts_of_its_own_has_its_own_way_in(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    recipe = made(**OWN, policy={"model": "b"}, align={"iterations": 1})
    steps = plan(recipe, folder)
    assert [step.name for step in steps[:6]] == [
        "ingest", "composer-ingest", "composer-decompose", "composer", "synthesize", "export",
    ]  # fmt: skip
    inputs = {step.name: {name: source.name for name, source in step.inputs.items()} for step in steps}
    assert inputs["composer-decompose"] == {"rows": "composer-ingest"}
    assert inputs["composer"] == {"rows": "composer-decompose"}
    assert inputs["synthesize"] == {"rows": "ingest", "composer": "composer"}
    assert inputs["round-1/synthesize"] == {"rows": "ingest", "composer": "composer", "policy": "sft"}
    stages = {step.name: step.stages for step in steps if isinstance(step, EngineStep)}
    assert stages["composer-decompose"] == ("decompose",)
    assert stages["synthesize"] == stages["round-1/synthesize"] == ("compose", "respond")
    accounts = [name for step in steps[:6] for name in step.accounts]
    assert accounts == [step.name for step in steps[:6]]
    assert [step.sets for step in steps if isinstance(step, Export)] == [("sft", "dpo", "rl")] * 2


def test_prompts_that_are_composed_are_decomposed_where_their_constraints_are_asked_about(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    recipe = made(**OWN, policy={"model": "b"}, synthesize={"questions": "all"})
    synthesis = step_of("synthesize", recipe, folder)
    assert synthesis.accounts == ("decompose", "synthesize")
    assert step_of("round-1/synthesize", recipe, folder).inputs["rows"] == synthesis
    assert [step.name for step in plan(recipe, folder, decompose=True)][:4] == [
        "ingest", "decompose", "composer-ingest", "composer-decompose",
    ]  # fmt: skip


def test_what_the_composer_learns_from_decides_its_content_and_where_it_lies_does_not(tmp_path: Path) -> None:
    (tmp_path / "wild.jsonl").write_text('{"prompt": "Write a haiku."}')
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Write."}')
    own = made(composer={"model": "a", "prompts": [f"{tmp_path}/wild.jsonl"]}, prompts=[f"{tmp_path}/prompts.jsonl"])
    shared = made(composer={"model": "a"}, prompts=[f"{tmp_path}/wild.jsonl"])
    assert settings("composer-ingest", own, tmp_path) == settings("ingest", shared, tmp_path)
    assert settings("ingest", own, tmp_path) != settings("ingest", shared, tmp_path)
    changed = difference(settings("composer", own, tmp_path), settings("composer", shared, tmp_path))
    assert changed == ["inputs.rows.step: 'composer-decompose' → 'decompose'"]
    with pytest.raises(InputError, match="no such file"):
        step_of("composer-ingest", made(**OWN), RunFolder(str(tmp_path))).check(
            Context(made(**OWN), RunFolder(str(tmp_path)))
        )


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
    for sections in [*trained, trained[1] | trained[2], OWN, OWN | trained[2]]:
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


def in_its_round(number: int, recipe: Recipe, step: str, tmp_path: Path) -> dict[str, Any]:
    folder = RunFolder(str(tmp_path))
    name = f"round-{number}/{step}"
    return whole_settings(step_of(name, recipe, folder), Context(in_round(recipe, number), folder))


def test_every_round_takes_prompts_of_its_own_and_its_fingerprint_says_which(tmp_path: Path) -> None:
    recipe = made(policy={"model": "b"}, align={"iterations": 4, "prompt_fraction": 0.25})
    parts = [in_its_round(number, recipe, "synthesize", tmp_path)["part"] for number in (1, 2, 3, 4)]
    quarter = 2**61
    assert parts == [{"start": n * quarter, "end": (n + 1) * quarter % 2**63} for n in range(4)]


def test_the_fingerprint_of_a_dpo_round_covers_the_fields_that_it_has_and_no_others(tmp_path: Path) -> None:
    def fields(number: int, **align: Any) -> Any:
        recipe = made(policy={"model": "b"}, dpo={"beta": 0.2}, align={"iterations": 3, **align})
        return in_its_round(number, recipe, "dpo", tmp_path)["fields"]

    assert [fields(number)["loss_type"] for number in (1, 2, 3)] == [["sigmoid"], ["sigmoid"], ["nca_pair"]]
    softer = {"last_round_dpo": {"beta": 0.05}}
    assert [fields(number, **softer)["beta"] for number in (1, 2, 3)] == [0.2, 0.2, 0.05]
    assert fields(3, **softer)["loss_type"] == ["sigmoid"]
    assert all(fields(number, **softer) == fields(number) for number in (1, 2))
    assert fields(3, iterations=4) == fields(2)


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


@pytest.mark.parametrize(
    ("step", "before", "after", "changed"),
    [
        ("synthesize", {"gpus": 0}, {"gpus": 1}, "pools.m.on_gpu: False → True"),
        ("synthesize", {"args": {}}, {"args": {"quantization": "fp8"}}, "pools.m.args.quantization: None → 'fp8'"),
        ("round-1/synthesize", {}, {"max_model_len": 512}, "policy_pool.max_model_len: None → 512"),
    ],
)
def test_what_a_model_computes_with_decides_what_it_answers(
    step: str, before: dict[str, Any], after: dict[str, Any], changed: str, tmp_path: Path
) -> None:
    pool = {"engine": "vllm", "model": "org/base"}

    def with_pool(options: dict[str, Any]) -> dict[str, Any]:
        pools = {"m": {"engine": "vllm", "model": "org/other"}, "p": pool} if "round" in step else {"m": pool}
        pools[list(pools)[-1]] = pool | options
        policy = {"model": "org/base", "pool": list(pools)[-1]}
        return settings(step, made(pools=pools, policy=policy), tmp_path)

    assert difference(with_pool(before), with_pool(after)) == [changed]


def test_training_on_gpus_is_another_precision(tmp_path: Path) -> None:
    on_cpu, on_gpu = (settings("sft", made(policy={"model": "b"}, train={"gpus": n}), tmp_path) for n in (0, 1))
    assert difference(on_cpu, on_gpu) == ["on_gpu: False → True"]


def test_other_weights_in_a_local_folder_are_another_model(tmp_path: Path) -> None:
    (folder := tmp_path / "model").mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(1000))
    recipe = made(pools={"m": {"engine": "vllm", "model": str(folder)}}, policy={"model": str(folder)})

    def state() -> list[Any]:
        found = settings("synthesize", recipe, tmp_path)["pools"]["m"]["weights"]
        return [found, settings("sft", recipe, tmp_path)["weights"]]

    before = state()
    weights.touch()  # the same, copied here anew
    assert state() == before
    weights.write_bytes(bytes(999) + b"1")
    assert not set(state()) & set(before)
    large = bytearray(64 << 20)
    weights.write_bytes(large)
    first = state()
    large[(32 << 20) : (48 << 20)] = b"1" * (16 << 20)
    weights.write_bytes(large)
    assert not set(state()) & set(first)


def test_sets_that_exist_already_take_the_place_of_all_that_would_make_them(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    models: dict[str, Any] = {"composer": {"model": "a"}, "policy": {"model": "b"}}
    whole = plan(made(**models, sets={"sft": ["s"], "dpo": {1: ["d"], 2: ["e"]}}), folder)
    inputs = {step.name: {name: source.name for name, source in step.inputs.items()} for step in whole}
    assert inputs == {
        "export": {},
        "sft": {"examples": "export"},
        "round-1/export": {},
        "round-1/dpo": {"examples": "round-1/export", "policy": "sft"},
        "round-2/export": {},
        "round-2/dpo": {"examples": "round-2/export", "policy": "round-1/dpo"},
        "model": {"policy": "round-2/dpo"},
    }
    alone = plan(made(**models, sets={"dpo": {1: ["d"]}}), folder)
    assert alone[1].inputs == {"examples": alone[0]}
    assert names(made(**models, sets={"composer": ["c"]}), folder) == ["export", "composer"]


def test_a_fingerprint_of_a_set_covers_its_files_and_the_split_and_nothing_made_here(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("{}\n")
    base: dict[str, Any] = {"policy": {"model": "b"}, "sets": {"sft": [str(file)]}}
    before = settings("export", made(**base), tmp_path)
    assert settings("export", made(**base, synthesize={"k": 2}, export={"keep_unsatisfied": True}), tmp_path) == before
    assert difference(before, settings("export", made(**base, export={"held_out": 0.2}), tmp_path)) == [
        "held_out: 0.05 → 0.2"
    ]
    file.write_text('{"other": 1}\n')
    assert settings("export", made(**base), tmp_path) != before
