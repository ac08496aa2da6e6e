"""Kills of every kind at random moments of real runs, and what else befalls them, and what the files say afterwards.

    python -m tests.chaos.campaign [--kills 30] [--vllm 6] [--trained 4] [--store 4] [--seed N]        (`make chaos`)

Prints a line for each kill and each run, and at the end one JSON line with all of them. The seed is drawn if none is
given, and printed; it decides who dies and how long after work was seen to go on, not how fast the machine is.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.audit import Report, audit, summary, undisturbed
from tests.chaos.kills import Victim
from tests.chaos.nodes import Nodes, left_over
from tests.s3 import BUCKET, Store, s3_server
from tests.train.data import tiny_model
from ultraif_ray.recipe import parse_recipe
from ultraif_ray.records import Row, prompt_id
from ultraif_ray.store.folder import RunFolder

ROLES = ("decomposer", "composer", "responder", "judge")
KINDS = ("worker", "raylet", "node", "driver", "head", "drain", "suspend", "pause", "second", "takeover")
"""What may befall a run with any engine: deaths; a node that stands still until it is given up, or a worker for some
seconds; a second run in the folder, while this one works or is suspended. `engine` is one more where the engine is a
process of its own, `outage` where the run's folder is on a store.
"""

Moment = tuple[str, str]
"""The step in which something befalls a run, and what."""


def simulated(replicas: int = 4, tokens_per_s: float = 50) -> dict[str, Any]:
    """A recipe of many seconds a row, on up to so many replicas, whose engines note what they make: between two kills
    some forty rows are done.
    """
    pool = {"engine": "simulated", "tokens_per_s": tokens_per_s, "broken_share": 0.1, "rows_in_flight": 8, "cpus": 1,
            "replicas": {"min": 1, "max": replicas}, "replies": "replies"}  # fmt: skip
    unchecked = {"check": "none"}  # what this engine says would not hold, and rows would end too soon to be killed
    synthesize = {"k": 3, **unchecked}
    roles = {role: {"pool": "m"} for role in ROLES}
    return {"pools": {"m": pool}, "roles": roles, "decompose": unchecked, "synthesize": synthesize}


def trained(model: str) -> dict[str, Any]:
    """The same with a policy that is really trained, for some steps more than a kill needs."""
    fields = {"max_length": 512, "per_device_train_batch_size": 2, "num_train_epochs": 4, "learning_rate": 1e-3}
    train = {"workers": {"min": 1, "max": 1}, "save_every_s": 2}
    policy = {"policy": {"model": model}, "sft": fields, "align": {"iterations": 0}, "train": train}
    return simulated(tokens_per_s=150) | policy


def real() -> dict[str, Any]:
    """SmolLM2 in vLLM, one replica, with short answers: starting the engine is what takes time here. Most are cut off,
    so there may be no example in the end.
    """
    pool = {"engine": "vllm", "model": "packaged", "max_model_len": 1024, "cpus": 1, "rows_in_flight": 8}
    roles = {role: {"pool": "m", "max_tokens": 40} for role in ROLES}
    steps = {
        "synthesize": {"k": 1, "judge": "logprob", "rounds": {1: 1}, "attempts": 1, "check": "none"},
        "decompose": {"attempts": 1, "check": "none"},
    }
    return {"pools": {"m": pool}, "roles": roles, "templates": "small", "flow": {"breaker_share": 1}, **steps}


def campaign(
    place: Path,
    settings: dict[str, Any],
    moments: list[Moment],
    seed: int,
    rows: int,
    nodes: int,
    store: Store | None = None,
) -> Report:
    """Run `rows` prompts to their end on a cluster of `nodes` nodes, while these things befall it in turn. Its folder
    is on `store`, if there is one.
    """
    print(f"seed {seed}", file=sys.stderr, flush=True)
    prompts = write_prompts(place, rows)
    files = sorted({row.source.split(":")[0] for row in prompts})
    flow = {"rows_per_block": 4, "progress_s": 5, **settings.get("flow", {})}
    target = f"s3://{BUCKET}/{place.name}" if store else str(place / "run")
    run = {"name": "chaos", "run": target, "prompts": files, **settings, "flow": flow}
    replies = None
    if settings["pools"]["m"].get("replies"):
        replies = place / "replies"
        replies.mkdir()
        run["pools"] = {"m": settings["pools"]["m"] | {"replies": str(replies)}}
    recipe = parse_recipe(run)
    file = place / "recipe.json"
    file.write_text(json.dumps(run))
    report = Report(seed)
    cluster = Nodes(place, nodes=nodes)
    try:
        victim = Victim(place, file, RunFolder(recipe.run_folder), cluster, replies, rows, random.Random(seed), store)
        try:
            for step, kind in moments:
                if not victim.befall(step, kind):
                    report.missed.append(f"{step}: {kind}")
                    print(f"  {step}: was over before {kind}", file=sys.stderr, flush=True)
            victim.finish()
        finally:
            victim.stop()
        report.left_over += left_over(cluster.at_work)
    finally:
        cluster.stop()
    report.left_over += left_over(cluster.processes)
    report.unexpected_ends = victim.unexpected_ends
    expected = undisturbed(recipe, prompts) if replies else {}
    audit(report, recipe, prompts, expected, victim.kills, replies)
    return report


def write_prompts(place: Path, rows: int) -> list[Row]:
    """Write prompts into two files, which ingest reads in the cluster, and give what should become of them there."""
    prompts: list[Row] = []
    for part in (0, 1):
        file = place / f"prompts-{part}.jsonl"
        queries = [f"Write {i} lines about rain, no rhymes" for i in range(part, rows, 2)]
        file.write_text("".join(json.dumps({"prompt": query}) + "\n" for query in queries))
        prompts += [
            Row(id=prompt_id(query, []), query=query, source=f"{file}:{line}") for line, query in enumerate(queries, 1)
        ]
    return prompts


def plans(
    kills: int, on_vllm: int, trained_kills: int, on_store: int, draw: random.Random
) -> list[tuple[str, list[Moment], int, int]]:
    """The runs of the long form: their kind, what befalls each, its rows and nodes."""
    runs: list[tuple[str, list[Moment], int, int]] = []
    engines = [("synthesize", ("engine", "worker", "engine")[i % 3]) for i in range(on_vllm)]
    runs += [("vllm", engines[i : i + 3], 28, 1) for i in range(0, on_vllm, 3)]
    trainings = [("sft", "trainer"), ("sft", "driver"), ("export", "driver"), ("model", "driver")][:trained_kills]
    if trainings:
        order = ("export", "sft", "model")
        runs.append(("trained", sorted(trainings, key=lambda moment: order.index(moment[0])), 40, 2))
    stored = [("synthesize", "outage"), ("synthesize", "worker"), ("synthesize", "takeover"), ("export", "driver")]
    if stored := stored[:on_store]:
        runs.append(("stored", stored, 120, 2))
    others = [KINDS[i % len(KINDS)] for i in range(kills - on_vllm - len(trainings) - len(stored))]
    draw.shuffle(others)
    for i in range(0, len(others), 8):
        among = [("synthesize", kind) for kind in others[i + 2 : i + 8]]
        runs.append(("simulated", [("ingest", "driver"), *among, ("export", "driver")], 240, 2))
    return runs


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30, help="what befalls the runs, in all")
    parser.add_argument("--vllm", type=int, default=6, help="how many of them on real vLLM")
    parser.add_argument("--trained", type=int, default=4, help="how many of them in a run that trains, at most 4")
    parser.add_argument("--store", type=int, default=4, help="how many in a run on a slow and failing store, at most 4")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    draw = random.Random(options.seed)
    print(f"--seed {options.seed}", file=sys.stderr, flush=True)
    reports: list[Report] = []
    for kind, moments, rows, nodes in plans(options.kills, options.vllm, options.trained, options.store, draw):
        with tempfile.TemporaryDirectory(prefix="chaos-") as scratch, ExitStack() as servers:
            place = Path(scratch)
            store = None
            if kind == "stored":
                store = servers.enter_context(s3_server(place / "s3.log", slow_s=0.2, failing=0.02))
            settings: dict[str, Callable[[], dict[str, Any]]] = {
                "vllm": real,
                "simulated": simulated,
                "stored": partial(simulated, tokens_per_s=20),  # to look at this folder takes seconds
                "trained": partial(_trained_tiny, place / "tiny"),
            }
            report = campaign(place, settings[kind](), moments, draw.randrange(1 << 30), rows, nodes, store)
        print(f"run {len(reports) + 1}: {json.dumps(asdict(report))}", file=sys.stderr, flush=True)
        reports.append(report)
    print(json.dumps(summary(reports)), flush=True)
    sys.exit(0 if all(report.clean for report in reports) else 1)


def _trained_tiny(place: Path) -> dict[str, Any]:
    from ultraif_ray.engine.models import resolve_model

    return trained(tiny_model(resolve_model("packaged"), place))


if __name__ == "__main__":
    main()
