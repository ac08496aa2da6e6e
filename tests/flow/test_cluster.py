"""Placement on clusters of several nodes, with GPUs that are Ray's numbers and no devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

SPREAD = """
import json, ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from tests.flow.test_graph import laid_out
from ultraif_ray.flow.graph import _placement, cut
from ultraif_ray.method.journey import STAGES
from ultraif_ray.flow.cluster import cluster
from ray.util.placement_group import remove_placement_group

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
for _ in range(2):
    nodes.add_node(num_cpus=2, num_gpus=1)
ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")

class Where:
    def __call__(self, batch):
        inside = placement_group_table(ray.util.get_current_placement_group())
        batch["nodes"] = [len(set(inside["bundles_to_node_id"].values()))] * len(batch["id"])
        return batch

args = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}
recipe = laid_out({"m": {"engine": "vllm", "model": "packaged", "gpus": 2, "args": args}}, "m", "m", "m", "m")
groups = []
options = _placement(recipe, cut(recipe, STAGES)[0], groups)
rows = ray.data.range(4).map_batches(Where, compute=ray.data.ActorPoolStrategy(size=1), **options).take_all()
free = lambda: ray.available_resources().get("GPU", 0)
import time
held = free()
for group in groups:
    remove_placement_group(group)
for _ in range(50):
    if free() == 2: break
    time.sleep(0.2)
print(json.dumps({"nodes": rows[0]["nodes"], "held": held, "free": free(), "grows": cluster().grows}), flush=True)
ray.shutdown()
nodes.shutdown()
"""


def script(code: str, *words: str) -> dict[str, object]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=100, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Ray itself prints to a driver's output too, whenever it likes.
    found: dict[str, object] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


def test_an_engine_of_two_gpus_on_two_nodes_has_a_group_of_its_own_that_is_freed() -> None:
    assert script(SPREAD) == {"nodes": 2, "held": 0, "free": 2, "grows": False}


TWO_POOLS = """
import json, ray, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from tests.simulated import recipe, rows_of
from ultraif_ray.steps.run import run
from ultraif_ray.recipe import parse_recipe

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
for kind in ("a", "b"):
    nodes.add_node(num_cpus=1, num_gpus=2, labels={"kind": kind})
ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
made = recipe(Path(sys.argv[1]), count=24, pools="three")
engine = {"engine": "simulated", "gpus": 1, "cpus": 0.1, "replicas": {"min": 1, "max": 4}}
pools = {"a": engine | {"labels": {"kind": "a"}}, "b": engine, "c": engine | {"labels": {"kind": "b"}}}
folder = run(parse_recipe(made.model_dump() | {"pools": pools}))
print(json.dumps({"rows": len(rows_of(folder))}), flush=True)
ray.shutdown()
nodes.shutdown()
"""


def test_pools_that_want_all_the_gpus_share_them(tmp_path: Path) -> None:
    assert script(TWO_POOLS, str(tmp_path)) == {"rows": 24}


AUTOSCALED = """
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path
import ray
from tests.simulated import recipe, rows_of, with_pool
from ultraif_ray.steps.run import run
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import cluster
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

place, version = Path(sys.argv[1]), sys.argv[2]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
kinds = {
    "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}
provider = {"type": "external", "use_node_id_as_ip": True, "head_ip": "127.0.0.1", "gcs_address": f"127.0.0.1:{port}",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"}
nothing = dict.fromkeys(("head_node", "worker_nodes", "auth", "docker", "file_mounts"), {})
nothing |= dict.fromkeys(("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
                          "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"), [])
os.environ["HOME"] = str(place)
# Where the launcher leaves it; or, as on KubeRay, where a job does not see it.
scaling = place / {"1": "ray_bootstrap_config.yaml", "2": "unseen.yaml"}[version]
scaling.write_text(json.dumps(nothing | {
    "cluster_name": "fake", "max_workers": 2, "idle_timeout_minutes": 5, "upscaling_speed": 1.0, "provider": provider,
    "available_node_types": kinds, "head_node_type": "ray.head.default", "file_mounts_sync_continuously": False,
}))
fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default", "RAY_enable_autoscaler_v2": str(int(version == "2"))}
head = subprocess.Popen(
    [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
     "--node-ip-address=127.0.0.1", f"--autoscaling-config={scaling}", "--include-dashboard=false"],
    env=os.environ | fake, start_new_session=True, stdout=(place / "head.log").open("w"), stderr=subprocess.STDOUT)
try:
    for _ in range(100):
        try:
            ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, logging_level="ERROR")
            break
        except ConnectionError:
            time.sleep(0.3)
    for _ in range(100):
        if cluster().grows: break
        time.sleep(0.2)
    before = cluster()
    made = with_pool(recipe(place, count=12), {"engine": "simulated", "gpus": 1, "cpus": 0.5})
    try:
        run(with_pool(made, {"engine": "simulated", "gpus": 4, "cpus": 0.5}))
        refused = ""
    except RecipeError as error:
        refused = str(error)
    folder = run(made)
    print(json.dumps({"grows": before.grows, "refused": refused, "gpus before": before.total.get("GPU", 0),
                      "rows": len(rows_of(folder)),
                      "gpus after": cluster().total.get("GPU", 0)}), flush=True)
finally:
    ray.shutdown()  # a driver whose head goes first dies of it
    os.killpg(head.pid, signal.SIGTERM)
"""


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_run_waits_for_the_nodes_that_an_autoscaler_brings(tmp_path: Path, version: str) -> None:
    """Ray's own autoscalers, whose machines are processes; no GPU node is up when the run begins. What no type of node
    could hold is not waited for, whether the types can be seen (version 1, the launcher's) or not (2, KubeRay's)."""
    found = script(AUTOSCALED, str(tmp_path), version)
    assert found.pop("gpus after") in (1, 2)
    assert "4 GPU on one node, which no node of the cluster has, nor one that its autoscaler" in str(found["refused"])
    del found["refused"]
    assert found == {"grows": True, "gpus before": 0, "rows": 12}
