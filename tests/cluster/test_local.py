"""Jobs on the cluster that `cluster/local.sh` starts: submitted, stopped, submitted again, with a node killed."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ultraif_ray.store.folder import RunFolder

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/local.sh"
TOKEN = "token-of-the-job"  # noqa: S105 - opens nothing
ROLES = ("decomposer", "composer", "responder", "judge")

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("local")]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head and two nodes; the environment that `start` says to set."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "ULTRAIF_LOCAL_CLUSTER": tempfile.mkdtemp(
            prefix="local-"
        ),  # short: a socket's path may have some hundred characters
        "PORT": free_port(),
        "DASHBOARD_PORT": free_port(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    started = subprocess.run([SCRIPT, "start"], env=environment, capture_output=True, text=True, check=False)
    try:
        assert started.returncode == 0, started.stderr
        said = dict(re.findall(r"(RAY_\w+)=(\S+)", started.stdout))
        assert said["RAY_AUTH_MODE"] == "token"
        yield environment | said
    finally:
        subprocess.run([SCRIPT, "stop"], env=environment, check=True)


def submit(cluster: dict[str, str], tmp_path: Path, *more: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    pool = {"engine": "simulated", "tokens_per_s": 400, "rows_in_flight": 4, "replicas": {"min": 1, "max": 3}}
    settings = {
        "pools": {"m": pool},
        "roles": {role: {"pool": "m"} for role in ROLES},
        "composer": None,
        "policy": None,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    job = ["python", "jobs/synthesize.py", "--recipe", "demo", "--run", str(tmp_path / "run")]
    variables = ["--runtime-env-json", json.dumps({"env_vars": {"HF_TOKEN": TOKEN}})]
    command = ["ray", "job", "submit", *([] if wait else ["--no-wait"]), "--working-dir", ".", *variables, "--"]
    return subprocess.run(
        [*command, *job, *overrides, *more],
        cwd=ROOT,
        env=cluster,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def with_token(cluster: dict[str, str], title: str) -> list[bool]:
    """Of the cluster's processes whose command line holds `title`: whether each has the job's token."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            variables = process.environ()
            ours = variables.get("ULTRAIF_LOCAL_CLUSTER") == cluster["ULTRAIF_LOCAL_CLUSTER"]
            if ours and title in " ".join(process.cmdline()):
                found.append(variables.get("HF_TOKEN") == TOKEN)
    return found


def test_a_job_is_stopped_and_submitted_again_and_a_node_dies(cluster: dict[str, str], tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    # So slow that it cannot end before it is stopped, however busy the machine; speed is no part of the fingerprint.
    first = submit(cluster, tmp_path, "pools.m.tokens_per_s=100", wait=False)
    assert first.returncode == 0, first.stderr
    name = re.findall(r"raysubmit_\w+", first.stdout)[0]
    deadline = time.monotonic() + 600
    while folder.count("synthesize") < 4 and time.monotonic() < deadline:
        time.sleep(0.3)
    # `--runtime-env-json` reaches the driver and the workers; but not what was there before the job.
    assert any(with_token(cluster, "python jobs/synthesize.py"))
    assert set(with_token(cluster, "ray::MapWorker")) == {True}
    assert set(with_token(cluster, "raylet/raylet")) == {False}
    subprocess.run(["ray", "job", "stop", name], env=cluster, capture_output=True, check=True)
    before = {one for batch in folder.read_tables("synthesize") for one in batch.column("id").to_pylist()}
    assert 4 <= len(before) < 32
    # The node's death is not waited for: the job that comes meets it.
    subprocess.run([SCRIPT, "kill", "1"], env=cluster, check=True)
    again = submit(cluster, tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"output: {tmp_path}/run/synthesize" in again.stdout
    assert not re.search(r'File "[^"]*ultraif_ray/', again.stdout)  # Ray may tell of its own that went with the node
    after = [one for batch in folder.read_tables("synthesize") for one in batch.column("id").to_pylist()]
    assert len(after) == len(set(after)) == 32
    assert before <= set(after)


@pytest.mark.long
@pytest.mark.vllm
def test_a_jobs_token_reaches_the_processes_of_its_engines(cluster: dict[str, str], tmp_path: Path) -> None:
    """vLLM's engine is a process of its own, and the one that loads the model."""
    pool = {"engine": "vllm", "model": "packaged", "max_model_len": 2048, "rows_in_flight": 4}
    started = submit(cluster, tmp_path, f"pools.m={json.dumps(pool)}", wait=False)
    assert started.returncode == 0, started.stderr
    name = re.findall(r"raysubmit_\w+", started.stdout)[0]
    deadline = time.monotonic() + 600
    while not (engines := with_token(cluster, "EngineCore")) and time.monotonic() < deadline:
        time.sleep(0.5)
    subprocess.run(["ray", "job", "stop", name], env=cluster, capture_output=True, check=True)
    assert set(engines) == {True}


def test_a_fault_in_the_recipe_is_the_jobs_exit_code(cluster: dict[str, str], tmp_path: Path) -> None:
    failed = submit(cluster, tmp_path, "synthesize.kk=1")
    assert failed.returncode == 1
    assert "synthesize.kk: unknown key; did you mean 'k'?" in failed.stdout + failed.stderr
    assert "exit code 2" in failed.stdout + failed.stderr


def test_a_second_cluster_in_the_same_place_is_refused(cluster: dict[str, str]) -> None:
    again = subprocess.run([SCRIPT, "start"], env=cluster, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is running already" in again.stderr


def test_who_has_no_token_is_refused(cluster: dict[str, str]) -> None:
    """The dashboard, which takes jobs, and the cluster's own port."""
    jobs = f"{cluster['RAY_API_SERVER_ADDRESS']}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
        urllib.request.urlopen(jobs, timeout=60)  # noqa: S310 - our own server
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o077 == 0
    asked = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token.read_text().strip()}"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=60) as said:  # noqa: S310
        assert said.status == 200
    wrong = cluster | {"RAY_AUTH_TOKEN": "0" * 64}
    check = ["ray", "list", "nodes"]
    assert subprocess.run(check, env=cluster, capture_output=True, check=False).returncode == 0
    assert subprocess.run(check, env=wrong, capture_output=True, check=False).returncode != 0


def test_a_node_is_added(cluster: dict[str, str]) -> None:
    state = ["ray", "list", "nodes", "--filter", "state=ALIVE", "--format", "json"]

    def alive() -> set[str]:
        listed = subprocess.run(state, env=cluster, capture_output=True, text=True, check=True)
        return {name for node in json.loads(listed.stdout) for name in node["resources_total"] if "node_" in name}

    before = alive()
    added = subprocess.run([SCRIPT, "add"], env=cluster, capture_output=True, text=True, check=True)
    number = re.findall(r"^node (\d+) is starting", added.stdout)[0]
    deadline = time.monotonic() + 120
    while f"node_{number}" not in alive() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert alive() == before | {f"node_{number}"}
