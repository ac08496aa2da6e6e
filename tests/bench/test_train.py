import pytest

from ultraif_ray.bench.train import Measured, unlike

TRL = Measured(seconds=9.0, steps=6, examples=12)


@pytest.mark.parametrize(
    ("ours", "fault"),
    [
        (Measured(8.0, 6, 24), ""),
        (Measured(6.0, 6, 20), r"the step trained on [20] examples, TRL on 24"),
        (Measured(6.0, 5, 24), r"the step made [5] optimizer steps, TRL [6]"),
    ],
)
def test_times_of_unlike_trainings_are_not_compared(ours: Measured, fault: str) -> None:
    assert unlike([ours, ours], [TRL, TRL], 24) == fault
