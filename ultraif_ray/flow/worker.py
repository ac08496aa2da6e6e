"""The actor that Ray Data runs: engines on an event loop of their own, and as many journeys at once as they can feed.

Ray hands it blocks on several threads; each waits for its own block while all their rows run on the one loop, where
the engine's continuous batching mixes their requests. A paused consumer can block Ray's thread, never the engine.
"""

import asyncio
import multiprocessing
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import ray

from ultraif_ray.engine.opening import open_engines
from ultraif_ray.engine.protocol import Cast, Engine
from ultraif_ray.errors import EngineDead, EngineUnavailable, RunError
from ultraif_ray.flow.suspects import Gate
from ultraif_ray.method.journey import give_up, travel
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Failure, Row, to_table

Result = TypeVar("Result")

OUTAGE_ROWS = 8
"""Rows one after another without any answer, after every retry, from which on a server counts as gone."""

KILLS_ITS_ENGINE = "kills its engine"
"""The kind of failure of a row that is in quarantine for good."""

_REPORT_S = 0.5
"""Seconds between two reports to the scoreboard."""


class Worker:
    """One replica of an operator: hosts the engines of its pools and takes rows through its stages.

    Args:
        recipe: the run's recipe.
        stages: the stages of the journey that run here.
        pools: the pools whose engines they need.
        scoreboard: where to report progress.
        register: where rows in flight are noted.
        last: whether this is the last operator, whose rows have come to their end.
    """

    def __init__(
        self,
        recipe: Recipe,
        stages: tuple[str, ...],
        pools: tuple[str, ...],
        scoreboard: Any,
        register: Any,
        last: bool,
    ):
        self._recipe, self._stages, self._last = recipe, stages, last
        self._scoreboard, self._register = scoreboard, register
        self._unanswered = 0
        self._ends: deque[str] = deque(maxlen=recipe.flow.breaker_rows)
        self._in_flight: set[int] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._gate = Gate()
        self._engines: dict[str, Engine] = {}
        self._fault: Exception | None = None
        try:
            self._engines = self._start(pools)
        except EngineDead as error:
            self._leave(error, self._register.start_failed.remote(pools, str(error)))
        except Exception as fault:  # noqa: BLE001 - whatever it is, it ends the run
            # Told with the first block. A constructor that raises cannot be told from one whose node was taken away.
            self._fault = fault
        self._unreported: Counter[str] = Counter()
        asyncio.run_coroutine_threadsafe(self._report_now_and_then(), self._loop)

    def _start(self, pools: tuple[str, ...]) -> dict[str, Engine]:
        replicas = self._recipe.pools[pools[0]].replicas.max
        if in_vain := ray.get(self._register.starting.remote(pools, replicas)):
            raise RunError(in_vain)
        engines = self._run(open_engines(self._recipe, pools))
        self._register.started.remote(pools)
        return engines

    def __call__(self, block: pa.Table) -> pa.Table:
        """One block in, the same rows in the same order out."""
        if self._fault:
            raise self._fault
        rows = [Row.model_validate(row) for row in block.to_pylist()]
        ids = [row.id for row in rows]
        apart, convicted, hopeless = ray.get(self._register.enter.remote(ids))
        if hopeless:
            raise EngineUnavailable("the engine died with every row it was given; its log, --worker-logs, says why")
        self._in_flight.update(ids)
        rows = self._run(self._travel_all(rows, apart, set(convicted)))
        self._in_flight.difference_update(ids)
        self._register.leave.remote(ids, len(ids) - len(convicted))
        return to_table(rows)

    def __del__(self) -> None:
        """Stop the engines when Ray Data lets an idle replica go."""
        for engine in getattr(self, "_engines", {}).values():
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(engine.close(), self._loop).result(timeout=30)

    def _leave(self, error: EngineDead, told: Any) -> NoReturn:
        """Leave, so that Ray starts another worker with these blocks: raising would only retry on the same engine.

        `told` is the pending call by which the register is told; it is waited for.
        """
        print(f"worker {os.getpid()}: {error}; leaving", file=sys.stderr, flush=True)
        with suppress(Exception):
            ray.get(told, timeout=10)
        for child in multiprocessing.active_children():  # an engine that hangs would keep its memory
            child.kill()
        os._exit(1)

    async def _travel_all(self, rows: list[Row], apart: list[list[int]], convicted: set[int]) -> list[Row]:
        """Take the rows of a block through: those in the groups `apart` a group at a time, all others at once."""
        by_id = {row.id: row for row in rows}
        grouped = {one for group in apart for one in group}

        async def one_of_many(one: int) -> None:
            async with self._gate.together():
                by_id[one] = await self._travel(by_id[one], one in convicted)

        async def with_no_other(group: list[int]) -> None:
            async with self._gate.alone():
                await self._register.isolate.remote(group)
                ended = await asyncio.gather(*(self._travel(by_id[one], False, group) for one in group))
                by_id.update(zip(group, ended, strict=True))
                self._register.acquit.remote(group)

        free = (one_of_many(one) for one in by_id if one not in grouped)
        await asyncio.gather(*free, *map(with_no_other, apart))
        self._report()
        return list(by_id.values())

    async def _travel(self, row: Row, convicted: bool, group: list[int] | None = None) -> Row:
        before = len(row.failures)  # of steps before this one
        if convicted:
            row = give_up(row, self._stages, KILLS_ITS_ENGINE, "the engine died each time, the last time with it alone")
        else:
            row = await self._journey(row, group)
        self._watch_for_outage(row.failures[before:])
        self._watch_for_failures(row)
        if self._last:
            self._unreported[row.outcome or row.decomposed] += 1
        return row

    async def _journey(self, row: Row, group: list[int] | None) -> Row:
        cast = Cast(self._recipe.roles, self._engines, self._count_tokens)
        try:
            return await travel(row, self._stages, cast, self._recipe)
        except EngineDead as error:  # leave at once: the next row must not come to the same engine
            at_work = group or list(self._in_flight)
            self._leave(error, self._register.engine_died.remote(at_work, str(error)))

    def _watch_for_outage(self, failures: list[Failure]) -> None:
        """A server that is gone must not fail every row that is left: end the run, and it can go on later."""
        lost = [failure for failure in failures if failure.kind == EngineUnavailable.__name__]
        self._unanswered = self._unanswered + 1 if lost else 0
        if self._unanswered >= OUTAGE_ROWS:
            raise EngineUnavailable(f"{OUTAGE_ROWS} rows in a row got no answer; the last: {lost[0].reason}")

    def _watch_for_failures(self, row: Row) -> None:
        """Where nearly every row fails, something other than the rows is wrong, and each costs tokens."""
        failed = "failed" in (row.outcome, row.decomposed if self._stages == ("decompose",) else "")
        self._ends.append(row.failures[-1].kind if failed and row.failures else "")
        reasons = Counter(reason for reason in self._ends if reason)
        if len(self._ends) == self._ends.maxlen and reasons.total() > self._recipe.flow.breaker_share * len(self._ends):
            listed = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
            raise RunError(
                f"{reasons.total()} of the last {len(self._ends)} rows of a worker failed: {listed}. Look at "
                "`ultraif show RUN --outcome failed`, mend the cause, then `ultraif retry RUN`; "
                "flow.breaker_share=1 goes on regardless"
            )

    def _count_tokens(self, generated: int) -> None:
        self._unreported["generated tokens"] += generated

    async def _report_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            self._report()

    def _report(self) -> None:
        if self._unreported:
            self._scoreboard.add.remote(dict(self._unreported))
            self._unreported.clear()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
