"""What a notebook uses."""

from pathlib import Path

import pytest

import ultraif_ray
from tests.imports import imported_by
from tests.simulated import recipe
from ultraif_ray import Run, load_recipe, plan, run
from ultraif_ray.api import recipe_of_evaluation
from ultraif_ray.errors import RunError
from ultraif_ray.recipe import VllmPool, parse_recipe
from ultraif_ray.store.folder import RunFolder


def test_the_public_names() -> None:
    public = ["Run", "evaluate_model", "load_recipe", "plan", "run", "score_answers", "stats"]
    assert sorted(ultraif_ray.__all__) == public
    assert all(getattr(ultraif_ray, name) is not None for name in ultraif_ray.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        ultraif_ray.walk  # noqa: B018


def test_importing_it_and_reading_a_run_loads_neither_ray_nor_torch() -> None:
    imported = imported_by("ultraif_ray.api")
    assert "pyarrow" in imported
    assert not imported & {"ray", "torch", "vllm"}


def test_a_plan_names_its_steps() -> None:
    assert [step.name for step in plan(load_recipe("three_pools"))] == ["ingest", "synthesize", "export"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run's folder"):
        Run(str(tmp_path))


def test_the_model_of_a_run_is_measured_on_the_pool_that_served_it_and_a_judge_is_the_runs(tmp_path: Path) -> None:
    made = recipe(tmp_path, policy={"model": "packaged"}, synthesize={"judge": "logprob"}).model_dump(mode="json")
    own = {"engine": "vllm", "model": "org/old", "chat_template": "{{ messages }}", "gpus": 1, "max_model_len": 4096}
    made |= {"pools": {"m": own, "j": {"engine": "openai", "model": "judge", "base_url": "http://x/v1"}}}
    made["roles"]["judge"] |= {"pool": "j", "max_tokens": 77}
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_text(parse_recipe(made).model_dump_json(), "recipe.yaml")
    section = {"benchmarks": {"ifeval": "a.jsonl"}}
    with pytest.raises(RunError, match="is not a run's folder"):
        recipe_of_evaluation(str(folder), section)
    folder.open_step("model", {})
    with pytest.raises(RunError, match="holds no trained model"):
        recipe_of_evaluation(str(folder), section)
    folder.finish("model")

    found = recipe_of_evaluation(str(folder), section, ["pools.served.cpus=3"])
    assert set(found.pools) == {"served"}
    served = found.pools["served"]
    assert isinstance(served, VllmPool)
    assert (served.model, served.gpus, served.cpus, served.chat_template) == (f"{folder}/model", 1, 3, None)
    assert served.max_model_len == 4096
    assert found.run_folder == f"{folder}-evaluation"

    judged = recipe_of_evaluation(str(folder), {"benchmarks": {"infobench": "a.jsonl"}})
    assert judged.pools["judge"].model == "judge"
    assert (judged.roles.judge.pool, judged.roles.judge.max_tokens, judged.synthesize.judge) == ("judge", 77, "logprob")
    assert judged.roles.responder.pool == "served"


def test_a_model_by_itself_is_served_by_vllm() -> None:
    found = recipe_of_evaluation("org/Some model", {"benchmarks": {"ifeval": None}}, ["pools.served.gpus=1"])
    assert (found.name, found.run_folder) == ("Some-model", "runs/evaluation-Some-model")
    (pool,) = found.pools.values()
    assert (pool.engine, pool.model, pool.gpus) == ("vllm", "org/Some model", 1)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_is_read_as_rows_tables_and_sets(tmp_path: Path) -> None:
    made = run(recipe(tmp_path))
    ended = made.ledger["synthesize"].outcomes
    assert sum(1 for _ in made.rows()) == 40
    assert {row.outcome for row in made.rows("paired")} == {"paired"}
    assert made.rows("paired").arrow().num_rows == len(made.rows("paired").pandas()) == ended["paired"]
    assert made.rows("failed").dataset().num_rows == len(list(made.rows("failed")))
    assert {row.outcome for row in made.rows(step="ingest")} == {""}
    sft = made.dataset("sft")
    assert {split: rows.num_rows for split, rows in sft.items()} == {
        split: n for split, n in made.ledger["export"].examples["sft"].items() if n
    }
    with pytest.raises(RunError, match="has no rows of 'round-1/synthesize'; there is synthesize, ingest"):
        made.rows(step="round-1/synthesize")
    with pytest.raises(RunError, match="has no set 'reward' in export"):
        made.dataset("reward")
    with pytest.raises(RunError, match="holds no trained model: its recipe has no policy"):
        _ = made.model_path
