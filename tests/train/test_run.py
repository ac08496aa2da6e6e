"""Training under Ray Train for real, on a tiny model: killed and resumed, and as a part of a whole run."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import drain
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.chaos.nodes import Nodes
from tests.evaluate.benchmarks import IFEVAL, written
from tests.interrupts import interrupted_once
from tests.metadata import metadata_server
from tests.processes import descendants
from tests.train.data import (
    check_training,
    example,
    folder_with_sets,
    job_for,
    kill_with_its_ray,
    training_recipe,
    wait_for,
)
from ultraif_ray.cli import app
from ultraif_ray.errors import RecipeError, RunError
from ultraif_ray.recipe import Recipe, Train
from ultraif_ray.steps.model import SHOWN_TOKENS
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import run as run_recipe
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.run import fit
from ultraif_ray.train.tasks import Chats, answer
from ultraif_ray.train.worker import make_trainer

pytestmark = pytest.mark.ray


def start(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ultraif_ray.cli", "train", "sft", str(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("sft/checkpoints/checkpoint_2*"))


def train_workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return descendants(driver.pid, "RayTrainWorker")


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]


def losses(log: list[dict[str, Any]], name: str) -> list[float]:
    return [entry[name] for entry in log if name in entry]


def trainer_alone(model: str, run: Path, **job: Any) -> Any:
    """TRL's own trainer in this process, of a run's examples."""
    place = run / "sft/examples"
    parts = {"train": str(place / "train.parquet"), "held_out": str(place / "held_out.parquet")}
    return make_trainer(job_for("sft", model, run / "alone", **parts, **job), str(run / "alone"), 1, fresh=True)


@pytest.mark.usefixtures("ray_cluster")
def test_a_gpu_that_workers_would_not_find_is_said_before_they_start(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job = job_for("sft", "m", tmp_path / "train.parquet", gpu=True)
    with pytest.raises(RecipeError, match="was to give 1 GPU, but torch is a build without CUDA"):
        fit(job, Train(), "sft", progress_s=30, worker_logs=False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "worker_dies", [False, pytest.param(True, marks=pytest.mark.long)], ids=["driver", "worker and driver"]
)
def test_what_is_killed_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, tiny: str, worker_dies: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers, killed; then one; answers of unlike lengths, and an odd number of them held out. Steps are those of
    a training that nothing befell.
    """
    run = tmp_path / "run"
    folder_with_sets(run, train=44, held_out=5)
    made = training_recipe(
        tmp_path,
        os.path.relpath(tiny),  # a path means the same to the workers
        sft={"max_length": 256, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "num_train_epochs": 2},
        train={
            "workers": {"min": 1, "max": 2},
            "save_every_s": 0.1,
        },  # steps wait for their checkpoints, and it is not over before it is killed
    )
    (run / "recipe.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))

    driver = start(run)
    try:
        wait_for(lambda: checkpoints(run), driver)
        assert len(train_workers(driver)) == 2
        if worker_dies:
            before = checkpoints(run)[-1]
            wait_for(lambda: train_workers(driver), driver)[-1].send_signal(signal.SIGKILL)
            wait_for(lambda: checkpoints(run)[-1] > before, driver)
    finally:
        kill_with_its_ray(driver)
    assert not (run / "sft/model").exists()
    first = logged(run)  # so far

    room_for_one = ["train.cpus=5", "train.save_every_s=1800"]
    app(["train", "sft", str(run), *room_for_one], standalone_mode=False)
    assert ", 1 workers" in capsys.readouterr().err
    seen = np.load(run / "sft/rows_seen.npy")
    for epoch in range(2):
        assert sorted(seen[seen[:, 1] == epoch, 2].tolist()) == list(range(44))
    per_step = Counter(seen[:, 0].tolist())
    assert [per_step[step] for step in range(1, 23)] == ([4] * 11) * 2
    log = logged(run)
    assert log[0] == first[0]  # its seconds too: it was not begun anew
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 23))
    uninterrupted = trainer_alone(tiny, run, fields=dict(made.sft), global_batch=4, seed=made.seed)
    uninterrupted.train()
    for name in ("loss", "eval_loss"):
        assert losses(log, name) == pytest.approx(losses(uninterrupted.state.log_history, name), abs=1e-3)
    held_out = losses(log, "eval_loss")
    assert held_out[-1] < held_out[0]
    of_the_model = trainer_alone(str(run / "sft/model"), run).evaluate()["eval_loss"]
    assert held_out[-1] == pytest.approx(of_the_model, abs=1e-4)
    assert not (run / "sft/checkpoints").exists()
    assert (run / "sft/model/model.safetensors").stat().st_size > 4 * uninterrupted.model.num_parameters()
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["sft"]["outcomes"] == {"trained on": 44, "held out": 5}


@pytest.mark.long
def test_a_node_whose_cloud_gives_notice_leaves_a_checkpoint_behind(tmp_path: Path, tiny: str) -> None:
    """Nothing is saved by schedule here, so the one checkpoint is the notice's. The node, one that the recipe's labels
    name, is watched by the script that the launcher files start.
    """
    run = tmp_path / "run"
    folder_with_sets(run, train=12)
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 60}
    unsaved = fields | {"save_strategy": "steps", "save_steps": 10_000}
    place = {"workers": {"min": 1, "max": 1}, "labels": {"chaos": "in(node-2,node-3)"}}
    made = training_recipe(tmp_path, tiny, sft=unsaved, train=place)
    (run / "recipe.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    cluster = Nodes(tmp_path, nodes=2)
    log = tmp_path / "driver.log"
    environment = cluster.environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        with metadata_server(environment) as metadata, log.open("w") as file:
            driver = subprocess.Popen(
                [sys.executable, "-m", "ultraif_ray.cli", "train", "sft", str(run), "flow.progress_s=1"],
                env=environment | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}, stdout=file, stderr=file, text=True,
            )  # fmt: skip
            watcher = subprocess.Popen(
                [sys.executable, drain.__file__, "--watch", "aws", "--port", cluster.address.rpartition(":")[2]],
                env=environment, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            wait_for(lambda: re.search(r"sft: [1-9]\d*/", log.read_text()) and metadata.asked > 2, driver)
            raylet = cluster.raylet("node-2")
            (worker,) = cluster.processes("RayTrainWorker")
            assert raylet.pid in [parent.pid for parent in worker.parents()]
            assert not checkpoints(run)
            metadata.give_notice(30)
            _, said = watcher.communicate(timeout=600)
            assert watcher.returncode == 0, said
            assert "does not drain" not in said
            assert not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE
            assert len(checkpoints(run)) == 1
            cluster.add()
            assert driver.wait(timeout=600) == 0, log.read_text()
    finally:
        cluster.stop()
    seen = np.load(run / "sft/rows_seen.npy")
    assert len(seen) == 60 * 12
    for epoch in range(60):
        assert sorted(seen[seen[:, 1] == epoch, 2].tolist()) == list(range(12))


def hashes(root: Path) -> dict[str, tuple[str, int]]:
    """Of each file its content and when it was written."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "recipe.yaml"]
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def whole_loop(tmp_path: Path, tiny: str, **sections: Any) -> Recipe:
    fields = {"max_length": 512, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "num_train_epochs": 1}
    return training_recipe(
        tmp_path,
        tiny,
        count=40,
        composer={"model": tiny, "lora": {"r": 4}, "sft": fields, "eval_samples": 2, "min_pairs": 8},
        policy={"model": tiny, "lora": {"r": 4, "lora_alpha": 512}},  # moves much in a step or two
        sft=fields,
        dpo=fields,
        export={"held_out": 0.2},
        synthesize={"judge": "logprob"},
        train={"workers": {"min": 1, "max": 1}, "keep_for_evaluation": 2},
        **sections,
    )


def weights(model: str, run: Path, step: str) -> dict[str, torch.Tensor]:
    """A model's weights, with the adapter that a training step left worked in."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    if step:
        loaded = PeftModel.from_pretrained(loaded, run / step / "model").merge_and_unload()
    found: dict[str, torch.Tensor] = loaded.state_dict()
    return found


def apart(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """How far apart the weights of two models are, at most."""
    assert some.keys() == others.keys()
    return max(float((some[name] - others[name]).abs().max()) for name in some)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_whole_loop_ends_with_a_model_and_is_not_done_twice(tmp_path: Path, tiny: str) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked_of_all = {"benchmarks": {"ifeval": written(tmp_path / "ifeval.jsonl", IFEVAL)}}
    made = whole_loop(tmp_path, tiny, evaluate=asked_of_all)
    interrupts = signal.getsignal(signal.SIGINT)
    with interrupted_once((tmp_path / "run/sft/checkpoints").exists), pytest.raises(KeyboardInterrupt):
        run_recipe(made)
    assert signal.getsignal(signal.SIGINT) is interrupts
    assert RunFolder(made.run_folder).state("sft") == "running"
    folder = run_recipe(made)
    ledger = folder.read_json("ledger.json")
    names = [
        "ingest",
        "decompose",
        "composer",
        "synthesize",
        "export",
        "benchmarks/asked",
        "evaluate/start/asked",
        "sft",
    ]
    names += ["round-1/synthesize", "round-1/export", "evaluate/sft/asked", "round-1/dpo", "evaluate/round-1/asked"]
    assert list(ledger) == names
    for step in names:
        assert sum(ledger[step]["outcomes"].values()) == ledger[step]["input"], step
    assert ledger["composer"]["training"]["evaluated"] == 2
    assert ledger["round-1/dpo"]["training"]["loss"][0] == pytest.approx(0.693, abs=1e-2)  # the policy is the reference
    assert [step.name for step in plan(made, folder) if folder.state(step.name) != "done"] == []

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    assert AutoTokenizer.from_pretrained(tmp_path / "run/model").chat_template
    start, sft, dpo = (weights(tiny, tmp_path / "run", step) for step in ("", "sft", "round-1/dpo"))
    assert min(apart(start, sft), apart(sft, dpo)) > 1e-3  # each training moved it
    assert apart(model.state_dict(), dpo) < 1e-6
    shown = json.loads((tmp_path / "run/model/before_and_after.json").read_text())
    asked = [Chats(place, [shown["prompt"]]) for place in (tiny, str(tmp_path / "run/model"))]
    (before,), (after,) = answer(asked, max_new_tokens=SHOWN_TOKENS, gpu=False, trust_remote_code=False)
    assert before != after
    assert shown["before"].startswith(before)
    assert shown["after"].startswith(after)
    for name in ("sft", "dpo", "composer"):
        assert load_dataset(str(tmp_path / "run/export" / name), split="train").num_rows

    card = (tmp_path / "run/model/README.md").read_text()
    assert "| benchmark | metric | prompts | start | sft | round-1 |" in card
    assert card.count("| ifeval | ") == 4 + 2 * 4  # each figure, and how far the two trainings are from the start
    assert sorted(path.name for path in (tmp_path / "run/evaluation").iterdir() if path.is_dir()) == [
        "round-1",
        "sft",
        "start",
    ]
    (kept,) = (tmp_path / "run/sft/kept").iterdir()
    assert (kept / "adapter_model.safetensors").exists()

    files = hashes(tmp_path / "run")
    run_recipe(made)
    assert hashes(tmp_path / "run") == files

    changed_recipe = whole_loop(tmp_path, tiny, align={"extra_constraints": 2}, evaluate=asked_of_all)
    with pytest.raises(RunError, match=r"Made from it: round-1/export, round-1/dpo, evaluate/round-1/asked, .*, model"):
        run_recipe(changed_recipe)


@pytest.mark.usefixtures("ray_cluster")
def test_a_set_that_exists_already_is_trained_on_with_one_command(
    tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The authors' layout of DPO, fewer pairs than one step takes, from the policy itself."""
    from transformers import AutoModelForCausalLM

    recipe = tmp_path / "tiny.yaml"
    fields = {"max_length": 256, "per_device_train_batch_size": 8, "num_train_epochs": 1}
    made = training_recipe(tmp_path, tiny, dpo=fields | {"learning_rate": 3e-3}, train={"workers": {"max": 1}})
    recipe.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude={"prompts"})))
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": "No.", "history": ["hi", "yes?"]} for n in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps([*pairs, {"prompt": "Say it.", "chosen": "", "rejected": "No."}]))
    words = ["train", "dpo", str(recipe), "--data", str(tmp_path / "pairs.json"), "export.held_out=0"]

    run = tmp_path / "run-dpo"
    app(words, standalone_mode=False)
    ledger = json.loads((run / "ledger.json").read_text())
    assert list(ledger) == ["round-1/export", "round-1/dpo"]
    assert ledger["round-1/export"]["outcomes"] == {"accepted": 3, "no answer": 1}
    assert ledger["round-1/dpo"]["outcomes"] == {"trained on": 3}
    assert ledger["round-1/dpo"]["training"]["loss"][0] == pytest.approx(0.693, abs=1e-2)  # the policy is the reference
    model, base = (AutoModelForCausalLM.from_pretrained(place) for place in (run / "model", tiny))
    assert any(not (a == b).all() for a, b in zip(model.parameters(), base.parameters(), strict=True))
    shown = json.loads((run / "model/before_and_after.json").read_text())
    assert [turn["content"] for turn in shown["prompt"]][:2] == ["hi", "yes?"]
    assert "`pairs.json`" in (run / "model/README.md").read_text()

    before = hashes(run)
    (tmp_path / "pairs.json").unlink()  # read once, it need not be there any more
    app(words, standalone_mode=False)
    app(["train", "dpo", str(run)], standalone_mode=False)
    assert hashes(run) == before
    capsys.readouterr()
    app(["show", str(run)], standalone_mode=False)
    assert "3 accepted, 1 no answer" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_training_on_what_is_not_made_yet_or_holds_nothing_says_so(
    tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """But a round without a pair keeps the policy that it began with."""
    made = training_recipe(tmp_path, tiny, sft={"max_length": 4})
    with pytest.raises(RunError, match="sft is made from export, which is not done; run `ultraif run` first"):
        run_recipe(made, only="sft")
    run = tmp_path / "run"
    folder_with_sets(run, train=3)
    with pytest.raises(
        RunError, match=r"sft: none of the 3 examples in .*/export/sft fits into sft.max_length=4: raise"
    ):
        run_recipe(made, only="sft")
    (run / "export/sft/train.parquet").rename(run / "export/sft/held_out.parquet")
    with pytest.raises(RunError, match=r"sft: all 3 examples in .* are held out: lower export.held_out"):
        run_recipe(training_recipe(tmp_path, tiny), only="sft")
    (run / "export/sft/held_out.parquet").unlink()
    with pytest.raises(RunError, match=r"sft: there is no example to train on in .*: give more .* before is kept, and"):
        run_recipe(training_recipe(tmp_path, tiny), only="sft")
    with pytest.raises(RunError, match="this recipe has no step 'composer'"):
        run_recipe(made, only="composer")
    folder = RunFolder(str(run))
    assert folder.state("sft") != "done"

    for step in ("sft", "round-1/export"):
        folder.open_step(step, {"made": "by hand"})
    for name in ("model", "merged"):
        shutil.copytree(tiny, run / "sft" / name)
    (run / "round-1/export/dpo").mkdir()
    pairs = pa.Table.from_pylist([example(n, "dpo") for n in range(2)])
    pq.write_table(pairs, run / "round-1/export/dpo/train.parquet")
    for step in ("sft", "round-1/export"):
        folder.finish(step)
    run_recipe(training_recipe(tmp_path, tiny, dpo={"max_length": 4}), only="round-1/dpo")
    assert "round-1/dpo: no pair to train on; the policy of sft is kept unchanged" in capsys.readouterr().err
    assert folder.state("round-1/dpo") == "done"
    assert folder.read_json("ledger.json")["round-1/dpo"]["outcomes"] == {"too long": 2}
    for name in ("model", "merged"):
        kept, copied = (
            {path.name: path.read_bytes() for path in (run / step / name).iterdir()} for step in ("sft", "round-1/dpo")
        )
        assert kept == copied


def test_the_environment_of_this_process_is_left_alone(tmp_path: Path, tiny: str) -> None:
    before = dict(os.environ)
    check_training(training_recipe(tmp_path, tiny, sft={"fsdp": True}, train={"gpus": 1}))
    assert dict(os.environ) == before
