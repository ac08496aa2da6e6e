"""What Ray Serve is asked for; what it does with that is in `test_command.py`."""

import pytest

from tests.serve.service import one_pool
from ultraif_ray.errors import RecipeError
from ultraif_ray.recipe import parse_recipe
from ultraif_ray.serve.command import needs
from ultraif_ray.serve.deployment import application
from ultraif_ray.serve.guard import Door


def test_an_engine_that_spreads_over_nodes_is_refused() -> None:
    pool = {
        "engine": "vllm", "model": "org/big", "gpus": 2,
        "args": {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"},
    }  # fmt: skip
    made = parse_recipe(one_pool().model_dump() | {"pools": {"m": pool}})
    with pytest.raises(RecipeError, match=r"pools\.m spreads an engine over nodes"):
        application(made, Door())


def test_a_service_needs_room_for_the_fewest_replicas_of_each_pool() -> None:
    pool = {"engine": "vllm", "model": "org/m", "gpus": 1, "cpus": 4, "replicas": {"min": 2, "max": 5}}
    made = parse_recipe(one_pool().model_dump() | {"pools": {"m": pool}})
    (need,) = needs(made)
    assert (need.count, need.each) == (2, {"CPU": 4.0, "GPU": 1.0})
    assert application(made, Door())
