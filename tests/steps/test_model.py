"""What is shown of a model before and after training."""

from ultraif_ray.steps.model import first_difference


def test_the_answers_that_are_shown_differ_where_any_do() -> None:
    assert first_difference(["a", "b", "c"], ["a", "x", "y"]) == 1
    assert first_difference(["a"], ["a"]) == 0
