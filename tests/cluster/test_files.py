"""What cannot be run here is checked as far as it goes without a cloud."""

import hashlib
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema
from transformers import LlamaConfig

import ultraif_ray
from ultraif_ray.engine.devices import DRIVERS
from ultraif_ray.engine.vllm import COMPILED
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import Cluster, Node, places
from ultraif_ray.recipe import Recipe, load_recipe
from ultraif_ray.serve.command import TOKEN, needs
from ultraif_ray.serve.served import recipe_of_service
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import check_room
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.train import TrainingStep
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.memory import GB, Footprint, card, check_card, footprint, shapes_of
from ultraif_ray.train.settings import worker_need

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
    (head,) = (c for c in made["head_start_ray_commands"] if "ray start" in c)
    (worker,) = (c for c in made["worker_start_ray_commands"] if "ray start" in c)
    assert all(word in head for word in ("--num-cpus=0", "--dashboard-host=127.0.0.1", "RAY_AUTH_MODE=token"))
    assert "RAY_AUTH_MODE=token" in worker
    (watcher,) = (c for c in made["worker_start_ray_commands"] if "drain.py" in c)
    assert watcher.startswith("RAY_AUTH_MODE=token nohup flock -n ")
    assert f" /home/ray/drain.py --watch {name} " in watcher
    assert watcher.endswith(" </dev/null &")  # it outlives the shell that started it
    assert made["worker_start_ray_commands"].index(watcher) > made["worker_start_ray_commands"].index(worker)
    assert not any("drain.py" in command for command in made["head_start_ray_commands"])


@pytest.mark.parametrize("name", ["self_alignment", "strong_to_weak"])
def test_every_step_of_the_papers_recipes_fits_the_launchers_nodes(name: str, tmp_path: Path) -> None:
    types = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())["available_node_types"]
    workers = tuple(Node(kind["resources"], kind["labels"]) for name, kind in types.items() if name != "head")
    recipe = load_recipe(name)
    folder = RunFolder(str(tmp_path))
    steps = plan(recipe, folder)
    needs = {step.name: step.needs(Context(in_round(recipe, step.round), folder)) for step in steps}
    check_room(needs, Cluster((Node({}),), grows=True, types=workers))
    one_gpu = Cluster((Node({}),), grows=True, types=(Node({"CPU": 12, "GPU": 1}),))
    with pytest.raises(RecipeError, match=r"composer-decompose: a replica of pool .* 4 GPU on one node"):
        check_room(needs, one_gpu)


GIB = 2**30

INSTANCES = {
    "p4de.24xlarge": (Node({"CPU": 96, "GPU": 8, "accelerator_type:A100-80G": 1}), 1152 * GIB),
    "a2-ultragpu-8g": (Node({"CPU": 96, "GPU": 8, "accelerator_type:A100-80G": 1}), 1360 * GB),
}
"""What the launchers' machines have, and bytes of their memory (the providers' tables)."""

LLAMA_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256,
)  # fmt: skip
CONFIGS = {
    "meta-llama/Llama-3.1-8B": LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "HuggingFaceTB/SmolLM2-1.7B": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        vocab_size=49152, tie_word_embeddings=True,
    ),
    "packaged": LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True,
    ),
}  # fmt: skip
"""The published shapes of the models that shipped recipes train."""

SHIPPED = [path.stem for path in (Path(ultraif_ray.__file__).parent / "recipes").glob("*.yaml")]

LIBRARIES = 4 * GIB
"""Of a worker's own memory beside its model: Python, torch, CUDA, NCCL. A guess."""


def gpu_nodes(file: str) -> list[tuple[Node, int]]:
    """The nodes for GPUs that a file asks for, and the bytes of memory that are left to processes there."""
    written = yaml.safe_load((CLUSTER / file).read_text())
    if types := written.get("available_node_types"):
        kinds = [kind["node_config"] for name, kind in types.items() if name != "head"]
        return [INSTANCES[kind.get("InstanceType") or kind["machineType"]] for kind in kinds]
    spec = written["spec"].get("rayClusterSpec") or written["spec"].get("rayClusterConfig") or written["spec"]
    found = []
    for pod in (group["template"]["spec"] for group in spec["workerGroupSpecs"]):
        asked = pod["containers"][0]["resources"]["limits"]
        # The file can only say in words that GPUs have 80 GB.
        node = Node({"CPU": int(asked["cpu"]), "GPU": int(asked["nvidia.com/gpu"]), "accelerator_type:A100-80G": 1})
        memory, shared = asked["memory"], pod["volumes"][0]["emptyDir"]["sizeLimit"]
        found.append((node, (int(memory.removesuffix("Gi")) - int(shared.removesuffix("Gi"))) * GIB))
    return found


def trainings(name: str, tmp_path: Path) -> list[tuple[TrainingStep, Recipe, Footprint]]:
    """The trainings of a shipped recipe, and what one worker of each takes."""
    recipe, found = load_recipe(name), []
    for step in plan(recipe, RunFolder(str(tmp_path))):
        if isinstance(step, TrainingStep):
            its, model = in_round(recipe, step.round), step.model(recipe)
            shapes, lora = shapes_of(CONFIGS[model.model], model.lora), model.lora is not None
            found.append((step, its, footprint(shapes, step.trainer, step.fields(its), lora=lora, train=its.train)))
    return found


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_what_shipped_recipes_train_fits_the_nodes_that_are_asked_for(file: str, tmp_path: Path) -> None:
    trained = {name: trainings(name, tmp_path) for name in SHIPPED}
    assert {name for name, steps in trained.items() if steps} == {
        "base_model", "checked", "demo", "lora_24gb", "self_alignment", "strong_to_weak",
    }  # fmt: skip
    for node, memory in gpu_nodes(file):
        has = card(node.gpu_models)
        assert has
        for step, recipe, takes in (one for steps in trained.values() for one in steps):
            assert not check_card(step.fields_key, takes, has)
            together = places(node, worker_need(recipe.train, recipe.train.workers.max))
            assert together
            assert together * (takes.host + LIBRARIES) < 0.95 * memory  # where Ray begins to kill workers


def test_the_head_of_self_alignment_says_what_its_training_takes(tmp_path: Path) -> None:
    of_gpu, of_host, workers = max(
        (takes.gpu.total, takes.host, takes.workers)
        for _, _, takes in trainings("self_alignment", tmp_path)
        if takes.gpu
    )
    assert workers == 4
    said = (Path(ultraif_ray.__file__).parent / "recipes/self_alignment.yaml").read_text()
    readme = (CLUSTER / "README.md").read_text()
    for text in (f"{of_gpu / GB:.0f} GB of each", f"{of_host / GIB:.0f}"):
        assert text in said
        assert text in " ".join(readme.split())


@pytest.mark.parametrize("name", ["base_model", "lora_24gb"])
def test_adapters_fit_the_24_gb_that_their_recipes_are_for(name: str, tmp_path: Path) -> None:
    for step, _, takes in trainings(name, tmp_path):
        assert takes.gpu
        assert not check_card(step.fields_key, takes, 24 * GB)


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
    assert cluster["workerGroupSpecs"]
    for pod in (group["template"]["spec"] for group in cluster["workerGroupSpecs"]):
        (container,) = pod["containers"]
        hook, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == "/home/ray/drain.py"
        assert all("cluster/drain.py ./" in (CLUSTER / image).read_text() for image in ("Dockerfile", "Dockerfile.cpu"))
        assert pod["terminationGracePeriodSeconds"] >= int(seconds) + 20  # and Ray's own end after it


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
        variables = {one["name"]: one["valueFrom"] for one in group["template"]["spec"]["containers"][0]["env"]}
        assert variables.pop("HF_TOKEN")["secretKeyRef"] == {"name": "huggingface", "key": "token", "optional": True}
        assert list(variables) == (["ULTRAIF_SERVE_TOKEN"] if name == "rayservice" else [])


def test_the_rayservice_is_an_application_that_wants_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = yaml.safe_load((CLUSTER / "kuberay/rayservice.yaml").read_text())["spec"]
    (app,) = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"])).applications
    module, _, builder = app.import_path.partition(":")
    build = getattr(importlib.import_module(module), builder)
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(RecipeError, match=TOKEN):
        build(app.args)
    monkeypatch.setenv(TOKEN, "a-token")
    assert build(app.args)
    with pytest.raises(RecipeError, match=r"unknown: \['override'\]"):
        build(app.args | {"override": []})
    recipe = recipe_of_service(app.args["target"], app.args["overrides"])
    nodes = [node for node, _ in gpu_nodes("kuberay/rayservice.yaml")]
    assert all(any(places(node, need) for node in nodes) for need in needs(recipe))


def pods(name: str) -> dict[str, Any]:
    """The pods that a KubeRay file asks for, by what they are."""
    spec = yaml.safe_load((CLUSTER / f"kuberay/{name}.yaml").read_text())["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    found = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    found["head"] = cluster["headGroupSpec"]["template"]["spec"]
    if "submitterPodTemplate" in spec:
        found["submitter"] = spec["submitterPodTemplate"]["spec"]
    found["head"]["containers"].append(cluster["autoscalerOptions"])  # a container that the operator puts beside
    return found


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_kuberay_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    """What a namespace under the standard `restricted` asks for."""
    for kind, pod in pods(name).items():
        allowed = pod["securityContext"]
        assert (allowed["runAsNonRoot"], allowed["runAsUser"]) == (True, 1000)
        assert "--uid 1000 ray" in (CLUSTER / "Dockerfile").read_text()
        assert allowed["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == rights
        assert kind == "head" or pod["automountServiceAccountToken"] is False
    assert ("submitter" in pods(name)) == (name == "rayjob")


def test_the_network_policy_lets_in_who_has_a_reason() -> None:
    policy = yaml.safe_load((CLUSTER / "kuberay/networkpolicy.yaml").read_text())
    spec, rays = policy["spec"], {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert (spec["podSelector"], spec["policyTypes"]) == (rays, ["Ingress"])
    among, *others = spec["ingress"]
    assert among == {"from": [{"podSelector": rays}]}
    for rule in others:
        assert {port["port"] for port in rule["ports"]} <= {8265, 52365, 8000}  # never Ray's own
        assert all(source["podSelector"]["matchLabels"] for source in rule["from"])
    job = yaml.safe_load((CLUSTER / "kuberay/rayjob.yaml").read_text())
    label = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert [{"podSelector": {"matchLabels": label}}] in [rule["from"] for rule in others]


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_images_are_pinned_by_their_digests(name: str, tmp_path: Path) -> None:
    """The script itself, with a command in docker's place."""
    docker = tmp_path / "docker"
    docker.write_text('#!/usr/bin/env bash\necho "sha256:$(printf %s "$4" | sha256sum | cut -c1-64)"\n')
    docker.chmod(0o755)
    command = [str(CLUSTER / "kuberay/pin.sh"), "reg.example/me", str(CLUSTER / f"kuberay/{name}.yaml")]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    plain = (CLUSTER / f"kuberay/{name}.yaml").read_text()
    digests = {
        tag: hashlib.sha256(f"reg.example/me/ultraif-ray:{tag}".encode()).hexdigest() for tag in ("0.1.0", "0.1.0-cpu")
    }
    for tag in ("0.1.0-cpu", "0.1.0"):
        plain = plain.replace(f"REGISTRY/ultraif-ray:{tag}", f"reg.example/me/ultraif-ray@sha256:{digests[tag]}")
    assert done.stdout.strip() == plain.strip()
    docker.write_text("#!/usr/bin/env bash\necho none\n")
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")


def run_local(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "ULTRAIF_LOCAL_CLUSTER": str(folder)}
    command = [str(CLUSTER / "local.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [("start",), ("add",), ("kill", "1"), ("stop",)])
@pytest.mark.parametrize("kind", ["of somebody else", "a link", "open to all", "with other things in it"])
def test_a_local_cluster_takes_no_folder_that_another_could_have_made(
    tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    """Nothing is written into it, killed by its numbers or deleted."""
    folder, mark = tmp_path / "cluster", "folder-of-local.sh"
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "theirs" / mark).touch()
    bystander = subprocess.Popen(["/usr/bin/sleep", "60"], start_new_session=True)
    (tmp_path / "theirs/node-1.pid").write_text(str(bystander.pid))
    try:
        if kind == "of somebody else" and os.geteuid():
            folder = Path("/usr")  # only root can give a folder away
        elif kind == "a link":
            folder.symlink_to(tmp_path / "theirs")
        else:
            (tmp_path / "theirs").rename(folder)
            if kind == "of somebody else":
                os.chown(folder, 65534, 65534)
            elif kind == "open to all":
                folder.chmod(0o777)
            else:
                (folder / mark).unlink()
        before = sorted(folder.iterdir())
        done = run_local(folder, *words)
        assert done.returncode == 1
        assert "is no folder that this script made for you alone" in done.stderr
        assert sorted(folder.iterdir()) == before
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_where_no_local_cluster_is_there_is_nothing_to_stop(tmp_path: Path) -> None:
    assert run_local(tmp_path / "none", "stop").returncode == 0


def test_the_actions_of_ci_are_named_by_commit() -> None:
    files = list((CLUSTER.parent / ".github").rglob("*.yml"))
    used = [line.split("uses:")[1] for file in files for line in file.read_text().splitlines() if "uses:" in line]
    assert used
    assert all(re.fullmatch(r" \S+@[0-9a-f]{40}  # v\S+", one) for one in used)


def test_torch_on_a_cpu_is_pinned_by_hash() -> None:
    """One for each version of Python and each machine; and whoever installs it asks for them."""
    text = (CLUSTER.parent / "requirements/torch-cpu.txt").read_text()
    assert len(set(re.findall(r"--hash=sha256:[0-9a-f]{64}", text))) == 6
    installed = [
        line
        for file in (CLUSTER.parent / "Makefile", CLUSTER / "Dockerfile.cpu", CLUSTER / "Dockerfile")
        for line in file.read_text().splitlines()
        if re.search(r"-r \S*requirements/", line)
    ]
    assert len(installed) == 6
    assert all("--require-hashes" in line for line in installed)


SECRETS = (
    r"\b(AKIA|ASIA)[A-Z0-9]{12,}", r"-----BEGIN [A-Z ]*PRIVATE KEY", r"\bhf_\w{8,}", r"\bgh[pousr]_\w{16,}",
    # A value after such a name, that is no variable, placeholder, mapping or path.
    r"(?i)(password|passwd|secret|secret_access_key|api_?key|token)[\"']?\s*[:=]\s*[\"']?(?![\"'${*~/(]|token\b)[\w+/-]{12,}",
)  # fmt: skip
"""How providers' keys begin, and what looks like a password."""


def secrets_in(text: str) -> list[str]:
    return [found.group(0) for shape in SECRETS for found in re.finditer(shape, text)]


def test_no_file_holds_a_secret() -> None:
    files = [file for place in (CLUSTER, CLUSTER.parent / "jobs") for file in place.rglob("*") if file.is_file()]
    found = {file.name: secrets_in(file.read_text()) for file in files if file.suffix != ".pyc"}
    assert not {name: texts for name, texts in found.items() if texts}
    assert {"aws.yaml", "raycluster.yaml", "local.sh"} <= found.keys()


@pytest.mark.parametrize(
    "text",
    ["key: AKIA" + "A" * 16, "-----BEGIN RSA " + "PRIVATE KEY-----", "redisPassword: correct-horse-battery",
     "HF_TOKEN=hf_" + "a" * 20, 'AWS_SECRET_ACCESS_KEY="' + "a/B+" * 10 + '"'],
)  # fmt: skip
def test_what_a_secret_looks_like(text: str) -> None:
    assert secrets_in(text)


EXTRAS = {
    "cpu": ("cpu", "train", "eval", "packaged", "cloud", "dev"),
    "gpu": ("gpu", "train", "eval", "packaged", "cloud"),
}
"""What `make lock` puts into each lock."""


@pytest.mark.parametrize("lock", EXTRAS)
def test_the_locks_have_what_the_project_asks_for(lock: str) -> None:
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text())["project"]
    text = (CLUSTER.parent / f"requirements/{lock}.lock").read_text()
    entries = re.findall(r"^(\S+)==(\S+)(.*(?:\n    .*)*)", text, re.MULTILINE)
    pinned = {canonicalize_name(name.split("[")[0]): version for name, version, _ in entries}
    assert len(pinned) > 100
    hashed = re.compile(r"( ;.*)? \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+")
    assert [name for name, _, rest in entries if not hashed.fullmatch(rest)] == []
    assert "://" not in text  # no addresses: who installs says where from
    assert len(entries) == sum(not line.startswith((" ", "#")) for line in text.splitlines())
    asked = project["dependencies"] + [one for extra in EXTRAS[lock] for one in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    overrides = "overrides.txt" if lock == "cpu" else "overrides-gpu.txt"
    left_out = [line.split()[0] for line in (CLUSTER.parent / "requirements" / overrides).read_text().splitlines()]
    assert not {one for one in left_out if one != "#"} & pinned.keys()


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "kuberay/pin.sh"])
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
        "srun": 'while [[ $1 == --* ]]; do shift; done; if [ "$1" = hostname ]; then echo 10.0.0.7; '
        'else echo "mode $RAY_AUTH_MODE, a token of $(printenv RAY_AUTH_TOKEN | wc -c)"; echo "$@"; fi',
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
    assert done.stdout.startswith("mode token, a token of 65\n")  # srun hands its environment on
    assert done.stdout.split("ray ", 1)[1].strip() == (
        "symmetric-run --address 10.0.0.7:20042 --min-nodes 2 --num-cpus=64 --num-gpus=8 -- "
        "env RAY_ADDRESS=10.0.0.7:20042 python jobs/align.py --recipe r.yaml"
    )
    assert subprocess.run([CLUSTER / "slurm.sh"], capture_output=True, check=False).returncode == 2
