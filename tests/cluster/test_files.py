"""What cannot be run here is checked as far as it goes without a cloud."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ultraif_ray.engine.devices import DRIVERS
from ultraif_ray.engine.vllm import COMPILED
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import Cluster, Node
from ultraif_ray.recipe import load_recipe
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import check_room
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder

CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_launcher_files_are_what_ray_takes(name: str) -> None:
    written = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    made = prepare_config(written)
    validate_config(made)
    types = made["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["head"]["max_workers"] == 0
    assert {types[kind]["labels"]["ray.io/market-type"] for kind in types if kind != "head"} == {"spot", "on-demand"}
    assert all("--num-cpus=0" in c and "--dashboard-host=127.0.0.1" in c for c in made["head_start_ray_commands"][1:])
    assert all("RAY_AUTH_MODE=token" in c for c in made["worker_start_ray_commands"][1:])


def test_every_step_of_self_alignment_fits_the_launchers_nodes(tmp_path: Path) -> None:
    types = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())["available_node_types"]
    workers = tuple(Node(kind["resources"], kind["labels"]) for name, kind in types.items() if name != "head")
    recipe = load_recipe("self_alignment")
    folder = RunFolder(str(tmp_path))
    steps = plan(recipe, folder)
    needs = {step.name: step.needs(Context(in_round(recipe, step.round), folder)) for step in steps}
    check_room(needs, Cluster((Node({}),), grows=True, types=workers))
    one_gpu = Cluster((Node({}),), grows=True, types=(Node({"CPU": 12, "GPU": 1}),))
    with pytest.raises(RecipeError, match=r"composer-decompose: a replica of pool .* 4 GPU on one node"):
        check_room(needs, one_gpu)


def test_the_images_have_what_the_launcher_makes_machines_with() -> None:
    for lock in ("cpu", "gpu"):
        pinned = (CLUSTER.parent / f"requirements/{lock}.lock").read_text()
        assert all(f"\n{package}==" in pinned for package in ("boto3", "google-api-python-client"))


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_kuberay_manifests_keep_the_head_free_and_outlast_a_drain(name: str) -> None:
    spec = yaml.safe_load((CLUSTER / f"kuberay/{name}.yaml").read_text())["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group in cluster["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > 30  # RAY's default drain time


def test_the_image_has_no_nvcc_and_turns_off_what_would_ask_for_it() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "build-essential" in text
    assert all(f"{name}=0" in text for name in ("VLLM_USE_FLASHINFER_SAMPLER", *COMPILED))


@pytest.mark.parametrize("file", ["Dockerfile", "aws.yaml", "gcp.yaml", "slurm.sh", "README.md", "../README.md"])
def test_every_way_to_a_gpu_says_which_driver_the_pinned_cuda_wants(file: str) -> None:
    pinned = (CLUSTER.parent / "requirements/gpu.lock").read_text()
    (major,) = {int(found) for found in re.findall(r"^nvidia-cudnn-cu(\d+)==", pinned, re.MULTILINE)}
    assert re.search(rf"driver,? (version )?{DRIVERS[major]}\b", (CLUSTER / file).read_text())


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_kuberay_pods_get_the_hubs_token_where_its_secret_is_there(name: str) -> None:
    spec = yaml.safe_load((CLUSTER / f"kuberay/{name}.yaml").read_text())["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (variable,) = group["template"]["spec"]["containers"][0]["env"]
        assert variable["name"] == "HF_TOKEN"
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "huggingface", "key": "token", "optional": True}


def test_no_file_holds_a_secret() -> None:
    for file in CLUSTER.rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert not any(word in text for word in ("AKIA", "BEGIN PRIVATE", "hf_", "aws_secret")), file


@pytest.mark.parametrize("script", ["drain.sh", "local.sh", "slurm.sh"])
def test_scripts_pass_shellcheck(script: str) -> None:
    checked = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", CLUSTER / script], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_slurm_starts_one_ray_on_every_node_and_runs_the_command(tmp_path: Path) -> None:
    """The script itself, with commands in Slurm's place that say what they were asked."""
    for name, body in {
        "scontrol": "echo node-a; echo node-b",
        "hostname": "echo 10.0.0.7",
        "srun": 'while [[ $1 == --* ]]; do shift; done; if [ "$1" = hostname ]; then echo 10.0.0.7; else echo "$@"; fi',
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip
    command = [str(CLUSTER / "slurm.sh"), "python", "jobs/align.py", "--recipe", "r.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("ray ", 1)[1].strip() == (
        "symmetric-run --address 10.0.0.7:20042 --min-nodes 2 --num-cpus=64 --num-gpus=8 -- "
        "env RAY_ADDRESS=10.0.0.7:20042 python jobs/align.py --recipe r.yaml"
    )
    assert subprocess.run([CLUSTER / "slurm.sh"], capture_output=True, check=False).returncode == 2
