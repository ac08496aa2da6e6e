"""A run whose folder and prompts are on S3, as moto's server has it: killed, gone on with, trained to a model."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.fs
import pytest
import yaml

from tests.s3 import BUCKET
from tests.simulated import prompts_file, rows_of, without_usage
from tests.train.data import kill_with_its_ray, training_recipe, wait_for
from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import NEW, RunFolder
from ultraif_ray.store.lease import LEASE, Lease

pytestmark = pytest.mark.xdist_group("s3")

ROWS = 24


def folder_of(name: str) -> RunFolder:
    return RunFolder(f"s3://{BUCKET}/{name}")


def written_elsewhere(uri: str, data: bytes) -> None:
    """Write as Ray does, past the client that a folder reads with."""
    store, path = pyarrow.fs.FileSystem.from_uri(uri)
    with store.open_output_stream(path) as file:
        file.write(data)


@pytest.mark.usefixtures("s3")
def test_what_another_process_writes_is_seen_at_once() -> None:
    """Stores' clients remember listings, with sizes and versions of files, unless they are told not to."""
    folder = folder_of("seen")
    folder.write_json({"state": "running"}, "step", "manifest.json")
    assert folder.names("step") == ["manifest.json"]
    assert folder.names("step", "rows") == []
    longer = {"state": "done, which is longer"}
    written_elsewhere(folder.uri("step", "manifest.json"), json.dumps(longer).encode())
    written_elsewhere(folder.uri("step", "rows", "a"), b"x")
    assert folder.read_json("step", "manifest.json") == longer
    assert folder.names("step", "rows") == ["a"]
    assert sorted(folder.names("step")) == ["manifest.json", "rows"]
    folder.clear("step", "rows")
    assert folder.names("step") == ["manifest.json"]


@pytest.mark.usefixtures("s3")
def test_of_two_runs_one_has_the_folder_and_then_the_other() -> None:
    folder = folder_of("held")
    assert folder.create({"number": 1}, "file.json")
    assert not folder_of("held").create({"number": 2}, "file.json")
    assert folder.read_json("file.json") == {"number": 1}
    with Lease(folder, beat_s=0.2, silent_s=20) as first:
        with pytest.raises(RunError, match="is in use by"):
            Lease(folder_of("held"), beat_s=0.2, silent_s=20).__enter__()
        first.check()
    with Lease(folder_of("held")):
        pass
    assert folder.names() == ["file.json"]


@pytest.mark.usefixtures("s3")
def test_a_file_that_is_replaced_all_the_time_is_read_whole() -> None:
    folder, stop = folder_of("replaced"), threading.Event()
    folder.write_json({"text": ""}, "lease.json")

    def replace() -> None:
        length = 0
        while not stop.is_set():
            length = (length + 97) % 5000
            folder.write_json({"text": length * "x"}, "lease.json")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(60):
            assert set(folder.read_json("lease.json")) == {"text"}
    finally:
        stop.set()
        writer.join()


def start(recipe: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ultraif_ray.cli", "run", str(recipe), *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
@pytest.mark.usefixtures("s3")
def test_a_run_on_s3_that_is_killed_goes_on_to_its_model(tiny: str, tmp_path: Path) -> None:
    """Its synthesis alone, killed and interrupted: tests/test_cli.py."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_of("whole")
    prompts = f"{BUCKET}/prompts.jsonl"
    folder.fs.put(str(prompts_file(tmp_path, ROWS)), prompts)
    fields = {"max_length": 512, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "num_train_epochs": 1}
    made = training_recipe(
        tmp_path, tiny, count=ROWS, sft=fields | {"save_steps": 2}, train={"workers": {"min": 1, "max": 1}},
        policy={"model": tiny, "lora": {"r": 4}}, composer=None, flow={"rows_per_block": 2}, align={"iterations": 0},
    ).model_dump(mode="json")  # fmt: skip
    made |= {"prompts": [f"s3://{prompts}"], "run": str(folder)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(made))
    slow = "pools.m=" + json.dumps(made["pools"]["m"] | {"tokens_per_s": 300, "rows_in_flight": 2})

    driver = start(recipe, slow)
    try:
        wait_for(lambda: folder.count("synthesize") >= 4, driver)
    finally:
        kill_with_its_ray(driver)
    assert folder.names().count(LEASE) == 1
    first = without_usage(rows_of(folder))
    files = {path: folder.fs.info(path)["LastModified"] for path in folder.data_files("synthesize")}
    assert 4 <= len(first) < ROWS

    driver = start(recipe, "sft.num_train_epochs=8")
    try:
        wait_for(lambda: any(name.startswith("checkpoint_") for name in folder.names("sft", "checkpoints")), driver)
    finally:
        kill_with_its_ray(driver)
    resumed = start(recipe, "sft.num_train_epochs=8")
    said, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, said

    after = without_usage(rows_of(folder))
    assert len(after) == folder.count("synthesize") == ROWS
    assert {id: after[id] for id in first} == first
    assert {path: folder.fs.info(path)["LastModified"] for path in files} == files  # kept, not done again
    ledger = folder.read_json("ledger.json")
    assert list(ledger) == ["ingest", "decompose", "synthesize", "export", "sft"]
    assert all(sum(entry["outcomes"].values()) == entry["input"] for entry in ledger.values())
    assert LEASE not in folder.names()
    assert not [path for path in folder.fs.find(folder.path) if path.endswith(NEW)]
    assert f"model: {folder.uri('model')}" in said
    place = tmp_path / "model"
    folder.fs.get(folder.at("model"), str(place), recursive=True)
    assert AutoTokenizer.from_pretrained(place).chat_template
    learnt, base = AutoModelForCausalLM.from_pretrained(place), AutoModelForCausalLM.from_pretrained(tiny)
    assert any(not (a == b).all() for a, b in zip(learnt.parameters(), base.parameters(), strict=True))
