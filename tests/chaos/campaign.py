"""Kills of every kind at random moments of real runs, and what the files say afterwards.

    python -m tests.chaos.campaign [--kills 30] [--vllm 6] [--seed 0]        (`make chaos`)

Prints a line for each kill and each run, and at the end one JSON line: kills, lost, doubled, wasted_tokens_share.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.chaos.nodes import Nodes
from ultraif_ray.store.folder import RunFolder

ROLES = ("decomposer", "composer", "responder", "judge")
KINDS = ("worker", "raylet", "node", "driver", "head", "drain")
"""Kinds of death for any engine; `engine` is one more where the engine is a process of its own."""

SETTLE_S = 600
"""Seconds within which work must go on after a kill, and an undisturbed rest of a run must end."""


@dataclass
class Report:
    """What a run came to, by its files.

    `made` and `kept` are generated tokens, counted where the engine is simulated; `at_risk` is what the kills may cost.
    """

    kills: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    broken_ledgers: int = 0
    unreadable: int = 0
    orphans: list[str] = field(default_factory=list)
    unexpected_ends: list[str] = field(default_factory=list)
    made: int = 0
    kept: int = 0
    at_risk: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled, broken, left behind, or paid for beyond what was in flight."""
        faults = self.lost + self.doubled + self.broken_ledgers + self.unreadable + len(self.unexpected_ends)
        return not faults and not self.orphans and self.made - self.kept <= self.at_risk


def simulated() -> dict[str, Any]:
    """A recipe of some seconds a row, on up to four replicas."""
    pool = {"engine": "simulated", "tokens_per_s": 150, "broken_share": 0.1, "rows_in_flight": 8, "cpus": 1,
            "replicas": {"min": 1, "max": 4}}  # fmt: skip
    unchecked = {"check": "none"}  # what this engine says would not hold, and rows would end too soon to be killed
    synthesize = {"k": 3, **unchecked}
    roles = {role: {"pool": "m"} for role in ROLES}
    return {"pools": {"m": pool}, "roles": roles, "decompose": unchecked, "synthesize": synthesize}


def real() -> dict[str, Any]:
    """SmolLM2 in vLLM, one replica, with short answers: starting the engine is what takes time here."""
    pool = {"engine": "vllm", "model": "packaged", "max_model_len": 1024, "cpus": 1, "rows_in_flight": 8}
    roles = {role: {"pool": "m", "max_tokens": 40} for role in ROLES}
    steps = {
        "synthesize": {"k": 1, "judge": "logprob", "rounds": {1: 1}, "attempts": 1, "check": "none"},
        "decompose": {"attempts": 1, "check": "none"},
    }
    return {"pools": {"m": pool}, "roles": roles, "templates": "small", **steps}


def campaign(place: Path, settings: dict[str, Any], kinds: list[str], seed: int, rows: int, nodes: int) -> Report:
    """Run `rows` prompts to their end on a cluster of `nodes` nodes, while deaths of these kinds befall it in turn."""
    draw, report = random.Random(seed), Report(rows=rows)
    prompts = place / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"Write {i} lines about rain, no rhymes"}) for i in range(rows)]
    prompts.write_text("\n".join(lines) + "\n")
    flow = {"rows_per_block": 4, "progress_s": 5}
    run = {"name": "chaos", "run": str(place / "run"), "prompts": [str(prompts)], "flow": flow, **settings}
    if counted := settings["pools"]["m"]["engine"] == "simulated":
        (place / "replies").mkdir()
        run["pools"] = {"m": settings["pools"]["m"] | {"replies": str(place / "replies")}}
    recipe = place / "recipe.json"
    recipe.write_text(json.dumps(run))
    folder = RunFolder(str(place / "run"))
    cluster = Nodes(place, nodes=nodes)
    try:
        driver = _drive(cluster, recipe, place)
        for kind in kinds:
            driver = _wait_for_work(driver, cluster, recipe, place, folder, report, draw)
            if folder.state("synthesize") == "done":
                break
            driver, met = _kill(kind, cluster, driver, recipe, place, draw)
            if not met:
                break
            report.kills[kind] = report.kills.get(kind, 0) + 1
            print(f"  {kind} killed at {folder.count('synthesize')} of {rows} rows", file=sys.stderr, flush=True)
        for _ in range(3):
            if driver.wait(timeout=2 * SETTLE_S) == 0:
                break
            report.unexpected_ends.append(_last_lines(place))
            driver = _drive(cluster, recipe, place)
        assert driver.wait(timeout=SETTLE_S) == 0, _last_lines(place)
        engines = cluster.processes("EngineCore")
        report.orphans += [f"engine {process.pid} after the run" for process in engines if _still(process)]
    finally:
        cluster.stop()
    report.orphans += cluster.orphans()
    _audit(place / "run", report, settings, nodes)
    if counted:
        lines = [line for file in (place / "replies").iterdir() for line in file.read_text().splitlines()]
        report.made = sum(json.loads(line)["generated"] for line in lines)
    return report


def _drive(cluster: Nodes, recipe: Path, place: Path) -> subprocess.Popen[bytes]:
    with (place / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ultraif_ray.cli", "run", str(recipe)],
            env=cluster.environment, start_new_session=True, stdout=log, stderr=log,
        )  # fmt: skip


def _last_lines(place: Path) -> str:
    return " | ".join((place / "driver.log").read_text().splitlines()[-4:])[-600:]


def _wait_for_work(
    driver: Any, cluster: Nodes, recipe: Path, place: Path, folder: RunFolder, report: Report, draw: random.Random
) -> Any:
    """Until new rows are in the files, and a random moment more. A driver that ended by itself is started again."""
    before, deadline = folder.count("synthesize"), time.monotonic() + SETTLE_S
    while folder.count("synthesize") == before and folder.state("synthesize") != "done":
        if driver.poll():
            report.unexpected_ends.append(_last_lines(place))
            driver = _drive(cluster, recipe, place)
        assert time.monotonic() < deadline, f"nothing went on in {SETTLE_S} s: {_last_lines(place)}"
        time.sleep(0.2)
    time.sleep(draw.uniform(0, 3))
    return driver


def _kill(kind: str, cluster: Nodes, driver: Any, recipe: Path, place: Path, draw: random.Random) -> tuple[Any, bool]:
    """Let a death befall the run; the driver that runs now, and whether anything was there to die."""
    if kind in ("worker", "engine"):
        title = "ray::MapWorker" if kind == "worker" else "EngineCore"
        while not (found := cluster.processes(title)) and driver.poll() is None:  # a kill that meets nobody is none
            time.sleep(0.2)
        if not found:
            return driver, False
        draw.choice(found).kill()
    elif kind == "raylet":
        cluster.kill_raylet(draw.choice(cluster.names))
        cluster.add()
    elif kind == "node":
        cluster.kill_group(draw.choice(cluster.names))
        cluster.add()
    elif kind == "drain":
        name = draw.choice(cluster.names)
        cluster.add()
        cluster.drain(name, seconds=3)
    elif kind == "driver":
        driver.kill()
        driver.wait()
        driver = _drive(cluster, recipe, place)
    elif kind == "head":
        driver.kill()
        driver.wait()
        size = len(cluster.names)
        cluster.stop()
        cluster.start(size)
        driver = _drive(cluster, recipe, place)
    return driver, True


def _still(process: Any, patience_s: float = 20) -> bool:
    try:
        process.wait(timeout=patience_s)
    except Exception:  # noqa: BLE001 - psutil's own TimeoutExpired
        return bool(process.is_running())
    return False


def _audit(run: Path, report: Report, settings: dict[str, Any], nodes: int) -> None:
    """Look at the files themselves."""
    wanted = {one for file in (run / "ingest/rows").glob("*.parquet") for one in pq.read_table(file)["id"].to_pylist()}
    found: Counter[int] = Counter()
    costs: list[int] = []
    for name in json.loads((run / "synthesize/files.json").read_text())["files"]:
        try:
            table = pq.read_table(run / "synthesize/rows" / name)
        except Exception:  # noqa: BLE001 - whatever makes it unreadable
            report.unreadable += 1
            continue
        found.update(table["id"].to_pylist())
        costs += [sum(usage["generated"] for usage in row) for row in table["usage"].to_pylist()]
    report.lost = len(wanted - found.keys())
    report.doubled = sum(found.values()) - len(found)
    report.kept = sum(costs) if settings["pools"]["m"]["engine"] == "simulated" else 0
    ledger = json.loads((run / "ledger.json").read_text())
    for entry in ledger.values():
        report.broken_ledgers += sum(entry["outcomes"].values()) != entry["input"]
    report.broken_ledgers += ledger["synthesize"]["input"] != len(wanted)
    # A replica holds the blocks in flight, and some that are made and wait for the writer.
    pool = settings["pools"]["m"]
    replicas = pool.get("replicas", {"max": 1})["max"]
    rows_at_risk = (pool["rows_in_flight"] // 4 + 2) * 4
    hit = {"worker": 1, "engine": 1, "driver": replicas, "head": replicas}
    deaths = sum(count * hit.get(kind, -(-replicas // nodes)) for kind, count in report.kills.items())
    report.at_risk = deaths * rows_at_risk * max(costs, default=0)


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30, help="kills in all")
    parser.add_argument("--vllm", type=int, default=6, help="how many of them on real vLLM")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    on_vllm = [("engine", "worker", "engine")[i % 3] for i in range(options.vllm)]
    others = [KINDS[i % len(KINDS)] for i in range(options.kills - options.vllm)]
    draw.shuffle(others)
    reports: list[Report] = []
    while on_vllm or others:
        kinds, rows, settings = (on_vllm[:3], 28, real) if on_vllm else (others[:8], 240, simulated)
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
            nodes = 1 if on_vllm else 2
            report = campaign(Path(scratch), settings(), kinds, draw.randrange(1 << 30), rows, nodes)
        print(f"run {len(reports) + 1}: {json.dumps(asdict(report))}", file=sys.stderr, flush=True)
        reports.append(report)
        done = sum(report.kills.values())
        assert done, "a run ended before anything was killed"
        left = on_vllm if on_vllm else others
        del left[:done]
    print(json.dumps(summary(reports)), flush=True)
    sys.exit(0 if all(report.clean for report in reports) else 1)


def summary(reports: list[Report]) -> dict[str, Any]:
    """All runs in one."""
    by_kind = sum((Counter(report.kills) for report in reports), Counter())
    made, kept = sum(report.made for report in reports), sum(report.kept for report in reports)
    return {
        "kills": by_kind.total(),
        "by_kind": dict(by_kind),
        "rows": sum(report.rows for report in reports),
        "lost": sum(report.lost for report in reports),
        "doubled": sum(report.doubled for report in reports),
        "wasted_tokens_share": round((made - kept) / max(made, 1), 4),
        "wasted_within_what_was_in_flight": all(r.made - r.kept <= r.at_risk for r in reports),
        "orphans": sum(len(report.orphans) for report in reports),
        "unexpected_ends": sum(len(report.unexpected_ends) for report in reports),
        "clean": all(report.clean for report in reports),
    }


if __name__ == "__main__":
    main()
