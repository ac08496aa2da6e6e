"""`ultraif serve`, as a user starts it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.hub import hub
from tests.processes import descendants
from tests.serve.service import events
from ultraif_ray.errors import RecipeError
from ultraif_ray.serve.command import TOKEN, door_of, serve_models
from ultraif_ray.serve.guard import hashed


def test_who_listens_beyond_this_machine_has_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    file = tmp_path / "token"
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert host in door_of(None, host).hosts
    for host in ("0.0.0.0", "10.0.0.1", "::", "example.org"):  # noqa: S104
        with pytest.raises(RecipeError, match=f"{TOKEN} or with --token-file"):
            door_of(None, host)
    for content, said in ((None, "cannot be read"), (" \n", "holds no token")):
        if content is not None:
            file.write_text(content)
        with pytest.raises(RecipeError, match=said):
            door_of(str(file), "127.0.0.1")
    file.write_text("of-a-file\n")
    monkeypatch.setenv(TOKEN, "of-the-environment")
    door = door_of(str(file), "0.0.0.0")  # noqa: S104
    assert (door.token_hash, door.hosts) == (hashed(b"of-a-file"), frozenset())
    assert door_of(None, "0.0.0.0").token_hash == hashed(b"of-the-environment")  # noqa: S104
    assert "of-a-file" not in repr(door)


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RecipeError, match=f"port {port} of 127.0.0.1 cannot be had"):
            serve_models("packaged", port=port)


def test_a_model_that_the_hub_does_not_give_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(monkeypatch), pytest.raises(RecipeError, match=r"pools\.served\.model is 'org/gated', whose licence"):
        serve_models("org/gated", port=0)


@contextmanager
def served(*words: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a service that a user starts, and its process."""
    command = [sys.executable, "-m", "ultraif_ray.cli", "serve", *words, "--port", "0"]
    clean = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", TOKEN)}
    process = subprocess.Popen(
        command, env=clean | environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.match(r"serving at (\S+),", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[1], process
                return
        raise AssertionError(said)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def simulated(**more: Any) -> list[str]:
    pool = {"engine": "simulated", "model": "simulated", **more}
    return ["tried", f"pools.served={json.dumps(pool)}", "decompose.check=text", "synthesize.check=text"]


def replicas(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the engines' replicas."""
    return descendants(process.pid, "ServeReplica", "engine")


def seen_by_ray(process: subprocess.Popen[str], metric: str) -> list[str]:
    """The lines of a metric that Ray's agent on the service's node has for Prometheus."""
    for agent in descendants(process.pid, "ray::DashboardAgent"):
        for port in {at.laddr.port for at in agent.net_connections("tcp") if at.status == psutil.CONN_LISTEN}:
            with suppress(httpx.HTTPError):
                lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
                if found := [line for line in lines if line.startswith(metric)]:
                    return found
    return []


CHAT = {"model": "tried", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.ray
def test_a_service_answers_loses_no_request_with_a_replica_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    words = simulated(replies=str(tmp_path), latency_s=0.5, tokens_per_s=60)

    def notes() -> int:
        return sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir())

    with served(*words, **{TOKEN: "a-token"}) as (address, process):
        with httpx.Client(base_url=address, timeout=60) as ask:
            assert ask.get("/ready").json() == {"status": "ok", "loading": []}
            assert ask.get("/v1/models").status_code == 401
            ask.headers["Authorization"] = "Bearer a-token"
            whole = ask.post("/v1/chat/completions", json=CHAT).json()
            streamed = events(ask.post("/v1/chat/completions", json=CHAT | {"stream": True}).text)
            text = "".join(data["choices"][0]["delta"].get("content", "") for _, data in streamed[:-1])
            assert text == whole["choices"][0]["message"]["content"]
            assert ask.post("/v1/chat/completions", json=CHAT | {"model": "other"}).status_code == 404
            made = ask.post("/v1/compose", json={"prompt": "Write about rain", "rounds": 1}).json()
            case = {"query": made["query"], "response": "Rain.", "questions": made["questions"]}
            assert len(ask.post("/v1/judge", json={"items": [case] * 3}).json()["items"]) == 3

            noted = notes()
            with pytest.raises(httpx.ReadTimeout):
                ask.post("/v1/chat/completions", json=CHAT, timeout=0.2)  # the client leaves
            time.sleep(3)
            assert notes() == noted  # and nothing was written for it

            (replica,) = replicas(process)
            with ask.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("data: ")
                replica.kill()
                left = list(lines)
            assert left[-3:-1] == ["event: error", left[-2]]
            assert "an engine was lost" in left[-2]
            while replica in replicas(process) or not replicas(process):
                time.sleep(0.2)

            (replica,) = replicas(process)
            answers: list[httpx.Response] = []
            asking = [
                threading.Thread(target=lambda: answers.append(ask.post("/v1/chat/completions", json=CHAT)))
                for _ in range(8)
            ]
            for one in asking:
                one.start()
            replica.kill()
            for one in asking:
                one.join()
            assert [(one.status_code, one.json()["choices"]) for one in answers] == [(200, whole["choices"])] * 8
        for _ in range(240):
            if counted := seen_by_ray(process, "ray_serve_deployment_request_counter"):
                break
            time.sleep(0.5)
        assert any('deployment="engine-served"' in line for line in counted)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
