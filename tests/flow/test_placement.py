"""Where a journey is cut, and what can never be scheduled."""

from typing import Any

import pytest

from tests.scripted import recipe
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import Cluster, Node, check_needs
from ultraif_ray.flow.placement import actor_options, cut, needs, resources
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Band, Recipe, parse_recipe

SERVER = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}


def laid_out(pools: dict[str, Any], *names: str) -> Recipe:
    roles = ("decomposer", "composer", "responder", "judge")
    return parse_recipe(
        {"name": "x", "pools": pools, "roles": {r: {"pool": n} for r, n in zip(roles, names, strict=True)}}
    )


def test_self_alignment_is_one_operator() -> None:
    (only,) = cut(laid_out({"m": {"engine": "simulated"}}, "m", "m", "m", "m"), STAGES)
    assert (only.stages, only.pools) == (STAGES, ("m",))


def test_a_pool_per_role_is_cut_at_every_border() -> None:
    pools = {name: {"engine": "simulated"} for name in "abc"}
    operators = cut(laid_out(pools, "a", "b", "c", "c"), STAGES)
    assert [(o.stages, o.pools) for o in operators] == [
        (("decompose",), ("a",)),
        (("compose",), ("b",)),
        (("respond",), ("c",)),
    ]


def test_who_composes_as_it_answers_is_not_cut_between() -> None:
    pools = {name: {"engine": "simulated"} for name in "abc"}
    made = laid_out(pools, "a", "b", "c", "c")
    banded = made.model_copy(update={"synthesize": made.synthesize.model_copy(update={"band": Band()})})
    assert [(o.stages, o.pools) for o in cut(banded, STAGES)] == [
        (("decompose",), ("a",)),
        (("compose", "respond"), ("b", "c")),
    ]


def test_a_server_causes_no_cut_wherever_it_stands() -> None:
    pools = {"m": {"engine": "simulated"}, "s": SERVER}
    for names in [("s", "m", "m", "m"), ("m", "s", "m", "m"), ("m", "m", "s", "m"), ("m", "m", "m", "s")]:
        (only,) = cut(laid_out(pools, *names), STAGES)
        assert only.pools == ("m", "s")
    (only,) = cut(laid_out({"s": SERVER}, "s", "s", "s", "s"), STAGES)
    assert only.pools == ("s",)


def test_two_engines_that_talk_in_turns_share_a_worker_and_its_resources() -> None:
    pools = {n: {"engine": "simulated", "gpus": 1, "cpus": 1} for n in ("policy", "base")}
    made = laid_out(pools, "base", "base", "policy", "base")
    (only,) = cut(made, ("compose", "respond"))
    assert set(only.pools) == {"policy", "base"}
    assert resources(made, only) == {"CPU": 2, "GPU": 2}


def test_a_pool_that_comes_back_after_another_gets_an_operator_of_its_own() -> None:
    pools = {"m": {"engine": "simulated"}, "n": {"engine": "simulated"}}
    assert [o.pools for o in cut(laid_out(pools, "m", "n", "m", "m"), STAGES)] == [("m",), ("n",), ("m",)]


def test_what_can_never_be_scheduled_is_refused_with_the_numbers() -> None:
    pools = {"m": {"engine": "vllm", "model": "packaged", "gpus": 2, "replicas": {"min": 2, "max": 4}}}
    made = laid_out(pools, "m", "m", "m", "m")
    two_nodes = Cluster((Node({"CPU": 2, "GPU": 2}),) * 2)
    check_needs(needs(made, STAGES), two_nodes)
    with pytest.raises(RecipeError, match=r"needs 4 GPU at least .* the cluster has 2"):
        check_needs(needs(made, STAGES), Cluster((Node({"CPU": 4, "GPU": 2}),)))
    with pytest.raises(RecipeError, match=r"needs 4 CPU at least \(2 for reading and writing, 2 for a replica"):
        check_needs(needs(made, STAGES), Cluster((Node({"CPU": 3, "GPU": 4}),)))
    with pytest.raises(RecipeError, match="2 GPU on one node, which no node of the cluster has"):
        check_needs(needs(made, STAGES), Cluster((Node({"CPU": 2, "GPU": 1}),) * 8))
    check_needs(needs(made, STAGES), Cluster((Node({"CPU": 2}),), grows=True))  # the autoscaler brings GPU nodes


def test_labels_and_accelerators_are_part_of_what_fits() -> None:
    pool = {"engine": "vllm", "model": "packaged", "gpus": 1, "labels": {"market": "spot"}, "accelerator_type": "L4"}
    made = laid_out({"m": pool}, "m", "m", "m", "m")
    resources = {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}
    check_needs(needs(made, STAGES), Cluster((Node(resources, {"market": "spot"}),)))
    with pytest.raises(RecipeError, match=r"and the labels \{'market': 'spot'\} on one node"):
        check_needs(needs(made, STAGES), Cluster((Node(resources, {"market": "on-demand"}),)))
    with pytest.raises(RecipeError, match="accelerator_type:L4"):
        check_needs(needs(made, STAGES), Cluster((Node({"CPU": 8, "GPU": 1}, {"market": "spot"}),)))


def test_an_engine_that_ray_spreads_needs_its_gpus_on_no_one_node() -> None:
    args = {"tensor_parallel_size": 4, "distributed_executor_backend": "ray"}
    pool = {"engine": "vllm", "model": "packaged", "gpus": 4, "args": args}
    made = laid_out({"m": pool}, "m", "m", "m", "m")
    check_needs(needs(made, STAGES), Cluster((Node({"CPU": 2, "GPU": 2}),) * 2))
    with pytest.raises(RecipeError, match="needs 4 GPU at least"):
        check_needs(needs(made, STAGES), Cluster((Node({"CPU": 4, "GPU": 2}),)))
    kind = laid_out({"m": pool | {"accelerator_type": "H100"}}, "m", "m", "m", "m")
    with pytest.raises(RecipeError, match=r"a further GPU of a replica of pool 'm' asks for 1 GPU, 0.001 acc.*H100"):
        check_needs(needs(kind, STAGES), Cluster((Node({"CPU": 8}),), grows=True, types=(Node({"CPU": 8, "GPU": 4}),)))


def test_an_engine_that_ray_spreads_is_alone_in_its_worker_and_loads_what_every_node_sees() -> None:
    args = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
    wide = {"engine": "vllm", "model": "org/big", "gpus": 2, "args": args}
    nodes = Cluster((Node({"CPU": 8, "GPU": 8}),))
    beside = laid_out({"m": wide, "n": {"engine": "vllm", "model": "org/small", "gpus": 1}}, "m", "m", "m", "n")
    with pytest.raises(RecipeError, match="pools m and n share a worker, but the GPUs of m may be on several nodes"):
        check_needs(needs(beside, STAGES), nodes)
    check_needs(needs(laid_out({"m": wide, "s": SERVER}, "m", "m", "m", "s"), STAGES), nodes)
    with pytest.raises(RecipeError, match="must all see its model as a folder, but it is s3://bucket/model"):
        check_needs(needs(laid_out({"m": wide | {"model": "s3://bucket/model"}}, "m", "m", "m", "m"), STAGES), nodes)
    with pytest.raises(RecipeError, match=r"replicas are 1 to 4.*set min and max to the same"):
        laid_out({"m": wide | {"replicas": {"min": 1, "max": 4}}}, "m", "m", "m", "m")


def test_resources_of_a_replica() -> None:
    pools = {"m": {"engine": "simulated", "cpus": 0.5, "gpus": 0.25, "resources": {"spot": 1}}}
    made = laid_out(pools, "m", "m", "m", "m")
    assert resources(made, cut(made, STAGES)[0]) == {"CPU": 0.5, "GPU": 0.25, "spot": 1}


def test_ray_is_told_all_that_the_pools_of_a_worker_ask_for() -> None:
    one = {"engine": "simulated", "cpus": 0.5, "gpus": 1, "resources": {"spot": 1}, "labels": {"market": "spot"}}
    other = {"engine": "simulated", "cpus": 1, "gpus": 1, "accelerator_type": "L4", "labels": {"zone": "a"}}
    made = laid_out({"m": one, "n": other}, "m", "m", "m", "n")
    (only,) = cut(made, ("respond",))
    assert actor_options(made, only, []) == {
        "num_cpus": 1.5,
        "num_gpus": 2,
        "accelerator_type": "L4",
        "resources": {"spot": 1},
        "label_selector": {"market": "spot", "zone": "a"},
    }


def test_the_recipe_for_these_tests_has_three_pools() -> None:
    assert len(cut(recipe(), STAGES)) == 3
