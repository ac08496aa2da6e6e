"""The short form of `make chaos`: a few kinds, one run."""

from pathlib import Path

import pytest

from tests.chaos.campaign import campaign, simulated


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_is_lost_or_doubled_whatever_dies(tmp_path: Path) -> None:
    report = campaign(tmp_path, simulated(), ["worker", "node", "driver"], seed=1, rows=56, nodes=2)
    assert sum(report.kills.values()) == 3
    assert report.clean, report
