"""What ended a pipeline, in the user's words."""

from ray.exceptions import RayTaskError

from ultraif_ray.errors import InputError, NodeLost, RecipeError, RunError
from ultraif_ray.flow.graph import unwrap_error


def test_what_died_with_its_node_is_told_from_what_is_at_fault_itself() -> None:
    text = (
        "ray::ListFiles()\nray.exceptions.ActorDiedError: The actor died.\n\tclass_name: FooterReader\nnode terminated"
    )
    assert isinstance(unwrap_error(RuntimeError(text)), NodeLost)
    assert not isinstance(unwrap_error(RuntimeError("ValueError: no such file")), NodeLost)


def test_a_workers_own_error_is_found_in_what_ray_wraps_around_it() -> None:
    wrapped = RuntimeError("ray::Worker()\n  File …\nultraif_ray.errors.RecipeError: labels are two tokens\n")
    plain = unwrap_error(wrapped)
    assert isinstance(plain, RecipeError)
    assert str(plain) == "labels are two tokens"
    assert isinstance(unwrap_error(InputError("x")), InputError)
    other = unwrap_error(ValueError("first\nmiddle\nlast"))
    assert isinstance(other, RunError)
    assert "first … last" in str(other)


def test_the_error_of_a_task_is_told_whole_and_without_rays_traceback() -> None:
    cause = RecipeError("there is no model there\nname another folder")
    raised = RayTaskError("merge", "Traceback: \x1b[36mray::merge()", cause).as_instanceof_cause()
    assert isinstance(raised, RecipeError)  # which its text is not
    assert str(unwrap_error(raised)) == str(cause)
    outer = RuntimeError("the pipeline ended")
    outer.__cause__ = raised
    assert unwrap_error(outer) is cause
