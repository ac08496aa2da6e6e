import signal
from typing import Any

import pytest

from ultraif_ray.bench.scale import UNTIL_THE_KILL, faults_of

PHASES = [{"phase": UNTIL_THE_KILL, "exit": -signal.SIGKILL}, {"phase": "to the end", "exit": 0}]
GOOD: dict[str, Any] = {"rows": 100, "rows_in_files": 100, "ledger_sums": True, "phases": PHASES}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"rows_in_files": 0}, "0 of 100 rows are in the files"),
        ({"ledger_sums": False}, "the ledger does not sum"),
        ({"phases": [PHASES[0], PHASES[1] | {"exit": 2}]}, "the driver of 'to the end' ended with 2, not 0"),
        ({"phases": [PHASES[0] | {"exit": 0}, PHASES[1]]}, "the driver of 'until the kill' ended with 0, not -9"),
    ],
)
def test_a_measurement_that_says_nothing_is_told_from_one_that_does(changed: dict[str, Any], fault: str | None) -> None:
    assert faults_of(GOOD | changed) == ([fault] if fault else [])
