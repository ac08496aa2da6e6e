"""One worker, here in this process: its rows, and what it does when they or its engine are at fault."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.simulated import recipe, with_pool
from ultraif_ray.errors import RecipeError, RunError
from ultraif_ray.flow.progress import TOKENS, Scoreboard
from ultraif_ray.flow.quarantine import CrashTracker
from ultraif_ray.flow.worker import KILLS_ITS_ENGINE, Assignment, Worker
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Row, to_table

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def actors(ray_cluster: None) -> tuple[Any, Any]:
    """A scoreboard and a crash tracker."""
    return ray.remote(num_cpus=0)(Scoreboard).remote(), ray.remote(num_cpus=0)(CrashTracker).remote()


def worker(made: Recipe, actors: tuple[Any, Any]) -> Worker:
    scoreboard, crashes = actors
    pools = tuple(made.pools)
    return Worker(Assignment(made, stages=STAGES, pools=pools, scoreboard=scoreboard, crashes=crashes, last=True))


def block(*numbers: int) -> Any:
    return to_table([Row(id=n, query=f"Write {n} lines about rain number {n} please") for n in numbers])


def test_rows_come_back_whole_in_their_order_and_are_reported(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    done = [Row.model_validate(row) for row in worker(recipe(tmp_path), actors)(block(3, 1, 2)).to_pylist()]
    assert [row.id for row in done] == [3, 1, 2]
    assert all(row.outcome and row.decomposed and row.usage for row in done)
    counts, _, _ = ray.get(actors[0].read.remote())
    assert sum(n for name, n in counts.items() if name in {row.outcome for row in done}) >= 3
    assert counts[TOKENS] > 0


def noted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many spans of time overlap at most."""
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


def test_as_many_rows_run_as_may_whatever_blocks_they_are_of(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    """Two blocks of four and three places: rows begin in their order, and no place waits for the end of a block."""
    (replies := tmp_path / "replies").mkdir()
    pool = {"engine": "simulated", "rows_in_flight": 3, "latency_s": 0.05, "replies": str(replies)}
    working = worker(with_pool(recipe(tmp_path), pool), actors)
    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(working, [block(*range(4)), block(*range(4, 8))]))
    assert [len(table) for table in ended] == [4, 4]
    spans: dict[int, tuple[float, float]] = {}
    for note in noted(replies):
        began, over = spans.get(note["row"], (note["began"], note["ended"]))
        spans[note["row"]] = min(began, note["began"]), max(over, note["ended"])
    assert most_at_once(list(spans.values())) == 3
    first_block_over = max(spans[number][1] for number in range(4))
    assert min(spans[number][0] for number in range(4, 8)) < first_block_over


class Noting(CrashTracker):
    """A tracker that can say which rows had begun, and which were in flight at the last death."""

    begun: tuple[int, ...] = ()
    died: tuple[int, ...] = ()

    def begin(self, ids: list[int]) -> None:
        self.begun += tuple(ids)
        super().begin(ids)

    def engine_died(self, ids: list[int], why: str = "") -> None:
        self.died = tuple(sorted(ids))
        super().engine_died(ids, why)

    def noted(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.begun, self.died


class Left(BaseException):
    """What takes the place of a worker's exit."""


def test_a_death_is_put_down_to_rows_that_had_begun_and_not_to_those_that_wait(
    tmp_path: Path, actors: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> None:
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    fault = {"kind": "die", "query": "number 1 "}
    pool = {"engine": "simulated", "rows_in_flight": 2, "latency_s": 0.1, "faults": [fault]}
    crashes = ray.remote(num_cpus=0)(Noting).remote()
    working = worker(with_pool(recipe(tmp_path), pool), (actors[0], crashes))
    with pytest.raises(Left):
        working(block(*range(6)))
    begun, died = ray.get(crashes.noted.remote())
    assert (begun[:2], died) == ((0, 1), (0, 1))


@pytest.mark.parametrize(("gpus", "at_once"), [(0, 1), (0.1, 4)])
def test_the_last_rows_on_a_gpu_sample_as_many_responses_as_there_are_places(
    tmp_path: Path, actors: tuple[Any, Any], gpus: float, at_once: int
) -> None:
    (replies := tmp_path / "replies").mkdir()
    pool = {"engine": "simulated", "gpus": gpus, "rows_in_flight": 8, "latency_s": 0.02, "replies": str(replies)}
    made = with_pool(recipe(tmp_path, synthesize={"goal": "all", "k": 5}), pool)
    worker(made, actors)(block(1, 2))
    widths = {len(note["lengths"]) for note in noted(replies) if note["role"] == "responder"}
    assert max(widths) >= at_once
    assert (widths == {1}) == (gpus == 0)


def test_a_poisoned_row_ends_as_failed_without_being_run(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    crashes = actors[1]
    ray.get(crashes.enter.remote([7]))
    for isolated in (False, False, True):
        ray.get((crashes.isolate if isolated else crashes.begin).remote([7]))
        ray.get(crashes.engine_died.remote([7], "out of memory"))
        ray.get(crashes.enter.remote([7]))
    fault = {"kind": "exit", "query": "number 7 "}  # would end this very process
    made = with_pool(recipe(tmp_path), {"engine": "simulated", "faults": [fault]})
    poisoned, beside = (Row.model_validate(row) for row in worker(made, actors)(block(7, 8)).to_pylist())
    assert (poisoned.outcome, poisoned.failures[-1].kind, poisoned.usage) == ("failed", KILLS_ITS_ENGINE, [])
    assert beside.usage


def test_an_engine_that_cannot_be_opened_is_said_with_the_first_block(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    pool = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    with pytest.raises(RecipeError, match="does not answer"):
        worker(with_pool(recipe(tmp_path), pool), actors)(block(1))


def test_a_worker_whose_rows_nearly_all_fail_ends_the_run(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    refusing = with_pool(
        recipe(tmp_path, flow={"breaker_rows": 4, "rows_per_block": 4}), {"engine": "simulated", "refused_share": 1.0}
    )
    with pytest.raises(RunError, match=r"4 of the last 4 rows of a worker failed: RequestRefused \(4\)"):
        worker(refusing, actors)(block(11, 12, 13, 14))
