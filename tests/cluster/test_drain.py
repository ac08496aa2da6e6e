"""The script that takes a node out of the cluster: when a cloud gives notice, or at once.

With training on the node: tests/train/test_run.py.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import drain
import psutil
import pytest

from tests.chaos.nodes import Nodes
from tests.metadata import Metadata, metadata_server

SCRIPT = Path(drain.__file__)


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    monkeypatch.setattr(drain, "EVERY_S", 0.001)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # of no use here
    with metadata_server() as server:
        yield server


@pytest.mark.parametrize("cloud", drain.CLOUDS)
def test_a_notice_says_how_long_is_left(metadata: Metadata, cloud: str) -> None:
    assert drain.CLOUDS[cloud]() is None
    metadata.give_notice(120)
    left = drain.CLOUDS[cloud]()
    assert left is not None
    assert left == 30 if cloud == "gcp" else 100 < left <= 120


@pytest.mark.parametrize("cloud", drain.CLOUDS)
def test_who_watches_outlasts_faults_and_ends_with_the_notice(
    metadata: Metadata, cloud: str, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = 0

    def look() -> float | None:
        nonlocal looks
        looks += 1
        if looks == 3:
            metadata.failing = 2
        if looks == 8:
            metadata.give_notice(25 if cloud == "aws" else 0)
        return drain.CLOUDS[cloud]()

    left = drain.watch(look)
    assert looks == 8
    assert left == 25 if cloud == "gcp" else 10 < left <= 20
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # once, however often it fails, and once when it is over
    assert "HTTP Error 500" in said[0]
    assert "answers again" in said[1]


def test_a_machine_whose_time_is_over_has_none_left(metadata: Metadata) -> None:
    metadata.give_notice(-60)
    assert drain.watch(drain.aws) == 0


def test_where_no_metadata_server_is_it_goes_on_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "EVERY_S", 0.001)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    answers = iter([drain.aws, drain.aws, lambda: 60.0])
    assert drain.watch(lambda: next(answers)()) == 55


def test_a_machine_without_a_node_has_nothing_to_drain() -> None:
    words = [sys.executable, str(SCRIPT), "60", "--port", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "60 s are left; 0 node(s) of Ray here" in done.stderr


@pytest.mark.ray
@pytest.mark.long
def test_a_node_without_work_goes_at_once_and_the_head_stays(tmp_path: Path) -> None:
    cluster = Nodes(tmp_path, nodes=1)
    try:
        raylet, head = cluster.raylet("node-1"), cluster.raylet("head")
        words = [str(SCRIPT), "3600", "--port", cluster.address.rpartition(":")[2]]
        environment = cluster.environment | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=300)
        assert "1 node(s) of Ray here" in done.stderr
        assert "Ray does not drain it" not in done.stderr
        assert not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE
        assert head.is_running()
    finally:
        cluster.stop()
