"""A run folder with training sets ready, and a tiny model that really trains: what the tests here begin with."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow.parquet as pq

from tests.simulated import recipe as simulated_recipe
from ultraif_ray.data.export import schema_of
from ultraif_ray.recipe import Recipe
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.train import TrainingStep
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train import tasks
from ultraif_ray.train.job import Job, tokenizer_of

VOCABULARY = 2048
"""Tokens of the tiny model; in byte-pair encoding, a number is a rank by frequency."""

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")


def tiny_model(packaged: str, folder: Path, tied: bool = True) -> str:
    """SmolLM2's architecture and the 2,048 most frequent tokens of its tokenizer, with 0.2 million random weights; the
    head has its own unless they are `tied`. The whole vocabulary would take most of the time of a small training.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(packaged)
    config.update(
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": tied, "vocab_size": VOCABULARY}
    )  # fmt: skip
    config.layer_types = None
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged).save_pretrained(folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < VOCABULARY}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return str(folder)


def example(number: int, name: str) -> dict[str, Any]:
    """Counting on: something that a tiny model can learn a little of."""
    word = NUMBERS[number % 7]
    prompt = [{"role": "user", "content": f"What follows {word}? Case {number}."}]
    answer = f"After {word} comes {NUMBERS[(number + 1) % 7]}."
    right = [{"role": "assistant", "content": " ".join([answer] * (1 + number % 3))}]  # of unlike lengths
    wrong = [{"role": "assistant", "content": f"Before {word} was {NUMBERS[(number - 1) % 7]}."}]
    if name == "dpo":
        return {"prompt": prompt, "chosen": right, "rejected": wrong, "id": number}
    return {"prompt": prompt, "completion": right, "id": number}


def folder_with_sets(root: Path, train: int, held_out: int = 0) -> RunFolder:
    """A run folder whose export is done, with examples of our own in it."""
    import pyarrow as pa

    for name in ("sft", "dpo"):
        place = root / "export" / name
        place.mkdir(parents=True)
        schema = schema_of(name, "trl")
        for split, numbers in (("train", range(train)), ("held_out", range(train, train + held_out))):
            if numbers:
                rows = [example(n, name) for n in numbers]
                pq.write_table(pa.Table.from_pylist(rows, schema=schema), place / f"{split}.parquet")
    folder = RunFolder(str(root))
    folder.open_step("export", {"made": "by hand"})
    folder.finish("export")
    return folder


def training_recipe(tmp_path: Path, model: str, **sections: Any) -> Recipe:
    """A recipe with simulated roles whose policy is really trained."""
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "learning_rate": 3e-3}
    data: dict[str, Any] = {
        "policy": {"model": model},
        "sft": fields,
        "dpo": fields,
        "train": {"workers": {"min": 2, "max": 2}},
    }
    return simulated_recipe(tmp_path, **(data | sections))


def check_training(recipe: Recipe) -> None:
    """What a run of this recipe checks of its trainings before anything starts."""
    folder = RunFolder(recipe.run_folder)
    for step in plan(recipe, folder):
        if isinstance(step, TrainingStep):
            step.check(Context(in_round(recipe, step.round), folder))


def job_for(kind: Literal["sft", "dpo"], model: str, file: Path, **job: Any) -> Job:
    """A training of the examples in a file."""
    defaults: dict[str, Any] = {
        "kind": kind,
        "model": model,
        "start": "",
        "chat_template": "",
        "trust_remote_code": False,
        "lora": None,
        "fields": {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 1},
        "train": str(file),
        "held_out": "",
        "output": str(file.parent),
        "global_batch": 2,
        "seed": 0,
        "gpu": False,
        "save_every_s": 1e9,
    }
    return Job(**(defaults | job))


def write_tokenised(job: Job, examples: list[dict[str, Any]]) -> dict[str, int]:
    """Write the file that a training reads; what became of its examples."""
    import pyarrow as pa

    source = Path(job.train).with_name("examples.parquet")
    pq.write_table(pa.Table.from_pylist(examples), source)
    table, outcomes = tasks.tokenise(job, tokenizer_of(job), str(source), [0])
    pq.write_table(table, job.train)
    return outcomes


def wait_for(what: Callable[[], Any], driver: subprocess.Popen[str], seconds: float = 600) -> Any:
    """What `what` gives once it gives anything, while the driver lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        assert driver.poll() is None, driver.stdout and driver.stdout.read()
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def kill_with_its_ray(driver: subprocess.Popen[str]) -> None:
    """Kill a driver, and wait until the Ray that it started has gone too."""
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    psutil.wait_procs(family, timeout=30)
