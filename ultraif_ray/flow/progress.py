"""What is seen while a pipeline runs: a live line in a terminal, a plain line now and then elsewhere."""

import sys
import threading
import time
from collections import Counter
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LIVE_S = 0.5


class Scoreboard:
    """Ray actor that adds up what the workers report. Only for the eye: the ledger is counted from the files."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        """Add one worker's report."""
        self._counts.update(counts)

    def counts(self) -> dict[str, int]:
        """All reports so far."""
        return dict(self._counts)


class Display:
    """Shows a scoreboard until the `with` block ends.

    Args:
        step: the step's name.
        rows: rows to do now.
        every_s: seconds between two plain lines.
    """

    def __init__(self, step: str, rows: int, every_s: float):
        self._step, self._rows, self._every_s = step, rows, every_s
        self.scoreboard: Any = ray.remote(num_cpus=0)(Scoreboard).remote()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "Display":
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        console = Console(stderr=True)
        if console.is_terminal:
            self._show_live(console)
        else:
            while not self._stop.wait(self._every_s):
                self._print_line()
            self._print_line()

    def _show_live(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[notes]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(self._step, total=self._rows, notes="starting engines")
            while True:
                stopping = self._stop.wait(_LIVE_S)
                done, notes = self._state()
                progress.update(task, completed=done, notes=notes)
                if stopping:
                    return

    def _print_line(self) -> None:
        done, notes = self._state()
        spent = time.monotonic() - self._started
        left = f", about {(self._rows - done) * spent / done / 60:.0f} min left" if 0 < done < self._rows else ""
        print(
            f"{self._step}: {done}/{self._rows} rows in {spent:.0f} s; {notes}{left}",
            file=sys.stderr,
            flush=True,
        )

    def _state(self) -> tuple[int, str]:
        try:
            counts = ray.get(self.scoreboard.counts.remote(), timeout=5)
        except Exception:  # noqa: BLE001 - the display must never end a run
            return 0, "no news"
        tokens = counts.pop("generated tokens", 0)
        rate = tokens / max(time.monotonic() - self._started, 1e-9)
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "no row done yet"
        return sum(counts.values()), f"{outcomes}; {rate:.0f} tokens/s"
