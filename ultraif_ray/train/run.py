"""A training step, seen from the driver: examples → Ray Train → a model in the step's folder, and its account."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ultraif_ray.data.card import model_card
from ultraif_ray.data.export import export as write_sets
from ultraif_ray.errors import RecipeError, RunError, UnusableReply
from ultraif_ray.flow.cluster import await_room, connect
from ultraif_ray.flow.graph import in_plain_words
from ultraif_ray.flow.progress import Display
from ultraif_ray.flow.trained import is_adapter
from ultraif_ray.method.compose import Composed, accept
from ultraif_ray.recipe import Composer, Policy, Recipe, Train
from ultraif_ray.records import Instruction
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train import tasks
from ultraif_ray.train.job import Job, work
from ultraif_ray.train.settings import check_workers_fit, load_tokenizer, worker_resources

SHOWN_TOKENS = 200
"""Most tokens of the answer that is shown before and after training."""


def train(recipe: Recipe, folder: RunFolder, step: str, inputs: list[str], worker_logs: bool = False) -> None:
    """Run a training step: `composer`, `sft` or `round-N/dpo`.

    Args:
        recipe: the run's recipe.
        folder: the run's folder.
        step: the step's name, which is also its folder.
        inputs: the steps it is made from: the one with the examples, then the one whose model it goes on from.
        worker_logs: show what the workers log.

    Raises:
        RunError: there is nothing to train on, or training failed for good.
        RecipeError: the cluster cannot give the workers that are asked for.
    """
    connect(worker_logs)
    place = recipe.train
    await_room(lambda found: check_workers_fit(place, found))
    kind = step.rpartition("/")[2]
    trained: Composer | Policy = _trained(recipe, kind)
    counts = _examples(recipe, folder, step, inputs[0], trained)
    if not counts["train"].get("accepted"):
        _pass_on(folder, step, inputs, counts)
        return
    job = _job(recipe, folder, step, inputs, trained, held_out=bool(counts["held_out"].get("accepted")))
    _fit(recipe, job, folder, step, worker_logs)
    metrics = tasks.read_metrics(folder.uri(step, "metrics.jsonl"))
    report: dict[str, Any] = {"loss": _losses(metrics), "held_out_loss": _held_out_losses(metrics)}
    pool = recipe.roles.composer.pool
    if recipe.policy and kind != "composer":
        pool = recipe.policy.pool or recipe.roles.responder.pool
    if trained.lora is not None and not is_adapter(recipe, trained, pool):
        target = folder.uri(step, "merged")
        folder.clear(step, "merged")
        _run_task(tasks.merge, place, trained.model, folder.uri(step, "model"), target, trained.trust_remote_code)
    if kind == "composer":
        report |= _try_composer(recipe, folder, trained)
    outcomes = {
        "trained on": counts["train"].get("accepted", 0),
        "held out": counts["held_out"].get("accepted", 0),
        "too long": sum(split.get("too long", 0) for split in counts.values()),
        "no answer": sum(split.get("no answer", 0) for split in counts.values()),
    }
    outcomes = {name: n for name, n in outcomes.items() if n}
    ledger.enter(folder, step, sum(sum(split.values()) for split in counts.values()), outcomes, training=report)


def _trained(recipe: Recipe, kind: str) -> Composer | Policy:
    trained = recipe.composer if kind == "composer" else recipe.policy
    if trained is None:
        section = "composer" if kind == "composer" else "policy"
        raise RecipeError(f"the recipe has no section `{section}`, so there is nothing to train in the step {kind}")
    return trained


# ---- examples --------------------------------------------------------------------------------------------------------


def _examples(
    recipe: Recipe, folder: RunFolder, step: str, source: str, trained: Composer | Policy
) -> dict[str, dict[str, int]]:
    """Put the examples that fit into the step's folder; counts by split."""
    kind = step.rpartition("/")[2]
    place = f"{source}/{kind}"
    if kind == "composer":
        place = "composer/pairs/composer"
        write_sets(recipe, folder, source, "composer/pairs", ("composer",))
    chat_template = trained.chat_template if isinstance(trained, Policy) else None
    tokenizer = load_tokenizer(f"{kind}.model", trained.model, chat_template, trained.trust_remote_code)
    max_length = recipe.trl_fields(kind).get("max_length")
    counts = {}
    for split in ("train", "held_out"):
        copy = folder.uri(step, "examples", f"{split}.parquet")
        source_file = folder.uri(place, f"{split}.parquet")
        counts[split] = _run_task(tasks.measure, Train(), source_file, copy, tokenizer, max_length)
    if not counts["train"].get("accepted") and kind != "dpo":
        found = sum(counts["train"].values())
        why = f"none of the {found} examples fits into max_length={max_length}" if found else "there is no example"
        raise RunError(
            f"{step}: {why} to train on in {folder.uri(place)}: see `ultraif show {folder}` for what became of the "
            "rows, and give more prompts or a better model"
        )
    return counts


def _pass_on(folder: RunFolder, step: str, inputs: list[str], counts: dict[str, dict[str, int]]) -> None:
    """A DPO round that found no pair to train on keeps the policy that it began with, and says so."""
    print(f"{step}: no pair to train on; the policy stays the one of {inputs[1]}", file=sys.stderr, flush=True)
    for part in ("model", "merged"):
        folder.copy((inputs[1], part), (step, part))
    left = {"too long": 0, "no answer": 0, "held out": counts["held_out"].get("accepted", 0)}
    for split in counts.values():
        left |= {reason: left[reason] + split.get(reason, 0) for reason in ("too long", "no answer")}
    ledger.enter(folder, step, sum(left.values()), {reason: n for reason, n in left.items() if n})


# ---- training --------------------------------------------------------------------------------------------------------


def _job(
    recipe: Recipe, folder: RunFolder, step: str, inputs: list[str], trained: Composer | Policy, held_out: bool
) -> Job:
    kind = step.rpartition("/")[2]
    template = trained.chat_template if isinstance(trained, Policy) and kind == "sft" else None
    return Job(
        kind="dpo" if kind == "dpo" else "sft",
        model=trained.model,
        start=folder.uri(inputs[1]) if kind == "dpo" else "",
        chat_template=Path(template).read_text(encoding="utf-8") if template else "",
        trust_remote_code=trained.trust_remote_code,
        lora=trained.lora,
        fields=recipe.trl_fields(kind),
        train=folder.uri(step, "examples", "train.parquet"),
        held_out=folder.uri(step, "examples", "held_out.parquet") if held_out else "",
        output=folder.uri(step),
        global_batch=recipe.global_batch(kind),
        seed=recipe.seed,
        gpu=recipe.train.gpus > 0,
        save_every_s=recipe.train.save_every_s,
    )


def _fit(recipe: Recipe, job: Job, folder: RunFolder, step: str, worker_logs: bool) -> None:
    """Train under Ray Train; a run of the same folder that died is taken up from its last checkpoint."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard's page of training runs
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in the recipe mean the same to workers
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.INFO if worker_logs else logging.ERROR)
    place = recipe.train
    with Display(step, 0, recipe.flow.progress_s, unit="steps") as display:
        trainer = TorchTrainer(
            work,
            train_loop_config={"job": job, "scoreboard": display.scoreboard},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if job.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=_number_of_workers(place),
                use_gpu=job.gpu,
                resources_per_worker=worker_resources(place),
                accelerator_type=place.accelerator_type,
                elastic_resize_monitor_interval_s=place.resize_s,
            ),
            run_config=RunConfig(
                name="checkpoints",
                storage_path=folder.uri(step),
                failure_config=FailureConfig(max_failures=place.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=place.keep_checkpoints),
            ),
        )
        with _interrupts_kept():
            try:
                trainer.fit()
            except Exception as error:
                raise in_plain_words(error) from error


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Ray Train takes over Ctrl-C, ends with success on it, and keeps it when training is over: give it back."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _number_of_workers(place: Train) -> int | tuple[int, int]:
    return place.workers.max if place.workers.min == place.workers.max else (place.workers.min, place.workers.max)


def _losses(metrics: list[dict[str, float]]) -> list[float]:
    return [round(float(entry["loss"]), 4) for entry in metrics if "loss" in entry]


def _held_out_losses(metrics: list[dict[str, float]]) -> list[float]:
    return [round(float(entry["eval_loss"]), 4) for entry in metrics if "eval_loss" in entry]


# ---- after training --------------------------------------------------------------------------------------------------


def _run_task(function: Any, place: Train, *args: Any, **kwargs: Any) -> Any:
    """Run one of `tasks` on a machine like the workers', and give its result."""
    options: dict[str, Any] = {"num_cpus": place.cpus, "num_gpus": place.gpus, "resources": place.resources or None}
    if place.accelerator_type:
        options["accelerator_type"] = place.accelerator_type
    try:
        return ray.get(ray.remote(function).options(**options).remote(*args, **kwargs))
    except ray.exceptions.RayTaskError as error:
        raise in_plain_words(error) from error


def _try_composer(recipe: Recipe, folder: RunFolder, trained: Composer | Policy) -> dict[str, Any]:
    """Let the trained composer answer held-out pairs freely (no schema), and count what could be used."""
    most = trained.tried if isinstance(trained, Composer) else 0
    pairs = tasks.read_examples(folder.uri("composer", "examples", "held_out.parquet"), most)
    if not pairs:
        return {}
    adapter = folder.uri("composer", "model") if trained.lora is not None else ""
    texts = _run_task(
        tasks.answer,
        recipe.train,
        trained.model if adapter else folder.uri("composer", "model"),
        adapter,
        [pair["prompt"] for pair in pairs],
        max_new_tokens=recipe.roles.composer.max_tokens,
        gpu=recipe.train.gpus > 0,
        trust_remote_code=trained.trust_remote_code,
    )
    valid = usable = 0
    for pair, text in zip(pairs, texts, strict=True):
        # What was asked, without the composer's own form around it.
        query = pair["prompt"][-1]["content"].split("[initial query]: ", 1)[1]
        try:
            reply = Composed.model_validate_json(text)
            valid += 1
            before = Instruction(level=0, initial_query=query, query=query, questions=[])
            accept(reply, text, before, recipe.synthesize.min_overlap)
            usable += 1
        except (ValidationError, UnusableReply):
            continue
    return {"tried": len(pairs), "valid_json": round(valid / len(pairs), 3), "usable": round(usable / len(pairs), 3)}


def make_model(recipe: Recipe, folder: RunFolder, last: str, worker_logs: bool = False) -> None:
    """The end of a run: the policy as one plain model folder, with its tokenizer, chat template and a card."""
    policy = _trained(recipe, "model")
    connect(worker_logs)
    model, adapter = folder.uri(last, "model"), ""
    if policy.lora is not None:
        model, adapter = policy.model, folder.uri(last, "model")
        _run_task(tasks.merge, recipe.train, model, adapter, folder.uri("model"), policy.trust_remote_code)
    else:
        folder.copy((last, "model"), ("model",))
    shown = _before_and_after(recipe, folder, policy)
    folder.write_json(shown, "model", "before_and_after.json")
    text = model_card(recipe, folder.read_json("ledger.json"), shown)
    folder.write_text(text, "model", "README.md")


def _before_and_after(recipe: Recipe, folder: RunFolder, policy: Composer | Policy) -> dict[str, Any]:
    """One instruction that the policy was not trained on where there is one, answered by the start and by the end."""
    for split in ("held_out", "train"):
        if found := tasks.read_examples(folder.uri("export", "sft", f"{split}.parquet"), 1):
            break
    else:
        return {}
    chat = found[0]["prompt"]
    options = {
        "max_new_tokens": SHOWN_TOKENS,
        "gpu": recipe.train.gpus > 0,
        "trust_remote_code": policy.trust_remote_code,
    }
    answers = {"split": split, "prompt": chat}
    if not (isinstance(policy, Policy) and policy.chat_template):  # a base model has no way to be asked
        answers["before"] = _run_task(tasks.answer, recipe.train, policy.model, "", [chat], **options)[0]
    answers["after"] = _run_task(tasks.answer, recipe.train, folder.uri("model"), "", [chat], **options)[0]
    return answers
