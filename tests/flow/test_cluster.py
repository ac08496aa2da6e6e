"""Placement on clusters of several nodes, with GPUs that are Ray's numbers and no devices.

Each cluster has a process of its own, so that none meets the Ray of other tests.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.simulated import recipe, rows_of, with_pool
from ultraif_ray.errors import RecipeError, RunError, UltraIFError
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import parse_recipe
from ultraif_ray.records import ROLES

pytestmark = pytest.mark.ray

Found = dict[str, Any]


def apart(program: Callable[..., Found], *arguments: Any) -> Found:
    """What a program finds in a process of its own, without Ray's variables of this one."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RAY_")}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            return process.apply_async(program, arguments).get(timeout=600)
    finally:
        del os.environ["RAY_AUTH_MODE"]
        os.environ.update(kept)


def two_nodes(place: Path) -> Found:
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=1, num_gpus=2, labels={"kind": "a"}, resources={"spot": 1})
    nodes.add_node(num_cpus=1, num_gpus=2, labels={"kind": "b"}, resources={"accelerator_type:L4": 1})
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    found = three_pools(place) | spread_engine(place) | bundles_of_a_kind()
    ray.shutdown()
    nodes.shutdown()
    return found


def three_pools(place: Path) -> Found:
    """On which kind of node each role was asked: who asked is in the notes of the engines, where it ran in Ray's."""
    import ray
    from ray._private.state import actors

    from ultraif_ray.steps.run import run

    (replies := place / "replies").mkdir()
    made = recipe(place, count=24, pools="three")
    engine = {"engine": "simulated", "gpus": 1, "cpus": 0.1, "replicas": {"min": 1, "max": 4}, "replies": str(replies)}
    pools = {
        "a": engine | {"accelerator_type": "L4"},
        "b": engine | {"labels": {"kind": "b"}},
        "c": engine | {"resources": {"spot": 0.5}},
    }
    rows = rows_of(run(parse_recipe(made.model_dump() | {"pools": pools})))
    kinds = {node["NodeID"]: node["Labels"].get("kind", "") for node in ray.nodes()}
    kind_of = {str(one["Pid"]): kinds.get(one["Address"]["NodeID"], "") for one in actors().values()}
    asked_on: dict[str, set[str]] = {}
    for file in replies.iterdir():
        for line in file.read_text().splitlines():
            asked_on.setdefault(json.loads(line)["role"], set()).add(kind_of[file.stem])
    return {"rows": len(rows), "asked on": asked_on}


def spread_engine(place: Path) -> Found:
    """An engine over both nodes, whose model is nowhere: it ends as soon as it is placed."""
    import ray
    from ray.util import placement_group_table

    from ultraif_ray.flow.cluster import cluster
    from ultraif_ray.flow.graph import run_pipeline
    from ultraif_ray.store.folder import RunFolder

    args = {"tensor_parallel_size": 4, "distributed_executor_backend": "ray"}
    pool = {"engine": "vllm", "model": "no/such/model", "gpus": 4, "args": args}
    made = parse_recipe({"name": "x", "pools": {"m": pool}, "roles": {role: {"pool": "m"} for role in ROLES}})
    try:
        run_pipeline(made, RunFolder(str(place / "run")), "ingest", "spread", STAGES, 24)
        ended = ""
    except UltraIFError as error:
        ended = str(error)
    groups = placement_group_table().values()
    for _ in range(50):
        free = ray.available_resources().get("GPU", 0)
        if free == 4:
            break
        time.sleep(0.2)
    return {
        "nodes": max(len(set(group["bundles_to_node_id"].values())) for group in groups),
        "ended": ended,
        "free": free,
        "grows": cluster().grows,
    }


def bundles_of_a_kind() -> Found:
    """On which nodes the GPUs of an engine are that may be on several, with an accelerator or with labels."""
    import ray
    from ray.util import placement_group_table, remove_placement_group

    from ultraif_ray.flow.placement import actor_options, cut

    kinds = {node["NodeID"]: node["Labels"].get("kind", "") for node in ray.nodes()}
    found = []
    for kind in ({"accelerator_type": "L4"}, {"labels": {"kind": "a"}}):
        args = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
        pool = {"engine": "vllm", "model": "org/m", "gpus": 2, "args": args} | kind
        made = parse_recipe({"name": "x", "pools": {"m": pool}, "roles": {role: {"pool": "m"} for role in ROLES}})
        groups: list[Any] = []
        actor_options(made, cut(made, STAGES)[0], groups)["ray_remote_args_fn"]()
        ray.get(groups[0].ready(), timeout=60)
        nodes = placement_group_table(groups[0])["bundles_to_node_id"].values()
        found.append(sorted(kinds[node] for node in nodes))
        remove_placement_group(groups[0])
    return {"bundles": found}


def test_pools_run_where_their_labels_accelerators_and_resources_say_and_an_engine_over_two_nodes_gives_them_back(
    tmp_path: Path,
) -> None:
    found = apart(two_nodes, tmp_path)
    assert found.pop("bundles") == [["b", "b"], ["a", "a"]]
    assert found.pop("asked on") == {"decomposer": {"b"}, "composer": {"b"}, "responder": {"a"}, "judge": {"a"}}
    assert "'no/such/model', which is no folder here" in found.pop("ended")
    assert found == {"rows": 24, "nodes": 2, "free": 4, "grows": False}


def autoscaled(place: Path, version: str) -> Found:
    import ray
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    from ultraif_ray.flow.cluster import cluster
    from ultraif_ray.steps.run import run

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["HOME"] = str(place)
    # Where the launcher leaves it; or, as on KubeRay, where a job does not see it.
    scaling = place / {"1": "ray_bootstrap_config.yaml", "2": "unseen.yaml"}[version]
    scaling.write_text(json.dumps(launcher_file(port)))
    fake = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
        "RAY_enable_autoscaler_v2": str(int(version == "2")),
    }
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
         "--node-ip-address=127.0.0.1", f"--autoscaling-config={scaling}", "--include-dashboard=false"],
        env=os.environ | fake, start_new_session=True, stdout=(place / "head.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(100):
            try:
                ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, logging_level="ERROR")
                break
            except ConnectionError:
                time.sleep(0.3)
        for _ in range(100):
            if cluster().grows:
                break
            time.sleep(0.2)
        before = cluster()
        kind = {"accelerator_type": "L4", "labels": {"market": "spot"}, "replicas": {"min": 2, "max": 2}}
        made = with_pool(recipe(place, count=12), {"engine": "simulated", "gpus": 1, "cpus": 0.5, **kind})
        try:
            run(with_pool(made, {"engine": "simulated", "gpus": 4, "cpus": 0.5}))
            refused = ""
        except RecipeError as error:
            refused = str(error)
        folder = run(made)
        brought = [node for node in cluster().nodes if "GPU" in node.resources]
        return {
            "grows": before.grows,
            "refused": refused,
            "gpus before": before.total.get("GPU", 0),
            "rows": len(rows_of(folder)),
            "gpus after": cluster().total.get("GPU", 0),
            "of them": sorted({(*node.gpu_models, node.labels.get("market")) for node in brought}),
        }
    finally:
        ray.shutdown()  # a driver whose head goes first dies of it
        os.killpg(head.pid, signal.SIGTERM)


def launcher_file(port: int) -> dict[str, Any]:
    """A launcher's configuration whose machines are processes: a head, and up to two nodes of one GPU."""
    provider = {
        "type": "external",
        "use_node_id_as_ip": True,
        "head_ip": "127.0.0.1",
        "gcs_address": f"127.0.0.1:{port}",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    }
    more: dict[str, Any] = {"node_config": {}, "min_workers": 0, "max_workers": 2}
    gpu, l4 = {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1, "accelerator_type:L4": 1}
    types = {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": gpu, "labels": {"market": "spot"}} | more,
        "l4": {"resources": l4, "labels": {"market": "on-demand"}} | more,
        "l4-spot": {"resources": l4, "labels": {"market": "spot"}} | more,
    }
    mappings = ("head_node", "worker_nodes", "auth", "docker", "file_mounts")
    lists = ("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
             "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")  # fmt: skip
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "file_mounts_sync_continuously": False,
        **{name: {} for name in mappings},
        **{name: [] for name in lists},
    }


@pytest.mark.parametrize("version", [pytest.param("1", marks=pytest.mark.long), "2"])
def test_a_run_waits_for_the_nodes_that_an_autoscaler_brings(tmp_path: Path, version: str) -> None:
    """Ray's own autoscalers, whose machines are processes; no GPU node is up when the run begins. What no type of node
    could hold is not waited for, whether the types can be seen (version 1, the launcher's) or not (2, KubeRay's).
    Of several types with GPUs the one comes that has the replica's accelerator and labels.
    """
    found = apart(autoscaled, tmp_path, version)
    assert found.pop("of them") == [("L4", "spot")]
    assert found.pop("gpus after") in (1, 2)
    assert "4 GPU on one node, which no node of the cluster has, nor one that its autoscaler" in found.pop("refused")
    assert found == {"grows": True, "gpus before": 0, "rows": 12}


@pytest.mark.parametrize("missed", [Exception("The current node timed out during startup"), ConnectionError("busy")])
def test_a_machine_that_misses_rays_deadline_is_given_others(
    missed: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from ultraif_ray.flow import cluster

    answers: list[Exception | None] = [missed, missed, None]

    def init(**options: Any) -> None:
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster.connect()
    assert not answers
    answers += [missed] * 3
    with pytest.raises(RunError, match=str(missed)):
        cluster.connect()
    assert not answers
    answers.append(ValueError("no such option"))
    with pytest.raises(RunError, match="no such option"):
        cluster.connect()


@pytest.mark.parametrize("what", ["nothing", "a web server"])
def test_an_address_where_no_ray_is_is_told_in_seconds(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself asks for ten minutes. Nothing of it is started here."""
    import ray

    from ultraif_ray.flow import cluster

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "ANSWERS_S", 2.0)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        address = f"127.0.0.1:{server.server_port}"
        if what == "nothing":
            server.server_close()
        else:
            Thread(target=server.serve_forever, daemon=True).start()
        for name in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", name)
            with pytest.raises(RunError, match=rf"no Ray answers at {name} \(RAY_ADDRESS\) in 2 s: start the cluster"):
                cluster.connect()
        if what != "nothing":
            server.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", f"http://{address}")
    with pytest.raises(RunError, match="the address of a dashboard"):
        cluster.connect()


def long_path(place: Path) -> Found:
    from ultraif_ray.flow import cluster

    (long := place / ("x" * 100)).mkdir()
    os.environ["RAY_TMPDIR"] = str(long)
    try:
        cluster.connect()
    except RunError as error:
        return {"said": str(error)}
    return {}


def test_a_temporary_folder_with_a_long_path_is_told_with_the_remedy(tmp_path: Path) -> None:
    assert "set TMPDIR, or for Ray alone RAY_TMPDIR, to a short one" in apart(long_path, tmp_path)["said"]
