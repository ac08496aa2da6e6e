"""Everything that touches private parts of Ray, as read in Ray 2.60.0.

Nothing else in the package imports a private module of Ray or reads an attribute of its that begins with `_`. Each part
says why there is no public way; all are to be read again when the pinned version changes.
"""

import ctypes
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.utils import get_ray_address_file
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.data import DataContext
from ray.data._internal.execution import backpressure_policy
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.experimental.internal_kv import _internal_kv_get

# ---- Ray Data: how many blocks may wait ------------------------------------------------------------------------------

_LIMITS = "ultraif.waiting_blocks"


@dataclass(frozen=True)
class WaitingBlocks:
    """How many blocks may wait in front of the operators of a pipeline."""

    between: int
    """Blocks that may wait between two of our operators."""
    ahead: int
    """Blocks that may be read ahead: as many as the largest pool takes, since by these Ray sees how far to grow."""
    readers: int
    """Tasks that cut blocks for us at once. Each keeps its CPU while there is no room for what it cuts."""


def limit_waiting_blocks(context: DataContext, limits: WaitingBlocks) -> None:
    """Bound the blocks that wait in front of a worker.

    Neither what a fast composer made, which is unsaved work, nor what was read may pile up before a slow responder.
    Ray's own policies bound bytes, and text is small. Ray Data documents no way to add a policy; the list of them is a
    key of the context's, which holds for the datasets that are made under it.
    """
    context.set_config(_LIMITS, limits)
    context.set_config(
        backpressure_policy.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [*backpressure_policy.ENABLED_BACKPRESSURE_POLICIES, _WaitingBlocksPolicy],
    )


class _WaitingBlocksPolicy(BackpressurePolicy):
    def __init__(self, data_context: DataContext, topology: Any, resource_manager: Any):
        super().__init__(data_context, topology, resource_manager)
        self._limits: WaitingBlocks = data_context.get_config(_LIMITS)

    def can_add_input(self, op: Any) -> bool:
        """Whether a task before a worker may begin; what a worker is at counts as made."""
        if _is_worker(op):
            return self._has_room(op, op.metrics.num_tasks_running)
        if not any(map(_is_worker, op.output_dependencies)):
            return True
        return op.metrics.num_tasks_running < self._limits.readers and self._has_room(op, 0)

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """Nothing more of what is read; what a worker made is always taken."""
        return None if _is_worker(op) or self._has_room(op, 0) else 0

    def _has_room(self, op: Any, coming: int) -> bool:
        most = self._limits.between if _is_worker(op) else self._limits.ahead
        for following in filter(_is_worker, op.output_dependencies):
            made, taken = op.metrics.num_task_outputs_generated, following.metrics.num_task_inputs_processed
            return bool(coming + made - taken < most + following.metrics.num_tasks_running)
        return True


def _is_worker(op: Any) -> bool:
    """Whether an operator runs our `Worker`, whose name Ray puts into the operator's."""
    return "Worker" in op.name


# ---- Ray Data: a driver of flat memory -------------------------------------------------------------------------------

_TRIM_S = 10.0
"""Seconds between two times that the driver gives freed memory back."""


def keep_memory_flat(context: DataContext) -> None:
    """Keep the driver's memory flat, however many blocks go by.

    Ray Data notes a kilobyte of every block for each operator until the end, for a report that nobody reads here, and
    has no setting against it. And glibc keeps what Ray's many threads free in arenas of their own, between small things
    that live on.
    """
    context.custom_execution_callback_classes = [ForgetBlocks]


class ForgetBlocks(ExecutionCallback):
    """See `keep_memory_flat`."""

    def __init__(self) -> None:
        self._trimmed = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray Data's scheduling loop."""
        for op in executor._topology:
            if hasattr(op, "_output_blocks_stats"):
                op._output_blocks_stats.clear()
        if time.monotonic() - self._trimmed > _TRIM_S:
            self._trimmed = time.monotonic()
            with suppress(AttributeError):  # another libc than glibc
                ctypes.CDLL(None).malloc_trim(0)


# ---- Ray Data: reading Parquet ---------------------------------------------------------------------------------------


def read_footers_with_one_actor() -> None:
    """Have one actor read the footers of a step's Parquet files, not 32.

    Ray Data starts 32 processes for it at every `read_parquet`, however few the files. On two cores that takes 11 of
    16 s of a small step, and each is one more that may die with its node and is not started again. One actor reads 128
    footers at once, and our steps have some thousand files at most. The setting is an environment variable of the
    driver's, and documented nowhere; a user's own value is kept.
    """
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")


# ---- Ray Data: its log -----------------------------------------------------------------------------------------------


def silence_ray_data() -> None:
    """Leave the terminal to our own words; Ray's log file keeps all. Ray Data has a setting for its progress bars
    alone, and puts its handlers up when it is imported.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ != "SessionFileHandler":
            handler.setLevel(logging.CRITICAL)


# ---- a Ray of our own ------------------------------------------------------------------------------------------------


def forget_dead_cluster() -> None:
    """Delete Ray's note of a cluster on this machine that is gone.

    `ray start` notes the cluster's address in a file, which stays when the cluster is killed. Ray's state API, which
    Ray Train asks at its end, then waits for the dead cluster from inside of any other: 12 to 40 s for each training.
    """
    note = Path(get_ray_address_file(None))
    with suppress(OSError, ValueError):
        host, port = note.read_text().strip().rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            note.unlink()


@contextmanager
def hide_native_log_line() -> Iterator[None]:
    """Keep one line from the terminal that Ray's C++ part writes to file descriptor 2 as it starts: that it has read
    RAY_BACKEND_LOG_LEVEL, which is set to keep it quiet. Everything else that is written meanwhile comes after.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


# ---- the autoscaler --------------------------------------------------------------------------------------------------


def has_autoscaler() -> bool:
    """Whether an autoscaler manages the cluster. Ray does not say so directly: an autoscaler names the types of its
    nodes, and a cluster that was put together by hand has none, or `node_…` for each of its nodes.
    """
    if is_autoscaler_v2():
        return any(node.get("Labels", {}).get("ray.io/node-group") for node in ray.nodes())
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(status).get("autoscaler_report") or {}) if status else {}
    kinds = [*(report.get("active_nodes") or ()), *(report.get("idle_nodes") or ())]
    return any(not kind.startswith("node_") for kind in kinds)


def says_what_it_cannot_bring() -> bool:
    """Whether the autoscaler is of version 2, KubeRay's, which names the needs that no type of its nodes could hold."""
    return bool(is_autoscaler_v2())


def cluster_status() -> Any:
    """What Ray's head knows of nodes, demands, and what the autoscaler last said of them: the protobuf of
    `ray status -v`, which the public `ray.util.state` leaves out.
    """
    client = ray._raylet.GcsClient(ray.get_runtime_context().gcs_address)
    return GetClusterStatusReply.FromString(client.get_cluster_status())


def unplaced() -> list[tuple[int, dict[str, float]]]:
    """What Ray has no room for at the moment: how often, and its resources."""
    found = cluster_status().cluster_resource_state.pending_resource_requests
    return [(one.count, dict(one.request.resources_bundle)) for one in found]


# ---- jobs ------------------------------------------------------------------------------------------------------------


def is_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, which leaves the job's configuration in the environment;
    inside a job there is no public call that says so.
    """
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ
