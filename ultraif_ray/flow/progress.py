"""What is seen while a pipeline runs: a live line in a terminal, a plain line now and then elsewhere."""

import math
import sys
import threading
import time
from collections import Counter
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ultraif_ray.flow.actors import beside_the_driver
from ultraif_ray.printable import printable

_LIVE_S = 0.5

_STALL_S = 60.0
"""Seconds without news after which it is said what is waited for."""

STARTING, TOKENS = "engines starting", "generated tokens"
"""What workers report beside the outcomes of rows."""


class Scoreboard:
    """Ray actor that adds up what the workers report. Only for the eye: the ledger is counted from the files."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._notes, self._total = "", 0

    def add(self, counts: dict[str, int], notes: str = "", total: int = 0) -> None:
        """Add one worker's report; with `total` it tells how many there are to do in all, and begins anew."""
        if total:
            self._counts.clear()
        self._counts.update(counts)
        self._notes, self._total = notes or self._notes, total or self._total

    def read(self) -> tuple[dict[str, int], str, int]:
        """All reports so far, the last notes, and the total where one was reported."""
        return dict(self._counts), self._notes, self._total


class Display:
    """Shows a scoreboard until the `with` block ends.

    Args:
        step: the step's name.
        total: rows (or steps) to do now; 0 while that is not known.
        every_s: seconds between two plain lines.
        unit: what is counted.
    """

    def __init__(self, step: str, total: int, every_s: float, unit: str = "rows"):
        self._step, self._total, self._every_s, self._unit = step, total, every_s, unit
        self.scoreboard: Any = ray.remote(num_cpus=0, scheduling_strategy=beside_the_driver())(Scoreboard).remote()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "Display":
        self._started = self._moved = time.monotonic()
        self._last: tuple[Any, ...] = ()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        console = Console(stderr=True, emoji=False)
        if console.is_terminal:
            self._show_live(console)
        else:
            while not self._stop.wait(self._every_s):
                self._print_line()
            self._print_line()

    def _show_live(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[notes]}", markup=False), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(self._step, total=self._total or None, notes="starting")
            while True:
                stopping = self._stop.wait(_LIVE_S)
                done, notes = self._state()
                progress.update(task, completed=done, total=self._total or None, notes=notes)
                if stopping:
                    return

    def _print_line(self) -> None:
        done, notes = self._state()
        spent = time.monotonic() - self._started
        left = f", about {(self._total - done) * spent / done / 60:.0f} min left" if 0 < done < self._total else ""
        print(
            f"{self._step}: {done}/{self._total or '?'} {self._unit} in {spent:.0f} s; {notes}{left}",
            file=sys.stderr,
            flush=True,
        )

    def _watch(self, counts: dict[str, int], said: str) -> None:
        """Say what is waited for, once, when nothing has come for long."""
        now, seen = time.monotonic(), (counts, said)
        if seen != self._last:
            self._last, self._moved = seen, now
        elif now - self._moved > _STALL_S:
            from ultraif_ray.flow.ray_internals import (
                unplaced,
            )  # Ray Data, which the scoreboard's process has no need of

            self._moved = math.inf
            why = what_is_waited_for(counts, unplaced())
            print(f"{self._step}: nothing new in {_STALL_S:.0f} s; waiting for {why}", file=sys.stderr, flush=True)

    def _state(self) -> tuple[int, str]:
        try:
            counts, said, total = ray.get(self.scoreboard.read.remote(), timeout=5)
            self._watch(counts, said)
        except Exception:  # noqa: BLE001 - the display must never end a run
            return 0, "no news"
        self._total = total or self._total
        if self._unit == "steps":
            return sum(counts.values()), printable(said) or "starting"
        done, text = describe(counts, time.monotonic() - self._started)
        return min(done, self._total) if self._total else done, printable(text)


def what_is_waited_for(counts: dict[str, int], unplaced: list[tuple[int, dict[str, float]]]) -> str:
    """Why nothing comes, as far as can be told.

    Args:
        counts: what the workers reported; see `describe`.
        unplaced: what Ray has no room for: how often, and its resources.
    """
    if unplaced:
        asked = (
            f"{count} x " + ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()))
            for count, resources in unplaced
        )
        return f"room in the cluster for {'; '.join(asked)}"
    if counts.get(STARTING, 0) > 0:
        return "an engine to start"
    return "the engines' replies" if counts else "a worker to start"


def describe(counts: dict[str, int], spent_s: float) -> tuple[int, str]:
    """What the reports of a pipeline's workers say: rows that are done, and a text for the eye.

    Args:
        counts: what the workers reported: `STARTING`, `TOKENS`, and rows by outcome (with those that a dying worker
            made for nothing).
        spent_s: seconds since the pipeline began.
    """
    rows = {outcome: n for outcome, n in counts.items() if outcome not in (STARTING, TOKENS)}
    tokens = counts.get(TOKENS, 0)
    if STARTING not in counts:
        return 0, "waiting for a worker"
    if counts[STARTING] > 0 and not tokens and not rows:
        return 0, f"starting the engine, {spent_s:.0f} s"
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(rows.items())) or "no row done yet"
    return sum(rows.values()), f"{outcomes}; {tokens / max(spent_s, 1e-9):.0f} tokens/s"
