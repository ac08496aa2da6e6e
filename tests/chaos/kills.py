"""A run on a cluster, what befalls it, deaths for the most part, and a note of what each of them met."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.nodes import Nodes
from tests.s3 import Store
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import LEASE

IN_THE_DRIVER = ("ingest", "export", "model")
"""Steps whose work the driver does, or waits for, and begins anew."""

OF_A_NODE = ("raylet", "node", "drain", "suspend")
"""Deaths of a node. Where it takes an actor of Ray Data's own along, the pipeline begins again, on other workers."""

PAUSE_S, SUSPEND_S, OUTAGE_S = 10, 40, 20
"""Seconds for which a worker stands still; a node does, longer than Ray waits for it (24 s here, see `Nodes`); and for
which a store is down, longer than its clients ask again.
"""

REFUSED = 2
"""With which a command ends that says what is wrong."""

SETTLE_S = 600
"""Seconds within which work must go on after a kill, and an undisturbed rest of a run must end."""

WORKER, TRAINER, ENGINE = "ray::MapWorker", "RayTrainWorker", "EngineCore"


@dataclass(frozen=True)
class Kill:
    """What befell a step.

    Attributes:
        step: the step that ran.
        kind: what died, or what else there was.
        written: ids of the rows that were in the files of the synthesis.
        dead: ids of the processes with engines that died of it.
        others: those that did not die at once.
        begun: ids of the rows that were begun by then, where they may be done again though no process died.
    """

    step: str
    kind: str
    written: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()
    begun: frozenset[int] = frozenset()


def rows_by_process(replies: Path) -> dict[int, dict[int, int]]:
    """What simulated engines noted: tokens made for each row, by process."""
    made: dict[int, dict[int, int]] = {}
    for file in replies.glob("*.jsonl"):
        rows = made.setdefault(int(file.stem), defaultdict(int))
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may be half written
                note = json.loads(line)
                rows[note["row"]] += sum(note["lengths"])
    return made


class Victim:
    """A run in a process of its own.

    Args:
        place: a folder for its log.
        recipe: the recipe's file.
        folder: the run's folder.
        cluster: where it runs.
        replies: where its engines note what they made; None where they do not.
        rows: how many it has.
        draw: what is left to chance.
        store: where its folder is, unless that is a local one.
    """

    def __init__(
        self,
        place: Path,
        recipe: Path,
        folder: RunFolder,
        cluster: Nodes,
        replies: Path | None,
        rows: int,
        draw: random.Random,
        store: Store | None = None,
    ):
        self._store = store
        self._log, self._recipe, self._folder, self._cluster = place / "driver.log", recipe, folder, cluster
        self._replies, self._rows, self._draw = replies, rows, draw
        self.kills: list[Kill] = []
        self._died_on: defaultdict[str, set[int]] = defaultdict(set)
        self.unexpected_ends: list[str] = []
        self._start()

    def _start(self) -> None:
        self._driver = self._another("driver.log")

    def _another(self, log: str) -> "subprocess.Popen[bytes]":
        with self._log.with_name(log).open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "ultraif_ray.cli", "run", str(self._recipe)],
                env=self._cluster.environment, start_new_session=True, stdout=said, stderr=said,
            )  # fmt: skip

    def befall(self, step: str, kind: str) -> bool:
        """Wait for a moment in a step and let this befall it; False if the step was done before."""
        if not self._reach(step):
            return False
        written = frozenset(self._written())
        if kind in OF_A_NODE:
            kill = self._kill_node(kind, step, written)
        elif kind in ("driver", "head"):
            kill = self._kill_driver(kind, step, written)
        elif kind == "second":
            kill = self._start_a_second(step)
        elif kind == "takeover":
            kill = self._take_over(step)
        elif kind == "outage":
            kill = self._refuse_all(step)
        else:
            kill = self._kill_process(kind, step, written)
        if kill is None:
            return False
        self.kills.append(kill)
        print(f"  {step}: {kind}, {len(written)} of {self._rows} rows written", file=sys.stderr, flush=True)
        return True

    def finish(self) -> None:
        """Wait for the run's end. One that ends by itself before is noted, and started again, some times."""
        for _ in range(3):
            self._until(lambda: self._driver.poll() is not None, "the run did not end")
            if self._driver.returncode == 0:
                return
            self.unexpected_ends.append(self._last_lines())
            self._start()
        self._until(lambda: self._driver.poll() is not None, "the run did not end")
        assert self._driver.returncode == 0, self._last_lines()

    def stop(self) -> None:
        """Kill the driver, if it still runs."""
        self._driver.kill()
        self._driver.wait()

    # ---- a moment in a step ----

    def _reach(self, step: str) -> bool:
        """Wait until a step is at work, and a random moment more; False if it is done."""
        if step in IN_THE_DRIVER:
            return self._stop_in(step)
        trained = step != "synthesize"
        done: Callable[[], Any] = lambda: self._folder.names(step, "checkpoints") if trained else self._written()  # noqa: E731
        before = done()
        self._until(lambda: done() != before or self._folder.state(step) == "done", f"{step} did not go on", alive=True)
        time.sleep(0 if trained else self._draw.uniform(0, 3))
        return self._folder.state(step) != "done"

    def _stop_in(self, step: str) -> bool:
        """Let the driver run a hundredth of a second at a time until it is in a step, and leave it stopped there; these
        steps can be over in less than a tenth.
        """
        more = self._draw.randrange(200 if step == "model" else 3)

        def inside() -> bool:
            nonlocal more
            self._driver.send_signal(signal.SIGSTOP)
            if (state := self._folder.state(step)) == "running":
                more -= 1
            if state == "done" or more < 0:
                return True
            self._driver.send_signal(signal.SIGCONT)
            return False

        self._until(inside, f"{step} did not begin", every_s=0.01, alive=True)
        if self._folder.state(step) != "running":
            self._driver.send_signal(signal.SIGCONT)
            return False
        return True

    def _until(self, met: Callable[[], bool], fault: str, every_s: float = 0.2, alive: bool = False) -> None:
        """Wait; a driver that ended by itself is started again if it is to be `alive`."""
        deadline, looked = time.monotonic() + SETTLE_S, 0.0
        while not met():
            if alive and self._driver.poll():
                self.unexpected_ends.append(self._last_lines())
                self._start()
            assert time.monotonic() < deadline, f"{fault} in {SETTLE_S} s: {self._last_lines()}"
            if time.monotonic() > looked + 0.5:
                self._look()
                looked = time.monotonic()
            time.sleep(every_s)

    def _last_lines(self) -> str:
        return " | ".join(self._log.read_text().splitlines()[-4:])[-600:]

    # ---- what a death meets ----

    def _written(self) -> set[int]:
        return {
            number for batch in self._folder.read_tables("synthesize", ["id"]) for number in batch["id"].to_pylist()
        }

    def _look(self) -> None:
        """Who followed the node that died last, while there is work for them; later they go since it is done."""
        if not self.kills or self.kills[-1].kind not in OF_A_NODE or len(self._written()) >= self._rows:
            return
        last = self.kills[-1]
        gone = {pid for pid in last.others if not psutil.pid_exists(pid)}
        self.kills[-1] = replace(last, dead=last.dead | gone, others=last.others - gone)

    def _busy(self, found: list[psutil.Process], written: frozenset[int]) -> list[psutil.Process]:
        """Those that have rows in flight; all, where engines do not say."""
        if self._replies is None:
            return found
        made = rows_by_process(self._replies)
        return [process for process in found if made.get(process.pid, {}).keys() - written]

    def _kill_process(self, kind: str, step: str, written: frozenset[int]) -> Kill | None:
        title = {"worker": WORKER, "pause": WORKER, "engine": ENGINE, "trainer": TRAINER}[kind]
        busy: list[psutil.Process] = []

        def met() -> bool:  # a kill that meets nobody is none
            nonlocal busy
            found = self._cluster.processes(title)
            busy = self._busy(found, written) if title == WORKER else found
            return bool(busy) or self._folder.state(step) == "done"

        self._until(met, f"no {kind} was at work", alive=True)
        if not busy:
            return None
        victim = self._draw.choice(busy)
        if kind == "pause":
            victim.suspend()
            time.sleep(PAUSE_S)
            victim.resume()
            return Kill(step, kind)
        for name in self._cluster.names:
            if victim in self._cluster.on(name, title):
                self._died_on[name].add(victim.pid)
        written = frozenset(self._written())
        victim.kill()
        return Kill(step, kind, written, frozenset({victim.pid}))

    def _kill_node(self, kind: str, step: str, written: frozenset[int]) -> Kill | None:
        cluster, workers = self._cluster, {}

        def met() -> bool:
            nonlocal workers
            workers = {name: cluster.on(name, WORKER) for name in cluster.names}
            return any(self._busy(on, written) for on in workers.values()) or self._folder.state(step) == "done"

        self._until(met, "no node was at work", alive=True)
        busy = [name for name, on in workers.items() if self._busy(on, written)]
        if not busy:
            return None
        name = self._draw.choice(busy)
        written = frozenset(self._written())
        cluster.add()
        if kind == "raylet":
            cluster.kill_raylet(name)
        elif kind == "node":
            cluster.kill_group(name)
        elif kind == "suspend":
            cluster.suspend(name, SUSPEND_S)
        else:
            cluster.drain(name, seconds=3)
        # What a worker that died before had finished may still have waited in the node's memory.
        dead = frozenset({process.pid for process in workers.pop(name)} | self._died_on[name])
        return Kill(step, kind, written, dead, frozenset(process.pid for on in workers.values() for process in on))

    def _kill_driver(self, kind: str, step: str, written: frozenset[int]) -> Kill:
        self.stop()
        if kind == "head":
            size = len(self._cluster.names)
            self._cluster.stop()
            self._cluster.start(size)
        self._start()
        # All that was begun and not written is in flight in the pipeline, whichever process made it.
        return Kill(step, kind, written, self._all_processes())

    # ---- what else befalls it ----

    def _start_a_second(self, step: str) -> Kill:
        """Another run in the same folder: it is refused."""
        second = self._another("second.log")
        if second.wait(SETTLE_S) != REFUSED:
            self.unexpected_ends.append(f"a second run ended with {second.returncode}")
        return Kill(step, "second")

    def _take_over(self, step: str) -> Kill:
        """Another run takes the folder while this one is suspended; when this one goes on, it stops by itself."""
        first, held, written = self._driver, self._folder.read_json(LEASE), frozenset(self._written())
        first.send_signal(signal.SIGSTOP)
        its_processes = self._all_processes()
        self._start()
        self._until(lambda: self._folder.read_json(LEASE) not in ({}, held), "no other run took the folder")
        first.send_signal(signal.SIGCONT)
        if first.wait(SETTLE_S) == 0:
            self.unexpected_ends.append("a run that lost its folder ended well")
        return Kill(step, "takeover", written, its_processes)

    def _refuse_all(self, step: str) -> Kill:
        """The store is down; a run that ends of it goes on when it is started again."""
        assert self._store
        written = frozenset(self._written())
        self._store.plan("refuse", OUTAGE_S)
        time.sleep(OUTAGE_S + 1)
        begun = frozenset(number for rows in self._made().values() for number in rows)
        self._until(
            lambda: bool(self._driver.poll() or self._written() - written) or self._folder.state(step) == "done",
            "nothing went on after the store was down",
        )
        if not self._driver.poll():
            return Kill(step, "outage", written, begun=begun)
        print(f"  {self._last_lines()}", file=sys.stderr, flush=True)
        ended = Kill(step, "outage", written, self._all_processes(), begun=begun)
        self._start()
        return ended

    def _made(self) -> dict[int, dict[int, int]]:
        return rows_by_process(self._replies) if self._replies else {}

    def _all_processes(self) -> frozenset[int]:
        return frozenset(self._made())
