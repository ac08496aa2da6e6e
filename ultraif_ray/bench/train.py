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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.errors import RunError
from ultraif_ray.recipe import Recipe, load_recipe
from ultraif_ray.steps.run import run as run_recipe
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.checkpointing import ROWS_SEEN
from ultraif_ray.train.settings import load_tokenizer, lora_config, trl_arguments, trl_config


@dataclass(frozen=True)
class Measured:
    """One training: seconds without start-up and saving, optimizer steps, and examples, each as often as it was seen
    (TRL alone: those of its dataset, once).
    """

    seconds: float
    steps: int
    examples: int


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
    ours: list[Measured] = []
    plain: list[Measured] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            pq.write_table(table, f"{scratch}/train.parquet")
            with multiprocessing.get_context("spawn").Pool(1) as process:
                plain.append(process.apply(_plain, (recipe, f"{scratch}/train.parquet", scratch)))
        with tempfile.TemporaryDirectory() as scratch:
            ours.append(_under_ray(recipe, table, scratch))
    trained_on = epochs * len(table)
    if fault := unlike(ours, plain, trained_on):
        raise RunError(f"{run}: {fault}; leave out examples above sft.max_length, and measure again")
    of_ours, of_plain = (statistics.median(one.seconds for one in way) for way in (ours, plain))
    result = {
        "examples": trained_on,
        "plain_examples_per_s": round(trained_on / of_plain, 3),
        "ray_train_examples_per_s": round(trained_on / of_ours, 3),
        "ratio": round(of_plain / of_ours, 3),
    }
    print(json.dumps(result), flush=True)


def unlike(ours: Sequence[Measured], plain: Sequence[Measured], examples: int) -> str:
    """How what the two ways did differs, since then their times say nothing; or empty."""
    seen = {one.examples for one in ours}
    if seen != {examples}:
        return f"the step trained on {sorted(seen)} examples, TRL on {examples}"
    steps = [sorted({one.steps for one in way}) for way in (ours, plain)]
    return "" if steps[0] == steps[1] else f"the step made {steps[0]} optimizer steps, TRL {steps[1]}"


def _plain(recipe: Recipe, examples: str, scratch: str) -> Measured:
    """TRL as its documentation shows it."""
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
    return _measured(trainer.state.log_history, len(trainer.train_dataset))


def _under_ray(recipe: Recipe, table: Any, scratch: str) -> Measured:
    """The same as a step of a run."""
    place = Path(scratch) / "export/sft"
    place.mkdir(parents=True)
    pq.write_table(table, place / "train.parquet")
    folder = RunFolder(scratch)
    folder.open_step("export", {})
    folder.finish("export")
    run_recipe(recipe.model_copy(update={"run": scratch}), only="sft")
    with folder.fs.open(folder.at("sft", "metrics.jsonl"), "r") as file:
        history = [json.loads(line) for line in file]
    return _measured(history, len(np.load(Path(scratch) / "sft" / ROWS_SEEN)))


def _measured(history: list[dict[str, Any]], examples: int) -> Measured:
    end = next(entry for entry in history if "train_runtime" in entry)
    return Measured(float(end["train_runtime"]), int(end["step"]), examples)


if __name__ == "__main__":
    report_errors(lambda: typer.run(compare))
