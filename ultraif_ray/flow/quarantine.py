"""Poisoned prompts: which rows were in an engine when it died, kept outside of the workers that die with it.

A prompt that kills its engine would kill the next one too, for ever, with every row beside it. So rows are noted before
they begin, and one that had begun and comes again was in flight when its worker died. Rows that were in flight at too
many deaths are isolated: first together with those of their block that were there too, and if their engine dies again,
each alone (bisection in two steps); the one with which it then dies is poisoned, and ends as failed. A node that is
taken away leaves the same mark, so a death that nobody saw weighs half as much as one of the engine that its worker
reported.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import ray

from ultraif_ray.flow.actors import beside_the_driver

DEATHS_UNTIL_ISOLATED = 4
"""Weight of deaths from which a row is isolated: two deaths of an engine, or four that may have been the node's."""

DEATHS_IN_ISOLATION = 2
"""Weight of deaths in isolation that count: one death of an engine, or two that nobody saw."""

POISONED_UNTIL_BROKEN = 3
"""Poisoned rows, with none that came through, from which on it is the engine that is broken and not the rows."""

FAILED_STARTS = 3
"""Times that an engine may die as it starts before the run ends, where none of its pool ever came up; else it would
start for ever. Where one did, or nobody saw the deaths, which may be their nodes', three times all its replicas."""


class Isolation(Enum):
    """How far a row is isolated the next time it runs, if it was in flight at too many deaths."""

    BLOCK = "with rows of its block"
    ALONE = "alone"
    POISONED = "not run again"


@dataclass
class RowState:
    """What is known of a row that a worker holds."""

    running: bool = False
    """Whether it has begun since it last came to a worker."""
    deaths: int = 0
    """Weight of the deaths at which it was in flight."""
    isolation: Isolation = Isolation.BLOCK
    deaths_before: int | None = None
    """Its deaths when it began to run in isolation; None while it does not."""
    alone: bool = False
    """Whether it began so with no other row of its block."""

    def died_in_isolation(self) -> bool:
        """Whether its engine died while no row outside of its group ran."""
        return self.deaths_before is not None and self.deaths - self.deaths_before >= DEATHS_IN_ISOLATION

    def clear(self) -> None:
        """Forget the deaths: something else explains them."""
        self.deaths, self.deaths_before = 0, None
        if self.isolation is not Isolation.POISONED:
            self.isolation = Isolation.BLOCK


@dataclass(frozen=True)
class Admission:
    """How the rows of a block are to run."""

    isolated: list[list[int]] = field(default_factory=list)
    """Groups of ids, each to run with no other row in the worker."""
    poisoned: list[int] = field(default_factory=list)
    """Ids that are not to run."""
    engine_broken: bool = False
    """The engine dies whatever it is asked: the run should end."""


class CrashTracker:
    """Ray actor on the driver's node: the rows in flight, and which engines died."""

    def __init__(self) -> None:
        self._rows: dict[int, RowState] = {}
        self._poisoned = self._came_through = 0
        self._starts: Counter[tuple[str, ...]] = Counter()
        self._failed_starts: Counter[tuple[str, ...]] = Counter()
        self._came_up: set[tuple[str, ...]] = set()
        self._why = "their log, --worker-logs, says why"

    # ---- engines that start ----

    def starting(self, pools: tuple[str, ...], replicas: int) -> str:
        """Note that a worker opens the engines of `pools`, of which there may be `replicas`. Why the run should end,
        after all that died since one last came up; or empty.
        """
        lost, died = self._starts[pools], self._failed_starts[pools]
        self._starts[pools] += 1
        never_up = died >= FAILED_STARTS and pools not in self._came_up
        if never_up or lost > FAILED_STARTS * replicas:
            return f"workers died {max(lost, died)} times while they opened pool {', '.join(pools)}: {self._why}"
        return ""

    def start_failed(self, pools: tuple[str, ...], why: str) -> None:
        """Note that an engine of `pools` died as it started."""
        self._failed_starts[pools] += 1
        self._why = why

    def started(self, pools: tuple[str, ...]) -> None:
        """Note that the engines of `pools` came up."""
        del self._starts[pools], self._failed_starts[pools]
        self._came_up.add(pools)

    # ---- rows in flight ----

    def enter(self, ids: list[int]) -> Admission:
        """How the rows of a block are to run. One that had begun before was in flight when its worker died."""
        for number in ids:
            row = self._rows.setdefault(number, RowState())
            row.deaths += row.running
            row.running = False
        self._narrow_down(ids)
        suspects = [
            number
            for number in ids
            if self._rows[number].deaths >= DEATHS_UNTIL_ISOLATED
            and self._rows[number].isolation is not Isolation.POISONED
        ]
        groups = [[number] for number in suspects if self._rows[number].isolation is Isolation.ALONE]
        if block := [number for number in suspects if self._rows[number].isolation is Isolation.BLOCK]:
            groups.append(block)
        poisoned = [number for number in ids if self._rows[number].isolation is Isolation.POISONED]
        return Admission(groups, poisoned, self._poisoned >= POISONED_UNTIL_BROKEN and not self._came_through)

    def begin(self, ids: list[int]) -> None:
        """Note that these rows begin."""
        for number in ids:
            self._rows.setdefault(number, RowState()).running = True

    def _narrow_down(self, ids: list[int]) -> None:
        """Isolate further those with which the engine died in isolation."""
        found = False
        for number in ids:
            row = self._rows[number]
            if not row.died_in_isolation():
                continue
            row.deaths_before = None
            if row.alone:
                row.isolation, found = Isolation.POISONED, True
                self._poisoned += 1
            else:
                row.isolation = Isolation.ALONE
        if found:  # it explains the deaths of all that were beside it
            for row in self._rows.values():
                row.clear()

    def engine_died(self, ids: list[int], why: str = "") -> None:
        """Note that an engine died with these rows in flight."""
        self._why = why
        for number in ids:
            self._rows.setdefault(number, RowState()).deaths += 1

    def isolate(self, group: list[int]) -> None:
        """Note that these rows begin, with no other."""
        self.begin(group)
        for number in group:
            row = self._rows[number]
            if row.deaths_before is None:
                row.deaths_before, row.alone = row.deaths, len(group) == 1

    def clear(self, group: list[int]) -> None:
        """Note that these rows came through in isolation: it is none of them."""
        for number in group:
            self._rows[number].clear()

    def leave(self, ids: list[int], came_through: int) -> None:
        """Note rows as done, of which `came_through` were done by the engine."""
        self._came_through += came_through
        for number in ids:
            self._rows.pop(number, None)


def start_crash_tracker() -> "ray.actor.ActorHandle[CrashTracker]":
    """A tracker where the driver is: not on a spot node, and back, though empty, should it ever die."""
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": beside_the_driver()}
    return ray.remote(CrashTracker).options(**options).remote()


class Gate:
    """Lets many rows of a worker run at once, or one group with no other: a readers-writer lock on one event loop, in
    which the writer goes first.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._running = self._waiting = 0
        self._closed = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others; waits while a group is isolated or wants to be."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed and not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Run with nothing else in this worker."""
        async with self._changed:
            self._waiting += 1
            await self._changed.wait_for(lambda: not self._closed and not self._running)
            self._waiting -= 1
            self._closed = True
        try:
            yield
        finally:
            async with self._changed:
                self._closed = False
                self._changed.notify_all()
