"""The actor that Ray Data runs: engines on an event loop of their own, and as many journeys at once as they can feed.

Ray hands it blocks on several threads; each waits for its own block while all their rows run on the one loop, where
the engine's continuous batching mixes their requests. A paused consumer can block Ray's thread, never the engine.
"""

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa

from ultraif_ray.engine.protocol import Cast, Engine
from ultraif_ray.errors import EngineDead, EngineUnavailable
from ultraif_ray.method.journey import travel
from ultraif_ray.recipe import OpenAIPool, Pool, Recipe, SimulatedPool
from ultraif_ray.records import Row, to_table

Result = TypeVar("Result")

OUTAGE_ROWS = 8
"""Rows one after another without any answer, after every retry, from which on a server counts as gone."""

_REPORT_S = 0.5
"""Seconds between two reports to the scoreboard."""


def open_engine(pool: Pool, seed: int, adapters: tuple[str, ...] = ()) -> Engine:
    """The engine of a pool, with the LoRA adapters that its roles use. Call it inside a running event loop."""
    if isinstance(pool, OpenAIPool):
        from ultraif_ray.engine.openai import OpenAIEngine

        return OpenAIEngine(pool)
    if isinstance(pool, SimulatedPool):
        from ultraif_ray.engine.simulated import SimulatedEngine

        return SimulatedEngine(pool)
    from ultraif_ray.engine.vllm import VllmEngine

    return VllmEngine(pool, seed, adapters)


async def open_engines(recipe: Recipe, pools: tuple[str, ...]) -> dict[str, Engine]:
    """Open the engines of `pools` and check each, so that what cannot work fails here and not row by row."""
    engines: dict[str, Engine] = {}
    for name in pools:
        adapters = dict.fromkeys(s.adapter for _, s in recipe.roles if s.pool == name and s.adapter)
        with _devices_of(recipe, pools, name):
            engines[name] = open_engine(recipe.pools[name], recipe.seed, tuple(adapters))
    for name, engine in engines.items():
        judges = recipe.roles.judge.pool == name and recipe.synthesize.judge == "logprob"
        await engine.check(recipe.synthesize.labels if judges else ())
    return engines


@contextmanager
def _devices_of(recipe: Recipe, pools: tuple[str, ...], name: str) -> Iterator[None]:
    """Show an engine only its own part of the worker's GPUs, where several engines of whole GPUs share the worker."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    wanted = {pool: int(recipe.pools[pool].gpus) for pool in pools}
    if len(pools) == 1 or not visible or not wanted[name]:
        yield
        return
    start = sum(wanted[pool] for pool in pools[: pools.index(name)])
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[start : start + wanted[name]])
    try:
        yield
    finally:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


class Worker:
    """One replica of an operator: hosts the engines of its pools and takes rows through its stages.

    Args:
        recipe: the run's recipe.
        stages: the stages of the journey that run here.
        pools: the pools whose engines they need.
        scoreboard: where to report progress.
        last: whether this is the last operator, whose rows have come to their end.
    """

    def __init__(self, recipe: Recipe, stages: tuple[str, ...], pools: tuple[str, ...], scoreboard: Any, last: bool):
        self._recipe, self._stages, self._scoreboard, self._last = recipe, stages, scoreboard, last
        self._unanswered = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._engines = self._run(open_engines(recipe, pools))
        self._unreported: Counter[str] = Counter()
        asyncio.run_coroutine_threadsafe(self._report_now_and_then(), self._loop)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One block in, the same rows in the same order out."""
        rows = [Row.model_validate(row) for row in block.to_pylist()]
        try:
            return to_table(self._run(self._travel_all(rows)))
        except EngineDead as error:
            # Raising would only retry on the same dead engine: leave, and Ray starts another worker with this block.
            print(f"worker {os.getpid()}: {error}; leaving", file=sys.stderr, flush=True)
            os._exit(1)

    async def _travel_all(self, rows: list[Row]) -> list[Row]:
        rows = await asyncio.gather(*(self._travel(row) for row in rows))
        self._report()
        return rows

    async def _travel(self, row: Row) -> Row:
        cast = Cast(self._recipe.roles, self._engines, self._count_tokens)
        row = await travel(row, self._stages, cast, self._recipe)
        self._watch_for_outage(row)
        if self._last:
            self._unreported[row.outcome or row.decomposed] += 1
        return row

    def _watch_for_outage(self, row: Row) -> None:
        """A server that is gone must not fail every row that is left: end the run, and it can go on later."""
        lost = [f.reason for f in row.failures if f.reason.startswith(EngineUnavailable.__name__)]
        self._unanswered = self._unanswered + 1 if lost else 0
        if self._unanswered >= OUTAGE_ROWS:
            raise EngineUnavailable(f"{OUTAGE_ROWS} rows in a row got no answer; the last: {lost[0]}")

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
