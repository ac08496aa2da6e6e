"""Which rows a pipeline takes, and what ended it, in the user's words."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from ray.exceptions import RayTaskError

from tests.simulated import recipe, with_pool
from ultraif_ray.errors import GO_ON, InputError, NodeLost, RecipeError, RunError
from ultraif_ray.flow.graph import blocks_held, lies_in, unwrap_error
from ultraif_ray.flow.placement import Operator
from ultraif_ray.method.journey import STAGES
from ultraif_ray.records import IdSlice


@pytest.mark.parametrize("part", [IdSlice(10, 20), IdSlice(20, 10), IdSlice(0, 5), IdSlice(2**62, 0)])
def test_a_part_of_the_rows_is_a_filter_that_a_read_of_parquet_takes(part: IdSlice) -> None:
    ids = [*range(30), 2**62 - 1, 2**62, 2**63 - 1]
    table = ds.dataset(pa.table({"id": pa.array(ids, pa.int64())}))
    read = table.to_table(filter=lies_in(part).to_pyarrow())
    assert read.column("id").to_pylist() == [number for number in ids if part.holds(number)]


@pytest.mark.parametrize(
    ("rows", "in_flight", "blocks"),
    [
        (1_000_000, 512, 96),  # three times what is in flight
        (4 * 640, 512, 40),  # no more than its part of few rows, or the first that is up would take all
        (100, 512, 32),  # but what is in flight at least
        (1_000_000, 4, 2),  # and one block more than that, where blocks are larger
        (1_000_000, 16, 3),
    ],
)
def test_a_replica_holds_the_rows_that_take_the_places_of_those_that_end(
    tmp_path: Path, rows: int, in_flight: int, blocks: int
) -> None:
    pool = {"engine": "simulated", "rows_in_flight": in_flight, "replicas": {"min": 1, "max": 4}}
    made = with_pool(recipe(tmp_path, flow={"rows_per_block": 16}), pool)
    assert blocks_held(made, Operator(STAGES, ("m",)), rows) == blocks


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


def test_what_nobody_foresaw_in_a_task_is_told_by_its_own_name() -> None:
    cause = TypeError("unsupported operand")
    outer = RuntimeError("User code error\n…\nTo change retry attempts, backoff, or which errors")
    outer.__cause__ = RayTaskError("Worker", "Traceback: ray::Worker()", cause).as_instanceof_cause()
    assert str(unwrap_error(outer)).splitlines()[0] == "the pipeline ended: TypeError: unsupported operand"


def test_what_the_disk_refuses_a_task_is_told_in_one_line_with_how_to_go_on() -> None:
    cause = OSError(28, "No space left on device")
    text = "ray::Write()\n  File …\nOSError: [Errno 28] No space left on device"
    told = unwrap_error(RayTaskError("Write", text, cause).as_instanceof_cause())
    assert isinstance(told, RunError)
    assert not isinstance(told, NodeLost)
    said, how = str(told).splitlines()
    assert "No space left on device" in said
    assert GO_ON in how


def test_what_ray_data_writes_behind_an_error_of_ours_is_left_out() -> None:
    advice = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, ..."
    assert str(unwrap_error(InputError(f"a.json: broken\n{advice}"))) == "a.json: broken"
