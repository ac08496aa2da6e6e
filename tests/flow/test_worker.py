"""One worker, here in this process: its rows, and what it does when they or its engine are at fault."""

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


def test_a_poisoned_row_ends_as_failed_without_being_run(tmp_path: Path, actors: tuple[Any, Any]) -> None:
    crashes = actors[1]
    ray.get(crashes.enter.remote([7]))
    for isolated in (False, False, True):
        if isolated:
            ray.get(crashes.isolate.remote([7]))
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
