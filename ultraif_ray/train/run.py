"""Ray Train and its tasks, seen from the driver."""

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, ParamSpec, TypeVar

import pyarrow.parquet as pq
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ultraif_ray.flow.cluster import await_room, check_needs, connect
from ultraif_ray.flow.graph import unwrap_error
from ultraif_ray.flow.progress import Display
from ultraif_ray.flow.ray_internals import forget_dead_cluster
from ultraif_ray.recipe import Train
from ultraif_ray.store.folder import filesystem
from ultraif_ray.store.ledger import Training
from ultraif_ray.train import tasks
from ultraif_ray.train.job import Job, tokenizer_of, work
from ultraif_ray.train.settings import check_machine, worker_need

P = ParamSpec("P")
Result = TypeVar("Result")

_GROUPS = 2
"""Row groups, of some thousand examples, that a task gives their tokens at a time: seconds of work, some 20 MB."""


def connect_and_wait(train: Train, worker_logs: bool) -> None:
    """Connect to the cluster and wait until it can hold the fewest workers.

    Raises:
        RecipeError: it cannot.
    """
    connect(worker_logs)
    need = worker_need(train)
    await_room(lambda found: check_needs([need], found))


# ---- training --------------------------------------------------------------------------------------------------------


def fit(job: Job, train: Train, step: str, progress_s: float, worker_logs: bool) -> Training:
    """Train under Ray Train; a training of the same folder that died is taken up from its last checkpoint.

    Args:
        job: the training.
        train: where the workers run.
        step: the step's name, for the display.
        progress_s: seconds between two progress lines.
        worker_logs: show what the workers log.

    Raises:
        UltraIFError: what ended it for good.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard's page of training runs
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in the recipe mean the same to workers
    forget_dead_cluster()
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.INFO if worker_logs else logging.ERROR)
    if job.gpu:  # beforehand, on one of their machines: Ray Train connects GPUs before workers run a line of ours
        _run_task(check_machine, train, job)
    fewest, most = train.workers.min, train.workers.max
    with Display(step, 0, progress_s, unit="steps") as display:
        trainer = TorchTrainer(
            work,
            train_loop_config={"job": job, "scoreboard": display.scoreboard},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if job.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=most if fewest == most else (fewest, most),
                use_gpu=job.gpu,
                resources_per_worker=train.asked,
                accelerator_type=train.accelerator_type,
                label_selector=train.labels or None,
                elastic_resize_monitor_interval_s=train.resize_s,
            ),
            run_config=RunConfig(
                name="checkpoints",
                storage_path=job.output,
                failure_config=FailureConfig(max_failures=train.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=train.keep_checkpoints),
            ),
        )
        with _interrupts_kept():
            try:
                trainer.fit()
            except Exception as error:
                raise unwrap_error(error) from error
    logged = tasks.read_metrics(f"{job.output}/metrics.jsonl")
    return Training(
        loss=[round(entry["loss"], 4) for entry in logged if "loss" in entry],
        held_out_loss=[round(entry["eval_loss"], 4) for entry in logged if "eval_loss" in entry],
    )


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


# ---- tasks -----------------------------------------------------------------------------------------------------------


def tokenise(job: Job, source: str, target: str) -> dict[str, int]:
    """Copy the examples that training learns from, with their tokens: over the cluster's CPUs, in the source's order.

    Else TRL's trainer would make the tokens in one process while all other workers wait, GPUs and all.

    Args:
        job: the training.
        source: URI of a Parquet file in TRL's conversational layout.
        target: URI of the copy. Not written when nothing fits or the source is not there.

    Returns:
        Examples by what became of them, see `tasks.tokenise`.
    """
    fs, path = filesystem(source)
    if not fs.exists(path):
        return {}
    with fs.open(path, "rb") as raw:
        file = pq.ParquetFile(raw)
        groups, schema = list(range(file.num_row_groups)), tasks.with_tokens(job, file.schema_arrow)
    task, tokenizer = ray.remote(num_cpus=1)(tasks.tokenise), ray.put(tokenizer_of(job))
    parts = (task.remote(job, tokenizer, source, groups[n : n + _GROUPS]) for n in range(0, len(groups), _GROUPS))
    most = 2 * int(ray.cluster_resources().get("CPU", 1))
    counts: Counter[str] = Counter()
    fs, path = filesystem(target)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as copy, pq.ParquetWriter(copy, schema) as writer:
        waiting = deque(islice(parts, most))  # no more, so that memory stays flat
        while waiting:
            table, outcomes = _get(waiting.popleft())
            waiting.extend(islice(parts, 1))
            writer.write_table(table)
            counts.update(outcomes)
    if not counts["accepted"]:
        fs.rm(path)
    return dict(counts)


def merge(train: Train, model: str, adapter: str, target: str, trust_remote_code: bool) -> None:
    """See `tasks.merge`; runs on a machine like the workers'."""
    _run_task(tasks.merge, train, model, adapter, target, trust_remote_code)


def answer(train: Train, asked: list[tasks.Chats], *, max_new_tokens: int, trust_remote_code: bool) -> list[list[str]]:
    """See `tasks.answer`; runs on a machine like the workers'."""
    return _run_task(
        tasks.answer,
        train,
        asked,
        max_new_tokens=max_new_tokens,
        gpu=train.gpus > 0,
        trust_remote_code=trust_remote_code,
    )


def _run_task(function: Callable[P, Result], train: Train, *args: P.args, **kwargs: P.kwargs) -> Result:
    options: dict[str, Any] = {"num_cpus": train.cpus, "num_gpus": train.gpus, "resources": train.resources or None}
    if train.accelerator_type:
        options["accelerator_type"] = train.accelerator_type
    if train.labels:
        options["label_selector"] = train.labels
    result: Result = _get(ray.remote(function).options(**options).remote(*args, **kwargs))
    return result


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise unwrap_error(error) from error
