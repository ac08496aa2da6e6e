"""What is seen while a pipeline runs."""

from ultraif_ray.flow.progress import STARTING, TOKENS, Scoreboard, describe


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
