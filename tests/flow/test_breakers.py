"""When a worker ends the run."""

import pytest

from ultraif_ray.errors import EngineUnavailable, RunError
from ultraif_ray.flow.breakers import OUTAGE_ROWS, FailureBreaker, OutageBreaker
from ultraif_ray.records import Failure

GONE = Failure(stage="judge", kind="EngineUnavailable", reason="http://x: no answer")
ODD = Failure(stage="composer", kind="not JSON", reason="not JSON")


def test_a_server_is_gone_when_rows_one_after_another_get_no_answer() -> None:
    breaker = OutageBreaker()
    for _ in range(OUTAGE_ROWS - 1):
        breaker.watch([ODD, GONE])
    with pytest.raises(EngineUnavailable, match="8 rows in a row got no answer; the last: http://x: no answer"):
        breaker.watch([GONE])


@pytest.mark.parametrize("between", [[], [ODD]])
def test_a_row_that_got_an_answer_in_between_starts_the_count_again(between: list[Failure]) -> None:
    breaker = OutageBreaker()
    for _ in range(3):
        for _ in range(OUTAGE_ROWS - 1):
            breaker.watch([GONE])
        breaker.watch(between)


def test_a_run_ends_when_nearly_all_of_the_last_rows_failed_and_says_on_what() -> None:
    breaker = FailureBreaker(share=0.75, rows=4)
    for failure in (None, ODD, GONE, ODD):  # three of four are not more than three quarters
        breaker.watch(failure)
    with pytest.raises(RunError, match=r"4 of the last 4 rows of a worker failed: not JSON \(3\), Eng.* \(1\)"):
        breaker.watch(ODD)


def test_no_run_ends_before_enough_rows_have_ended_or_where_all_may_fail() -> None:
    few, regardless = FailureBreaker(share=0.5, rows=10), FailureBreaker(share=1.0, rows=4)
    for _ in range(9):
        few.watch(ODD)
        regardless.watch(ODD)
