"""Which rows were in an engine when it died, kept outside of the workers that die with it.

A prompt that kills its engine would kill the next one too, for ever, with every row beside it. So rows are noted before
they are begun, and one that comes again was in flight when its worker died. Those of a block that were there too often
run apart from all others; if their engine dies once more, each runs alone; and the one with which it then dies is it,
and ends as failed. A node that is taken away leaves the same mark, so a death that nobody saw weighs half as much as
one of the engine that its worker reported.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ray

from ultraif_ray.flow.cluster import beside_the_driver

SUSPECT = 4
"""Weight of deaths from which a row runs apart: two deaths of an engine, or four that may have been the node's."""

CONVICTED = 2
"""Weight of deaths while apart that count: one death of an engine, or two that nobody saw."""

HOPELESS = 3
"""Rows that were ended so, with none that came through, from which on it is the engine and not the rows."""

STARTS_LOST = 3
"""Times that an engine may die as it starts before the run ends, where none of its pool ever came up; else it would
start for ever. Where one did, or nobody saw the deaths, which may be their nodes', three times all its replicas."""


class Register:
    """Ray actor on the driver's node: the rows in flight, and how often each was there when its worker died."""

    def __init__(self) -> None:
        self._starts: Counter[tuple[str, ...]] = Counter()
        self._died: Counter[tuple[str, ...]] = Counter()
        self._came_up: set[tuple[str, ...]] = set()
        self._why = "their log, --worker-logs, says why"
        self._deaths: dict[int, int] = {}
        self._apart: dict[int, tuple[int, int]] = {}
        """Of each row that runs apart from others: its deaths before, and how many rows run with it."""
        self._narrowed: set[int] = set()
        self._convicted: set[int] = set()
        self._ended = self._through = 0

    def starting(self, pools: tuple[str, ...], replicas: int) -> str:
        """Note that a worker opens the engines of `pools`, of which there may be `replicas`. Why that is in vain, after
        all that died since one last came up; or empty.
        """
        lost, died = self._starts[pools], self._died[pools]
        self._starts[pools] += 1
        in_vain = died >= STARTS_LOST and pools not in self._came_up
        if in_vain or lost > STARTS_LOST * replicas:
            return f"workers died {max(lost, died)} times while they opened pool {', '.join(pools)}: {self._why}"
        return ""

    def start_failed(self, pools: tuple[str, ...], why: str) -> None:
        """Note that an engine of `pools` died as it started."""
        self._died[pools] += 1
        self._why = why

    def started(self, pools: tuple[str, ...]) -> None:
        """Note that the engines of `pools` came up."""
        del self._starts[pools], self._died[pools]
        self._came_up.add(pools)

    def enter(self, ids: list[int]) -> tuple[list[list[int]], list[int], bool]:
        """Note the rows of a block as in flight. Of these: which must run apart from all others, group by group; which
        are to be ended; and whether all is in vain.
        """
        for one in ids:
            self._deaths[one] = self._deaths.get(one, -1) + 1
        guilty: set[int] = set()
        for one in ids:
            before, together = self._apart.get(one, (1 << 60, 0))
            if self._deaths[one] - before >= CONVICTED:
                del self._apart[one]
                (guilty if together == 1 else self._narrowed).add(one)
        if guilty:
            self._convicted |= guilty
            self._ended += len(guilty)
            self._deaths = dict.fromkeys(self._deaths, 0)  # they explain the deaths of all that were beside them
            self._apart.clear()
            self._narrowed.clear()
        convicted = [one for one in ids if one in self._convicted]
        suspects = [one for one in ids if self._deaths[one] >= SUSPECT and one not in self._convicted]
        groups = [[one] for one in suspects if one in self._narrowed]
        if others := [one for one in suspects if one not in self._narrowed]:
            groups.append(others)
        return groups, convicted, self._ended >= HOPELESS and not self._through

    def engine_died(self, ids: list[int], why: str = "") -> None:
        """Note that an engine died with these rows in flight."""
        self._why = why
        for one in ids:
            self._deaths[one] = self._deaths.get(one, 0) + 1

    def isolate(self, group: list[int]) -> None:
        """Note that these rows now run with no other."""
        for one in group:
            self._apart.setdefault(one, (self._deaths.get(one, 0), len(group)))

    def acquit(self, group: list[int]) -> None:
        """Note that these rows came through with no other: it is none of them."""
        for one in group:
            self._apart.pop(one, None)
            self._narrowed.discard(one)
            self._deaths[one] = 0

    def leave(self, ids: list[int], through: int) -> None:
        """Note rows as done, `through` of them by the engine."""
        self._through += through
        for one in ids:
            self._deaths.pop(one, None)
            self._apart.pop(one, None)
            self._narrowed.discard(one)
            self._convicted.discard(one)


def start_register() -> "ray.actor.ActorHandle":
    """A register where the driver is: not on a spot node, and back, though empty, should it ever die."""
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": beside_the_driver()}
    return ray.remote(Register).options(**options).remote()


class Gate:
    """Lets many rows of a worker run at once, or one alone. Used on the worker's one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._running = self._waiting_alone = 0
        self._closed = False

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Run beside others; waits while a row runs alone or wants to."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed and not self._waiting_alone)
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run with no other row in this worker."""
        async with self._changed:
            self._waiting_alone += 1
            await self._changed.wait_for(lambda: not self._closed and not self._running)
            self._waiting_alone -= 1
            self._closed = True
        try:
            yield
        finally:
            async with self._changed:
                self._closed = False
                self._changed.notify_all()
