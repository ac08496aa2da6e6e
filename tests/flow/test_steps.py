"""Whole runs through Ray Data, with the simulated engine at the model boundary."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ultraif_ray.errors import EngineUnavailable, InputError, RecipeError, RunError
from ultraif_ray.flow import steps
from ultraif_ray.flow.folder import RunFolder
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import Row

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def prompts_file(tmp_path: Path, count: int) -> Path:
    file = tmp_path / "prompts.jsonl"
    words = ["rain", "snow", "wind", "fog"]
    lines = [{"prompt": f"Write {i} lines about {words[i % 4]} number {i} please"} for i in range(count)]
    lines += [{"prompt": " "}, lines[0]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not file.exists() or file.read_text() != text:  # a file that was written again counts as another one
        file.write_text(text)
    return file


def recipe(tmp_path: Path, count: int = 40, pools: str = "one", **sections: Any) -> Recipe:
    engine = {"engine": "simulated", "tokens_per_s": 5000, "broken_share": 0.1, "refused_share": 0.02}
    names = {"one": ["m", "m", "m", "m"], "three": ["a", "b", "c", "c"]}[pools]
    roles = ("decomposer", "composer", "responder", "judge")
    data = {
        "name": "test",
        "prompts": [str(prompts_file(tmp_path, count))],
        "run": str(tmp_path / "run"),
        "pools": dict.fromkeys(names, engine),
        "roles": {role: {"pool": name} for role, name in zip(roles, names, strict=True)},
        "flow": {"rows_per_block": 4},
    }
    return parse_recipe(data | sections)


def with_pool(made: Recipe, pool: dict[str, Any]) -> Recipe:
    return parse_recipe(made.model_dump() | {"pools": {"m": pool}})


def rows_of(folder: RunFolder, step: str = "synthesize") -> list[Row]:
    return [Row.model_validate(r) for batch in folder.read_tables(step) for r in batch.to_pylist()]


def without_usage(rows: list[Row]) -> dict[int, dict[str, Any]]:
    return {row.id: row.model_dump(exclude={"usage"}) for row in rows}


def test_a_run_accounts_for_every_row_and_one_pool_or_three_make_the_same(tmp_path: Path) -> None:
    made = {}
    for shape in ("one", "three"):
        base = tmp_path / shape
        base.mkdir()
        folder = steps.run(recipe(base, pools=shape))
        ledger = folder.read_json("ledger.json")
        assert ledger["ingest"] == {
            "input": 42,
            "outcomes": {"accepted": 40, "duplicate": 1, "empty": 1},
            "tokens": {},
        }
        for step in ("decompose", "synthesize", "export"):
            assert ledger[step]["input"] == sum(ledger[step]["outcomes"].values()) == 40
        assert set(ledger["synthesize"]["outcomes"]) <= {"paired", "satisfied", "unsatisfied", "failed"}
        assert ledger["decompose"]["tokens"]["decomposer"]["generated"] > 0
        rows = rows_of(folder)
        assert len({row.id for row in rows}) == 40
        assert sum(row.outcome == "failed" for row in rows) == ledger["synthesize"]["outcomes"].get("failed", 0)
        assert all(f.reason for row in rows for f in row.failures)
        made[shape] = without_usage(rows)
    sources = {shape: {row.pop("source").split(":")[-1] for row in rows.values()} for shape, rows in made.items()}
    assert sources["one"] == sources["three"]
    assert made["one"] == made["three"]


def test_a_finished_run_is_seen_as_finished_and_changed_settings_are_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=8)
    folder = steps.run(made)
    files = {path: Path(path).stat().st_mtime_ns for path in folder.data_files("synthesize")}
    steps.run(made)
    assert {path: Path(path).stat().st_mtime_ns for path in folder.data_files("synthesize")} == files
    with pytest.raises(RunError, match=r"synthesize\.k: 5 → 2"):
        steps.run(recipe(tmp_path, count=8, synthesize={"k": 2}))
    prompts_file(tmp_path, 9)
    with pytest.raises(RunError, match="ingest was made with other settings"):
        steps.run(made)


def test_export_is_made_anew_when_only_its_settings_change(tmp_path: Path) -> None:
    steps.run(recipe(tmp_path, count=8))
    folder = steps.run(recipe(tmp_path, count=8, export={"layout": "reference", "held_out": 0}))
    first = json.loads(Path(folder.at("export", "composer", "train.jsonl")).read_text().splitlines()[0])
    assert set(first) == {"instruction", "output", "history"}


def test_decompose_as_a_step_of_its_own_feeds_synthesis(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=12)
    folder = steps.run(made, until="decompose")
    assert {row.outcome for row in rows_of(folder, "decompose")} == {""}
    assert set(folder.read_json("ledger.json")) == {"ingest", "decompose"}
    steps.run(made)
    decomposed = {row.id: row.constraints for row in rows_of(folder, "decompose")}
    synthesized = {row.id: row.constraints for row in rows_of(folder)}
    assert decomposed == synthesized
    assert set(folder.read_json("ledger.json")) == {"ingest", "decompose", "synthesize", "export"}


def test_a_run_that_was_killed_goes_on_with_what_is_left(tmp_path: Path) -> None:
    """The driver dies by SIGKILL in the middle; a second one, on a Ray of no more CPUs than this machine's, goes on."""
    slow = {"engine": "simulated", "tokens_per_s": 150, "rows_in_flight": 8, "cpus": 1}
    made = with_pool(recipe(tmp_path, count=64), slow)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made.model_dump(mode="json")))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "ultraif_ray.cli", "run", str(file)]
    driver = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = RunFolder(str(tmp_path / "run"))
    deadline = time.monotonic() + 120
    while folder.count("synthesize") < 8 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = rows_of(folder)
    assert 8 <= len(before) < 64
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    after = without_usage(rows_of(folder))
    assert len(after) == 64
    assert all(after[row.id] == row.model_dump(exclude={"usage"}) for row in before)
    assert folder.read_json("ledger.json")["synthesize"]["input"] == 64


def test_a_worker_whose_engine_died_is_replaced_and_no_row_is_lost(tmp_path: Path) -> None:
    mark = tmp_path / "died"
    made = recipe(tmp_path, count=16)
    code = (
        "import os, pathlib\n"
        "from ultraif_ray.engine import simulated\n"
        "from ultraif_ray.errors import EngineDead\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "plain = simulated.SimulatedEngine.generate\n"
        "async def generate(self, request):\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        raise EngineDead('killed by a test')\n"
        "    return await plain(self, request)\n"
        "simulated.SimulatedEngine.generate = generate\n"
        "from ultraif_ray.cli import main\n"
        "main()\n"
    )
    # Workers import the engine afresh, so the death is planted where they look first: a sitecustomize on their path.
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("\n".join(code.splitlines()[:-2]))
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made.model_dump(mode="json")))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "ultraif_ray.cli", "run", str(file)],
        env=environment | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert len(rows_of(RunFolder(str(tmp_path / "run")))) == 16


def test_what_ends_a_worker_at_its_start_is_told_in_plain_words(tmp_path: Path) -> None:
    pool = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    with pytest.raises(RecipeError, match="does not answer"):
        steps.run(with_pool(recipe(tmp_path, count=4), pool))


def test_a_server_that_is_gone_ends_the_run_instead_of_failing_every_row(tmp_path: Path) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.send_error(500)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    pool = {"engine": "openai", "model": "m", "base_url": url, "max_retries": 0, "rows_in_flight": 4}
    with pytest.raises(EngineUnavailable, match="8 rows in a row got no answer"):
        steps.run(with_pool(recipe(tmp_path, count=40), pool))
    server.shutdown()
    assert RunFolder(str(tmp_path / "run")).count("synthesize") < 40


def test_prompts_of_which_none_can_be_used_are_an_error(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": " "}\n{"prompt": ""}\n')
    with pytest.raises(InputError, match="no prompt could be used: 2 empty"):
        steps.run(made)


def test_rejected_records_are_kept_with_their_reason(tmp_path: Path) -> None:
    folder = steps.run(recipe(tmp_path, count=3), until="ingest")
    rejected = pq.read_table(folder.at("ingest", "rejected")).to_pylist()
    assert sorted(r["reason"] for r in rejected) == ["duplicate", "empty"]
