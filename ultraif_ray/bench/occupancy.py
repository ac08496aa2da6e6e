"""How full an engine's batch is while a step runs, and how long its last rows take.

    python -m ultraif_ray.bench.occupancy [--rows 1500] [--slots 128] [--tokens-per-s 100]

Runs one synthesis twice on a Ray of this machine, with the simulated engine, whose responses have the lengths of
ShareGPT's: with blocks as the unit (a replica holds `rows_in_flight` rows, one response at a time), and as it is now.
The engine notes when each reply began and how long each of its texts is, so the places in use are counted and not
estimated. It has one GPU by name only. Prints a line for each way and one JSON line.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import ROLES

SHAREGPT_TOKENS = (9, 36, 74, 112, 151, 186, 217, 246, 273, 296, 323, 352, 381, 417, 462, 513, 580, 678, 785, 903)
"""Tokens of first answers in ShareGPT: the middles of twenty equal parts of 5,000 drawn from 17,528, counted by
SmolLM2's tokenizer. Their mean is 352."""

WAYS: dict[str, dict[str, Any]] = {
    "blocks": {"flow": {"rows_held": 1}, "synthesize": {"wave": 1}},
    "rows": {},
}
"""What the two runs differ in."""


@dataclass(frozen=True)
class Occupancy:
    """What one run made of its engine.

    Attributes:
        while_rows_wait: mean share of the places in use, from the first request until no row waits any more.
        course: the same in ten equal parts of that time.
        tail_s: seconds from then to the end.
        longest_row_s: seconds of the row that took longest.
        seconds: from the first request to the last.
        generated: tokens.
    """

    while_rows_wait: float
    course: tuple[float, ...]
    tail_s: float
    longest_row_s: float
    seconds: float
    generated: int


def occupancy(notes: Iterable[dict[str, Any]], slots: int, tokens_per_s: float) -> Occupancy:
    """Read what the simulated engine noted.

    Args:
        notes: its notes, see `SimulatedPool.replies`.
        slots: the places of the engine's batch.
        tokens_per_s: the speed of one place.
    """
    notes = list(notes)
    rows: dict[int, list[float]] = {}
    for note in notes:
        rows.setdefault(note["row"], []).extend((note["began"], note["ended"]))
    start, end = min(map(min, rows.values())), max(map(max, rows.values()))
    full = max(map(min, rows.values()))
    began = np.array([note["began"] for note in notes for _ in note["lengths"]])
    ended = began + np.array([length for note in notes for length in note["lengths"]]) / tokens_per_s
    borders = np.linspace(start, full, 11)
    within = [
        float(np.clip(np.minimum(ended, after) - np.maximum(began, before), 0, None).sum() / (after - before) / slots)
        for before, after in pairwise(borders)
    ]
    return Occupancy(
        while_rows_wait=round(float(np.mean(within)), 3),
        course=tuple(round(part, 2) for part in within),
        tail_s=round(end - full, 1),
        longest_row_s=round(max(max(times) - min(times) for times in rows.values()), 1),
        seconds=round(end - start, 1),
        generated=sum(sum(note["lengths"]) for note in notes),
    )


def measure(
    rows: Annotated[int, typer.Option(min=100, help="Prompts.")] = 1500,
    slots: Annotated[int, typer.Option(min=1, help="Places of the engine's batch: rows_in_flight.")] = 128,
    tokens_per_s: Annotated[float, typer.Option(min=1, help="Speed of one place.")] = 100.0,
) -> None:
    """Run both ways and print what they made of the engine."""
    import ray

    from ultraif_ray.steps.run import run

    ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = {}
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory(prefix="occupancy-") as scratch:
            run(_recipe(Path(scratch), rows, slots, tokens_per_s, way), until="synthesize")
            lines = [line for file in Path(scratch, "replies").iterdir() for line in file.read_text().splitlines()]
        found[name] = one = occupancy(map(json.loads, lines), slots, tokens_per_s)
        print(
            f"{name}: {one.while_rows_wait:.0%} of {slots} places in use while rows waited {list(one.course)}, then "
            f"{one.tail_s} s for the last rows (the longest row: {one.longest_row_s} s); {one.seconds} s, "
            f"{one.generated:,} tokens",
            flush=True,
        )
    before, now = found["blocks"], found["rows"]
    print(
        json.dumps(
            {"rows": rows, "slots": slots, "faster": round(before.seconds / now.seconds, 2)}
            | {name: asdict(one) for name, one in found.items()}
        )
    )


def _recipe(home: Path, rows: int, slots: int, tokens_per_s: float, way: dict[str, Any]) -> Recipe:
    (home / "replies").mkdir()
    prompts = home / "prompts.jsonl"
    lines = (json.dumps({"prompt": f"Write {i} words about the sea, without the letter {i % 26}"}) for i in range(rows))
    prompts.write_text("\n".join(lines))
    pool = {
        "engine": "simulated",
        "rows_in_flight": slots,
        "gpus": 1,
        "tokens_per_s": tokens_per_s,
        "response_tokens": SHAREGPT_TOKENS,
        "replies": str(home / "replies"),
        "timeout_s": 86_400,
    }
    recipe = {
        "name": "occupancy",
        "run": str(home / "run"),
        "prompts": [str(prompts)],
        "pools": {"m": pool},
        "roles": {role: {"pool": "m"} for role in ROLES},
        "decompose": {"check": "text"},
        "synthesize": {"check": "text", "judge": "logprob"},
        "flow": {"progress_s": 60},
    }
    for name, settings in way.items():
        recipe[name] = recipe[name] | settings
    return parse_recipe(recipe)


if __name__ == "__main__":
    report_errors(lambda: typer.run(measure))
