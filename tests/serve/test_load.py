"""The service under requests that nobody meant, and under many: schemathesis and locust, as commands."""

import asyncio
import csv
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn

from tests.processes import descendants
from tests.serve.service import client, one_pool
from tests.serve.service import simulated as service
from tests.serve.test_app import ROUTES, STREAMED
from tests.serve.test_command import replicas, served, simulated
from ultraif_ray.serve.app import create_app

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@pytest.mark.long
def test_no_request_gets_a_fault_of_ours_nor_a_form_that_the_schema_does_not_have() -> None:
    made = one_pool(synthesize={"checkers": "all"})
    server = uvicorn.Server(uvicorn.Config(create_app(service(made)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    port = server.servers[0].sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--no-color"]
    # What the schema allows, the recipe may still bound.
    options = ["--exclude-checks", "positive_data_acceptance", "--phases", "coverage,fuzzing", "-n", "300"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    server.should_exit = True
    thread.join()
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.long
async def test_ten_thousand_requests_leave_nothing_in_memory() -> None:
    async def thousand(ask: httpx.AsyncClient) -> int:
        for _ in range(25):
            asked = [(path, body, number % 2 == 1) for number in range(10) for path, body in ROUTES.items()]
            done = await asyncio.gather(
                *(
                    ask.post(path, json=body | ({"stream": True} if odd and path in STREAMED else {}))
                    for path, body, odd in asked
                )
            )
            assert {one.status_code for one in done} == {200}
        return psutil.Process().memory_info().rss

    async with client(service()) as ask:
        used = [await thousand(ask) for _ in range(10)]
    print([one >> 20 for one in used])
    assert used[-1] < 1.1 * used[1]


def load(address: str, clients: int, seconds: int, place: Path) -> dict[str, str]:
    """What locust found of all requests together."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", address]
    options = ["-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--csv", str(place), "--only-summary"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    with Path(f"{place}_stats.csv").open() as file:
        (found,) = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    assert "Traceback" not in done.stderr, done.stderr
    wanted = ("Request Count", "Failure Count", "Requests/s", "50%", "99%", "100%")
    print(place.name, {name: found[name] for name in wanted})
    return found


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("copies", [1, 2])
def test_under_load_no_request_is_lost_nor_answered_wrongly_with_a_replica_killed(copies: int, tmp_path: Path) -> None:
    words = [*simulated(latency_s=0.05, replicas={"min": copies, "max": copies})]
    with served(*words) as (address, process):
        load(address, 40, 20, tmp_path / "warm")
        before = memory(process)
        calm = load(address, 40, 20, tmp_path / "calm")
        killer = threading.Timer(6, lambda: replicas(process)[0].kill())
        killer.start()
        hit = load(address, 40, 20, tmp_path / "hit")
        after = memory(process)
    for found in (calm, hit):
        assert int(found["Failure Count"]) == 0
        assert int(found["Request Count"]) > 500
    print({"copies": copies, "MiB before": before >> 20, "MiB after": after >> 20})
    assert after < 1.3 * before


def memory(process: "subprocess.Popen[str]") -> int:
    """Bytes that the front has."""
    return sum(one.memory_info().rss for one in descendants(process.pid, "front"))
