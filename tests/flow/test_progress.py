"""What is seen while a pipeline runs."""

from typing import Any

import pytest

from ultraif_ray.flow.progress import STARTING, TOKENS, Scoreboard, describe, what_is_waited_for


def test_what_happens_before_the_first_row_is_said() -> None:
    assert describe({}, 3) == (0, "waiting for a worker")
    assert describe({STARTING: 2}, 31.4) == (0, "starting the engine, 31 s")
    assert describe({STARTING: 1, TOKENS: 80}, 40) == (0, "no row done yet; 2 tokens/s")


def test_rows_by_outcome_and_tokens_a_second() -> None:
    assert describe({STARTING: 0, "paired": 3, "failed": 1, TOKENS: 500}, 10) == (4, "1 failed, 3 paired; 50 tokens/s")


def test_reports_add_up_and_a_total_begins_anew() -> None:
    board = Scoreboard()
    board.add({STARTING: 1})
    board.add({STARTING: -1})
    board.add({"paired": 2, TOKENS: 5})
    assert board.read() == ({STARTING: 0, "paired": 2, TOKENS: 5}, "", 0)
    board.add({"steps": 4}, "2 workers", total=9)
    board.add({"steps": 1})
    assert board.read() == ({"steps": 5}, "2 workers", 9)


@pytest.mark.parametrize(
    ("counts", "unplaced", "said"),
    [
        ({}, [(1, {"memory": 2.0**30, "CPU": 1.0})], "room in the cluster for 1 x 1 CPU, 1.07374e+09 memory"),
        ({"paired": 3}, [(2, {"GPU": 1.0})], "room in the cluster for 2 x 1 GPU"),
        ({STARTING: 1}, [], "an engine to start"),
        ({STARTING: 0, TOKENS: 9}, [], "the engines' replies"),
        ({}, [], "a worker to start"),
    ],
)
def test_what_a_run_waits_for_is_said(counts: dict[str, int], unplaced: Any, said: str) -> None:
    assert what_is_waited_for(counts, unplaced) == said
