"""Training throughput: our Ray Train step against plain TRL in one process, on the same examples.

    python -m ultraif_ray.bench.train RUN [--examples N] [--rounds N]

RUN is the folder of a run whose recipe has a policy and whose export is done. Both ways train SFT on the same rows with
the same fields, in turns, each in a process that was just started, and TRL itself tells the time (`train_runtime`:
without start-up and saving of the end model). Prints one JSON line: examples/s of each, and their ratio.
"""

import json
import math
import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.errors import RunError
from ultraif_ray.recipe import Recipe, load_recipe
from ultraif_ray.steps.run import run as run_recipe
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.settings import load_tokenizer, lora_config, trl_arguments, trl_config


def compare(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    examples: Annotated[
        int, typer.Option(min=1, help="Examples to train on; fewer rows are taken several times.")
    ] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="Times each way is measured.")] = 2,
) -> None:
    """Measure both ways in turns, and print the ratio."""
    recipe = load_recipe(f"{run}/recipe.yaml")
    if recipe.policy is None:
        raise RunError(f"{run}: its recipe trains no policy")
    source = Path(run) / "export/sft/train.parquet"
    if not source.exists():
        raise RunError(f"{run}: there is no export/sft/train.parquet")
    table = pq.read_table(source).slice(0, examples)
    epochs = math.ceil(examples / len(table))
    fields = recipe.sft | {"num_train_epochs": epochs, "save_strategy": "no"}
    one = recipe.train.model_copy(update={"workers": type(recipe.train.workers)()})
    recipe = recipe.model_copy(update={"sft": fields, "train": one})
    ours, plain = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            pq.write_table(table, f"{scratch}/train.parquet")
            with multiprocessing.get_context("spawn").Pool(1) as process:
                plain.append(process.apply(_plain, (recipe, f"{scratch}/train.parquet", scratch)))
        with tempfile.TemporaryDirectory() as scratch:
            ours.append(_under_ray(recipe, table, scratch))
    trained_on = epochs * len(table)
    result = {
        "examples": trained_on,
        "plain_examples_per_s": round(trained_on / statistics.median(plain), 3),
        "ray_train_examples_per_s": round(trained_on / statistics.median(ours), 3),
        "ratio": round(statistics.median(plain) / statistics.median(ours), 3),
    }
    print(json.dumps(result), flush=True)


def _plain(recipe: Recipe, examples: str, scratch: str) -> float:
    """TRL as its documentation shows it. Seconds of training."""
    from datasets import load_dataset
    from trl.trainer.sft_trainer import SFTTrainer

    from ultraif_ray.engine.models import resolve_model

    policy = recipe.policy
    assert policy is not None  # noqa: S101 - checked by the caller
    arguments = trl_arguments(
        recipe.sft, gpu=recipe.train.gpus > 0, lora=policy.lora is not None, seed=recipe.seed, held_out=False
    )
    trainer = SFTTrainer(
        model=resolve_model(policy.model),
        args=trl_config("sft", arguments, scratch),
        train_dataset=load_dataset("parquet", data_files=examples, split="train", cache_dir=f"{scratch}/cache"),
        processing_class=load_tokenizer("policy", policy),
        peft_config=lora_config(policy.lora),
    )
    trainer.train()
    return _runtime(trainer.state.log_history)


def _under_ray(recipe: Recipe, table: Any, scratch: str) -> float:
    """The same as a step of a run. Seconds of training."""
    place = Path(scratch) / "export/sft"
    place.mkdir(parents=True)
    pq.write_table(table, place / "train.parquet")
    folder = RunFolder(scratch)
    folder.open_step("export", {})
    folder.finish("export")
    run_recipe(recipe.model_copy(update={"run": scratch}), only="sft")
    with folder.fs.open(folder.at("sft", "metrics.jsonl"), "r") as file:
        return _runtime([json.loads(line) for line in file])


def _runtime(history: list[dict[str, Any]]) -> float:
    return float(next(entry["train_runtime"] for entry in history if "train_runtime" in entry))


if __name__ == "__main__":
    report_errors(lambda: typer.run(compare))
