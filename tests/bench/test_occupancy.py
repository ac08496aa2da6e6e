"""What is read from the simulated engine's notes; the command itself is run by hand."""

import pytest

from ultraif_ray.bench.occupancy import occupancy


def note(row: int, began: float, ended: float, *lengths: int) -> dict[str, object]:
    return {"row": row, "began": began, "ended": ended, "lengths": list(lengths)}


def test_places_are_counted_by_the_length_of_each_text_until_no_row_waits() -> None:
    """Four places at ten tokens a second; the last row begins at 10 s."""
    notes = [
        note(1, 0, 10, 100, 50),  # two places, one of them for half of the time
        note(2, 0, 10, 100),
        note(3, 10, 14, 40),
    ]
    found = occupancy(notes, slots=4, tokens_per_s=10)
    assert found.while_rows_wait == pytest.approx((3 * 5 + 2 * 5) / 40, abs=1e-3)
    assert found.course == (0.75,) * 5 + (0.5,) * 5
    assert (found.tail_s, found.longest_row_s, found.seconds, found.generated) == (4, 10, 14, 290)
