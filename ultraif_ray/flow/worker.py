"""The actor that Ray Data runs: engines on an event loop of their own, and as many journeys at once as they can feed.

Ray hands it blocks on several threads; each waits for its own block while their rows run on the one loop, where the
engine's continuous batching mixes their requests. Rows are what is counted there, not blocks: `rows_in_flight` of them
run, in the order in which they came, and as soon as one ends the next begins, whichever block it is of. A paused
consumer can block Ray's thread, never the engine.
"""

import asyncio
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from ultraif_ray.engine.opening import open_engines
from ultraif_ray.engine.protocol import Engine, RoleClient
from ultraif_ray.errors import EngineDead, EngineUnavailable, RunError
from ultraif_ray.flow.breakers import FailureBreaker, OutageBreaker
from ultraif_ray.flow.progress import STARTING, TOKENS, Scoreboard
from ultraif_ray.flow.quarantine import Admission, CrashTracker, Gate
from ultraif_ray.method.journey import give_up, run_journey
from ultraif_ray.printable import printable
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Asked, Row, to_table

Result = TypeVar("Result")

KILLS_ITS_ENGINE = "kills its engine"
"""The kind of failure of a poisoned row."""

_REPORT_S = 0.5
"""Seconds between two reports to the scoreboard."""


def rows_in_flight(recipe: Recipe, pools: tuple[str, ...]) -> int:
    """How many rows run at once in a worker that holds the engines of `pools`."""
    return min(recipe.pools[name].rows_in_flight for name in pools)


@dataclass(frozen=True)
class Assignment:
    """What a worker is for.

    Attributes:
        recipe: the run's recipe.
        stages: the stages of the journey that run here.
        pools: the pools whose engines they need.
        scoreboard: where to report progress.
        crashes: where rows in flight are noted.
        last: whether this is the last operator, whose rows have come to their end.
    """

    recipe: Recipe
    stages: tuple[str, ...]
    pools: tuple[str, ...]
    scoreboard: "ActorHandle[Scoreboard]"
    crashes: "ActorHandle[CrashTracker]"
    last: bool


class Worker:
    """One replica of an operator: hosts the engines of its pools and takes rows through its stages."""

    def __init__(self, assignment: Assignment):
        self._for, self._crashes = assignment, assignment.crashes
        flow = assignment.recipe.flow
        self._outage, self._failures = OutageBreaker(), FailureBreaker(flow.breaker_share, flow.breaker_rows)
        self._in_flight: set[int] = set()
        self._most = rows_in_flight(assignment.recipe, assignment.pools)
        self._places = asyncio.Semaphore(self._most)
        self._unreported: Counter[str] = Counter()
        self._gate = Gate()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._engines: dict[str, Engine] = {}
        self._fault: Exception | None = None
        try:
            self._engines = self._start()
        except EngineDead as error:
            self._exit(error, self._crashes.start_failed.remote(assignment.pools, str(error)))
        except Exception as fault:  # noqa: BLE001 - whatever it is, it ends the run
            # Raised with the first block. A constructor that raises cannot be told from one whose node was taken away.
            self._fault = fault
        asyncio.run_coroutine_threadsafe(self._report_now_and_then(), self._loop)

    def _start(self) -> dict[str, Engine]:
        pools = self._for.pools
        replicas = self._for.recipe.pools[pools[0]].replicas.max
        if why_not := ray.get(self._crashes.starting.remote(pools, replicas)):
            raise RunError(why_not)
        self._for.scoreboard.add.remote({STARTING: 1})
        engines = self._run(open_engines(self._for.recipe, pools, self._for.stages))
        self._for.scoreboard.add.remote({STARTING: -1})
        self._crashes.started.remote(pools)
        return engines

    def __call__(self, block: pa.Table) -> pa.Table:
        """One block in, the same rows in the same order out."""
        if self._fault:
            raise self._fault
        kind = Asked if "ask" in self._for.stages else Row
        rows = [kind.model_validate(row) for row in block.to_pylist()]
        ids = [row.id for row in rows]
        admission = ray.get(self._crashes.enter.remote(ids))
        if admission.engine_broken:
            raise EngineUnavailable("the engine died with every row it was given; its log, --worker-logs, says why")
        rows = self._run(self._run_block(rows, admission))
        self._crashes.leave.remote(ids, len(ids) - len(admission.poisoned))
        return to_table(rows)

    def __del__(self) -> None:
        """Stop the engines when Ray Data lets an idle replica go."""
        for engine in getattr(self, "_engines", {}).values():
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(engine.close(), self._loop).result(timeout=30)

    def _exit(self, error: EngineDead, report: Any) -> NoReturn:
        """Exit, so that Ray starts another worker with these blocks: raising would only retry on the same engine.

        `report` is the pending call that tells the crash tracker; it is waited for.
        """
        print(f"worker {os.getpid()}: {printable(str(error))}; leaving", file=sys.stderr, flush=True)
        with suppress(Exception):
            ray.get(report, timeout=10)
        for child in multiprocessing.active_children():  # an engine that hangs would keep its memory
            child.kill()
        os._exit(1)

    async def _run_block(self, rows: list[Row], admission: Admission) -> list[Row]:
        """Take the rows of a block through: isolated groups one after another, all others at once."""
        by_id = {row.id: row for row in rows}
        isolated = {number for group in admission.isolated for number in group}

        async def shared(number: int) -> None:
            poisoned = number in admission.poisoned
            async with self._places, self._gate.shared():
                if not poisoned:
                    await self._crashes.begin.remote([number])
                by_id[number] = await self._run_row(by_id[number], poisoned)

        async def exclusive(group: list[int]) -> None:
            async with self._gate.exclusive():
                await self._crashes.isolate.remote(group)
                ended = await asyncio.gather(*(self._run_row(by_id[number], group=group) for number in group))
                by_id.update(zip(group, ended, strict=True))
                self._crashes.clear.remote(group)

        free = (shared(number) for number in by_id if number not in isolated)
        await asyncio.gather(*free, *map(exclusive, admission.isolated))
        self._report()
        return list(by_id.values())

    async def _run_row(self, row: Row, poisoned: bool = False, group: list[int] | None = None) -> Row:
        stages, before = self._for.stages, len(row.failures)
        if poisoned:
            row = give_up(row, stages, KILLS_ITS_ENGINE, "the engine died each time, the last time with it alone")
        else:
            row = await self._journey(row, group)
        self._outage.watch(row.failures[before:])  # those of this operator
        failed = "failed" in (row.outcome, row.decomposed if stages == ("decompose",) else "")
        self._failures.watch(row.failures[-1] if failed and row.failures else None)
        if self._for.last:
            self._unreported[row.outcome or row.decomposed] += 1
        return row

    async def _journey(self, row: Row, group: list[int] | None) -> Row:
        client = RoleClient(self._for.recipe, self._engines, self._count_tokens, row.id, self._width)
        self._in_flight.add(row.id)
        try:
            return await run_journey(row, self._for.stages, client, self._for.recipe)
        except EngineDead as error:  # leave at once: the next row must not come to the same engine
            self._exit(error, self._crashes.engine_died.remote(group or list(self._in_flight), str(error)))
        finally:
            self._in_flight.discard(row.id)

    def _width(self) -> int:
        """Responses of a row at once that fill the places which no row has: towards the end of a step. On a CPU, or a
        server that many share, each would take time from the others.
        """
        if not self._for.recipe.pools[self._for.recipe.roles.responder.pool].gpus:
            return 1
        return self._most // len(self._in_flight)

    def _count_tokens(self, generated: int) -> None:
        self._unreported[TOKENS] += generated

    async def _report_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report()

    def _report(self) -> None:
        if self._unreported:
            self._for.scoreboard.add.remote(dict(self._unreported))
            self._unreported.clear()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
