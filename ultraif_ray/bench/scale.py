"""A long run without a model: does it stream, in flat memory, and resume?

    python -m ultraif_ray.bench.scale [--rows 1000000] [--kill-at 0.5] [--place FOLDER]

Makes ROWS prompts, takes them through ingest and the whole journey with the simulated engine on a Ray of this machine,
kills the run with SIGKILL when the share `kill-at` of the rows is written, and starts it again. Memory is what the
processes hold for themselves (unique set size), sampled all the while. Prints a line a phase and one JSON line;
exits with 2 where rows are missing or a driver did not end as meant.
"""

import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.errors import RunError
from ultraif_ray.records import ROLES
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import read

STEPS = ("ingest", "synthesize", "export")
"""The steps whose memory is reported apart."""

SAMPLE_S = 5.0
"""Seconds between two looks at the memory."""

UNTIL_THE_KILL = "until the kill"
"""The phase whose driver is killed."""

_TOPICS = ("rain", "bread", "tax law", "a lost key", "graph theory", "the sea", "an old bicycle", "winter in Oslo")


def measure(
    rows: Annotated[int, typer.Option(min=100, help="Prompts.")] = 1_000_000,
    kill_at: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows; 0 kills nothing.")] = 0.5,
    place: Annotated[str, typer.Option(help="Folder; a temporary one when not given.")] = "",
) -> None:
    """Run, kill, resume, and print what it took."""
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        home = Path(place or scratch)
        home.mkdir(parents=True, exist_ok=True)
        recipe = _recipe(home, rows)
        folder = RunFolder(str(home / "run"))
        phases = []
        if kill_at:
            phases.append(_phase(UNTIL_THE_KILL, recipe, folder, stop_at=int(rows * kill_at)))
        phases.append(_phase("to the end", recipe, folder, stop_at=0))
        files = [Path(path) for path in folder.data_files("synthesize")]
        result = {
            "rows": rows,
            "phases": phases,
            "files": len(files),
            "median_file_kb": round(float(np.median([file.stat().st_size for file in files] or [0])) / 1024),
            "ledger_sums": _sums(folder),
            "rows_in_files": folder.count("synthesize"),
        }
        print(json.dumps(result), flush=True)
        if faults := faults_of(result):
            raise RunError("this measured nothing: " + "; ".join(faults))


def faults_of(result: dict[str, Any]) -> list[str]:
    """Why a result says nothing: rows that are not there, a ledger that does not sum, drivers that ended otherwise."""
    faults = []
    if result["rows_in_files"] != result["rows"]:
        faults.append(f"{result['rows_in_files']} of {result['rows']} rows are in the files")
    if not result["ledger_sums"]:
        faults.append("the ledger does not sum")
    for phase in result["phases"]:
        meant = -signal.SIGKILL if phase["phase"] == UNTIL_THE_KILL else 0
        if phase["exit"] != meant:
            faults.append(f"the driver of {phase['phase']!r} ended with {phase['exit']}, not {meant}")
    return faults


def _sums(folder: RunFolder) -> bool:
    entries = read(folder)
    return entries.keys() >= set(STEPS) and all(sum(e.outcomes.values()) == e.input for e in entries.values())


def _recipe(home: Path, rows: int) -> Path:
    prompts = home / "prompts.jsonl"
    if not prompts.exists():
        with prompts.open("w") as file:
            for i in range(rows):
                topic = _TOPICS[i % len(_TOPICS)]
                file.write(json.dumps({"prompt": f"Write {i} words about {topic}, without the letter {i % 26}"}) + "\n")
    pool = {"engine": "simulated", "rows_in_flight": 256, "cpus": 1, "replicas": {"min": 1, "max": 2}}
    recipe = home / "recipe.json"
    settings = {
        "name": "scale", "run": str(home / "run"), "prompts": [str(prompts)], "pools": {"m": pool},
        "roles": {role: {"pool": "m"} for role in ROLES},
        "decompose": {"attempts": 1},
        "synthesize": {"k": 1, "rounds": {1: 1}, "judge": "logprob", "goal": "sft"},
        "export": {"files": ["parquet"]}, "flow": {"rows_per_block": 64, "progress_s": 60},
    }  # fmt: skip
    recipe.write_text(json.dumps(settings))
    return recipe


def _phase(name: str, recipe: Path, folder: RunFolder, stop_at: int) -> dict[str, Any]:
    """Run until `stop_at` rows are written (to the end when 0), watching the memory."""
    begun = folder.count("synthesize")
    started = time.monotonic()
    log = (recipe.parent / "driver.log").open("ab")
    command = [sys.executable, "-m", "ultraif_ray.cli", "run", str(recipe)]
    driver = psutil.Popen(command, start_new_session=True, stdout=log, stderr=log)
    samples: list[dict[str, Any]] = []
    first_row_s = 0.0
    while driver.poll() is None:
        with suppress(psutil.TimeoutExpired):
            driver.wait(timeout=SAMPLE_S)
        done = len(folder.names("synthesize", "checkpoint")) and folder.count("synthesize")
        if done > begun and not first_row_s:
            first_row_s = time.monotonic() - started
        step = next((one for one in reversed(STEPS) if folder.state(one)), STEPS[0])
        samples.append({"step": step, **_memory(driver)})
        if stop_at and done >= stop_at:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            break
    seconds = time.monotonic() - started
    done = folder.count("synthesize")
    result = {
        "phase": name,
        "exit": driver.returncode,
        "seconds": round(seconds),
        "rows": done - begun,
        "seconds_to_first_row": round(first_row_s),
        "rows_per_s": round((done - begun) / max(seconds - first_row_s, 1e-9), 1),
        "driver_mb": {step: _quarters([s["driver"] for s in samples if s["step"] == step]) for step in STEPS},
        "largest_worker_mb": _quarters([s["worker"] for s in samples if s["worker"]]),
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def _memory(driver: Any) -> dict[str, float]:
    """MB of the driver, and of the largest worker of ours."""
    found = {"driver": 0.0, "worker": 0.0}
    with suppress(psutil.Error):
        found["driver"] = driver.memory_full_info().uss / 2**20
        for process in driver.children(recursive=True):
            with suppress(psutil.Error):
                if "MapWorker" in " ".join(process.cmdline()):
                    found["worker"] = max(found["worker"], process.memory_full_info().uss / 2**20)
    return found


def _quarters(values: list[float]) -> list[int]:
    """The medians of the four quarters of a series, in order: a flat one has four like numbers."""
    return [round(float(np.median(part))) for part in np.array_split(np.array(values), 4) if len(part)]


if __name__ == "__main__":
    report_errors(lambda: typer.run(measure))
