"""The entry points for `ray job submit`."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import rows_of
from ultraif_ray.store.folder import RunFolder

ROOT = Path(__file__).parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "job")


def test_there_is_one_for_each_job() -> None:
    assert JOBS == ["align", "decompose", "serve", "synthesize", "train_composer", "train_dpo", "train_sft"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_jobs_run_their_part_go_on_from_one_another_and_print_where_it_is(tmp_path: Path) -> None:
    import ray

    pool = "pools={m: {engine: simulated}}"
    roles = "roles={decomposer: {pool: m}, composer: {pool: m}, responder: {pool: m}, judge: {pool: m}}"
    more = ["composer=null", "policy=null", "ingest.limit=4", pool, roles]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    folder = RunFolder(str(tmp_path / "run"))
    for job, last in (("decompose", "decompose"), ("align", "export")):
        command = [sys.executable, str(ROOT / f"jobs/{job}.py"), "--recipe", "demo", "--run", folder.path, *more]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"output: {folder.path}/{last}"
        steps = ("ingest", "decompose", "synthesize", "export")
        upto = steps[: steps.index(last) + 1]
        assert [folder.state(step) for step in steps] == ["done"] * len(upto) + [""] * (4 - len(upto))
        assert len({row.id for row in rows_of(folder, upto[-1] if last == "decompose" else "synthesize")}) == 4


Job = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """What a job that cannot run says, in this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.syspath_prepend(ROOT / "jobs")

    def run(job: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [job, *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / f"jobs/{job}.py"), run_name="__main__")
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        return said.err.strip().splitlines()[-1]

    return run


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins would go on for minutes."""
    monkeypatch.setattr("ultraif_ray.steps.run.run_steps", lambda *steps: pytest.fail("the run begins"))


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("job", "words", "step"),
    [
        ("train_composer", ["composer=null"], "composer"),
        ("train_sft", ["policy=null"], "sft"),
        ("train_dpo", ["policy=null"], "round-1/dpo"),
        ("train_dpo", ["--round", "3"], "round-3/dpo"),
        ("decompose", ["sets={sft: [a.json]}"], "decompose"),
        ("synthesize", ["sets={sft: [a.json]}"], "synthesize"),
    ],
)
def test_a_job_is_for_the_step_of_its_name(refusal: Job, job: str, words: list[str], step: str) -> None:
    assert refusal(job, "--recipe", "demo", *words).startswith(f"ultraif: this recipe has no step '{step}'; it has ")


@pytest.mark.usefixtures("no_run")
def test_a_run_folder_that_would_be_lost_with_the_job_is_refused(refusal: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "which is lost with the cluster: give --run an absolute path" in refusal("align", "--recipe", "demo")


def test_a_fault_in_the_recipe_is_one_line_and_an_exit_code(refusal: Job) -> None:
    said = refusal("train_sft", "--recipe", "demo", "sft.learning_rat=1")
    assert said.startswith("ultraif: sft.learning_rat is not a field of TRL's SFTConfig")
