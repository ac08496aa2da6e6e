"""A run whose folder and prompts are on S3, as moto's server has it: killed, gone on with, trained to a model."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
import pytest
import yaml

from tests.s3 import BUCKET, s3_server
from tests.simulated import prompts_file, rows_of, without_usage
from tests.train.data import kill_with_its_ray, tiny_model, training_recipe, wait_for
from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import LEASE, Lease

pytestmark = pytest.mark.xdist_group("s3")

ROWS = 24


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The server's environment, set in this process too."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
        yield environment
        fsspec.get_filesystem_class("s3").clear_instance_cache()


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


def slowly(recipe: dict[str, Any]) -> str:
    return "pools.m=" + json.dumps(recipe["pools"]["m"] | {"tokens_per_s": 300, "rows_in_flight": 2})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    "trained", [False, pytest.param(True, marks=pytest.mark.long)], ids=["synthesis", "synthesis and training"]
)
def test_a_run_on_s3_that_is_killed_goes_on_to_its_end(trained: bool, packaged_model: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_of(f"whole/{trained}")
    tiny = tiny_model(packaged_model, tmp_path / "tiny")
    prompts = f"{BUCKET}/prompts/{trained}.jsonl"
    folder.fs.put(str(prompts_file(tmp_path, ROWS)), prompts)
    fields = {"max_length": 512, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "num_train_epochs": 1}
    policy = {"model": tiny, "lora": {"r": 4}} if trained else None
    made = training_recipe(
        tmp_path, tiny, count=ROWS, sft=fields | {"save_steps": 2}, train={"workers": {"min": 1, "max": 1}},
        policy=policy, composer=None, flow={"rows_per_block": 2}, align={"iterations": 0},
    ).model_dump(mode="json")  # fmt: skip
    made |= {"prompts": [f"s3://{prompts}"], "run": str(folder)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(made))

    driver = start(recipe, slowly(made))
    try:
        wait_for(lambda: folder.count("synthesize") >= 4, driver)
        with pytest.raises(RunError, match=rf"is in use by the run of process {driver.pid} on "), Lease(folder):
            pass
    finally:
        kill_with_its_ray(driver)
    assert folder.names().count(LEASE) == 1
    first = without_usage(rows_of(folder))
    files = {path: folder.fs.info(path)["LastModified"] for path in folder.data_files("synthesize")}
    assert 4 <= len(first) < ROWS

    if trained:
        driver = start(recipe, "sft.num_train_epochs=8")
        try:
            wait_for(lambda: any(name.startswith("checkpoint_") for name in folder.names("sft", "checkpoints")), driver)
        finally:
            kill_with_its_ray(driver)
        resumed = start(recipe, "sft.num_train_epochs=8")
    else:
        resumed = start(recipe)
    said, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, said

    after = without_usage(rows_of(folder))
    assert len(after) == folder.count("synthesize") == ROWS
    assert {id: after[id] for id in first} == first
    assert {path: folder.fs.info(path)["LastModified"] for path in files} == files  # kept, not done again
    ledger = folder.read_json("ledger.json")
    assert list(ledger) == ["ingest", "decompose", "synthesize", "export", *(["sft"] if trained else [])]
    assert all(sum(entry["outcomes"].values()) == entry["input"] for entry in ledger.values())
    assert LEASE not in folder.names()
    assert not [path for path in folder.fs.find(folder.path) if ".new" in path or "/new-" in path]
    if not trained:
        return
    assert f"model: {folder.uri('model')}" in said
    place = tmp_path / "model"
    folder.fs.get(folder.at("model"), str(place), recursive=True)
    assert AutoTokenizer.from_pretrained(place).chat_template
    learnt, base = AutoModelForCausalLM.from_pretrained(place), AutoModelForCausalLM.from_pretrained(tiny)
    assert any(not (a == b).all() for a, b in zip(learnt.parameters(), base.parameters(), strict=True))
