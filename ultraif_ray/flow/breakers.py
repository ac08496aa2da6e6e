"""When a worker ends the run: what is wrong then cannot be the rows, and each of them costs tokens."""

from collections import Counter, deque
from collections.abc import Sequence

from ultraif_ray.errors import EngineUnavailable, RunError
from ultraif_ray.records import Failure

OUTAGE_ROWS = 8
"""Rows one after another without any answer, after every retry, from which on a server counts as gone."""


class OutageBreaker:
    """A server that is gone must not fail every row that is left: the run ends, and can go on later."""

    def __init__(self) -> None:
        self._unanswered = 0

    def watch(self, failures: Sequence[Failure]) -> None:
        """Look at the failures of a row that has just ended.

        Raises:
            EngineUnavailable: `OUTAGE_ROWS` rows in a row got no answer.
        """
        lost = [failure for failure in failures if failure.kind == EngineUnavailable.__name__]
        self._unanswered = self._unanswered + 1 if lost else 0
        if self._unanswered >= OUTAGE_ROWS:
            raise EngineUnavailable(f"{OUTAGE_ROWS} rows in a row got no answer; the last: {lost[0].reason}")


class FailureBreaker:
    """Where nearly every row fails, something other than the rows is wrong.

    Args:
        share: fraction of the last rows from which on the run ends.
        rows: how many of the last rows are looked at; none before there are as many.
    """

    def __init__(self, share: float, rows: int):
        self._share = share
        self._last: deque[str] = deque(maxlen=rows)

    def watch(self, failure: Failure | None) -> None:
        """Look at a row that has just ended: what it failed on, or None.

        Raises:
            RunError: nearly all of the last rows failed, with the kinds of their failures.
        """
        self._last.append(failure.kind if failure else "")
        kinds = Counter(kind for kind in self._last if kind)
        if len(self._last) == self._last.maxlen and kinds.total() > self._share * len(self._last):
            listed = ", ".join(f"{kind} ({n})" for kind, n in kinds.most_common(3))
            raise RunError(
                f"{kinds.total()} of the last {len(self._last)} rows of a worker failed: {listed}. Look at "
                "`ultraif show RUN --outcome failed`, remove the cause, then `ultraif retry RUN`; "
                "flow.breaker_share=1 continues regardless"
            )
