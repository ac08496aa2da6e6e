"""The entry points for `ray job submit`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "job")


def job(name: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"jobs/{name}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, timeout=600)


def test_there_is_one_for_each_job() -> None:
    assert JOBS == ["align", "decompose", "synthesize", "train_composer", "train_dpo", "train_sft"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_runs_its_part_and_prints_where_it_is(tmp_path: Path) -> None:
    import ray

    pool = "pools={m: {engine: simulated}}"
    roles = "roles={decomposer: {pool: m}, composer: {pool: m}, responder: {pool: m}, judge: {pool: m}}"
    more = ["composer=null", "policy=null", "ingest.limit=4", pool, roles]
    address = ray.get_runtime_context().gcs_address
    done = job("decompose", "--recipe", "demo", "--run", str(tmp_path / "run"), *more, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"output: {tmp_path}/run/decompose"
    assert (tmp_path / "run/decompose/manifest.json").exists()


def test_a_run_folder_that_would_be_lost_with_the_job_is_refused() -> None:
    refused = job("align", "--recipe", "demo", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert refused.returncode == 2
    assert "which is lost with the cluster: give --run an absolute path" in refused.stderr


def test_a_fault_in_the_recipe_is_one_line_and_an_exit_code() -> None:
    refused = job("train_sft", "--recipe", "demo", "sft.learning_rat=1")
    assert refused.returncode == 2
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("ultraif: sft.learning_rat is not a field of TRL's SFTConfig")
