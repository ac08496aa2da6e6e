"""The short form of `make chaos`: a few kinds, one run."""

import random
from pathlib import Path

import pytest

from tests.chaos.campaign import campaign, simulated


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_is_lost_doubled_or_paid_for_again_whatever_dies(tmp_path: Path) -> None:
    moments = [("ingest", "driver"), *(("synthesize", kind) for kind in ("worker", "node", "driver"))]
    seed = random.SystemRandom().randrange(1 << 30)
    report = campaign(tmp_path, simulated(replicas=2, tokens_per_s=120), moments, seed, rows=48, nodes=2)
    assert report.clean, report
    assert report.kills == {f"{step}: {kind}": 1 for step, kind in moments}
