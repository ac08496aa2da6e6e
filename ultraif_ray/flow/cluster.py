"""The cluster: connecting to it, what it has, and whether it can ever give what a run needs."""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import ray
import yaml
from ray.util.placement_group import placement_group, remove_placement_group

from ultraif_ray.errors import RecipeError, RunError
from ultraif_ray.flow.ray_internals import (
    cluster_status,
    forget_dead_cluster,
    has_autoscaler,
    hide_native_log_line,
    says_what_it_cannot_bring,
    silence_ray_data,
)

CONNECTION_TRIES = 3
"""Times that Ray is started, or a cluster asked, before it counts as not there: a busy machine may miss Ray's own
deadlines, which cannot be set (30 s for a node to start)."""


ANSWERS_S = 15.0
"""Seconds that a cluster has to answer at all. Ray itself would ask for some ten minutes, deaf to Ctrl-C."""


def connect(worker_logs: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine; nothing if that is done already.

    Raises:
        RunError: the cluster does not answer.
    """
    silence_ray_data()
    if ray.is_initialized():
        return
    _check_answers(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray's own warning asks
    local: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's own actors draw a scary line otherwise
        # Ray warns of every process beyond a few per core; ours mostly wait.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
        local = {"address": "local", "include_dashboard": False, "num_cpus": local_cpus()}
    for tries_left in reversed(range(CONNECTION_TRIES)):
        try:
            with hide_native_log_line(), sigterm_kept():
                ray.init(log_to_driver=worker_logs, logging_level=logging.ERROR, **local)
            return
        except Exception as error:
            if "AF_UNIX path length" in str(error):
                raise RunError(
                    f"the path of the temporary folder is too long for Ray's sockets ({error}): set TMPDIR, or for Ray "
                    "alone RAY_TMPDIR, to a short one, such as /tmp"
                ) from error
            slow = isinstance(error, ConnectionError) or type(error) is Exception  # as Ray says that a node took long
            if not (slow or isinstance(error, RuntimeError | ValueError)):
                raise
            if not (slow and tries_left):
                raise RunError(f"Ray at {os.environ.get('RAY_ADDRESS', 'this machine')}: {error}") from error


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Ray takes SIGTERM over as it starts, and ends the process without a word: give it back to whoever had it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Look whether a Ray may be at an address: something that speaks its protocol.

    Raises:
        RunError: nothing does.
    """
    if address == "auto":
        forget_dead_cluster()
    place = address.removeprefix("ray://")
    if place.startswith(("http://", "https://")):
        raise RunError(
            f"RAY_ADDRESS is {address}, the address of a dashboard, as `ray job submit` wants it: give the one of the "
            "cluster's head here, such as HOST:6379, or unset it to run on this machine"
        )
    if ":" not in place or "://" in place or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # where it is, or with which keys it speaks, is Ray's to find out
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWERS_S)
        except grpc.FutureTimeoutError:
            raise RunError(
                f"no Ray answers at {address} (RAY_ADDRESS) in {ANSWERS_S:.0f} s: start the cluster, give the address "
                "of its head, such as HOST:6379, or unset it to run on this machine"
            ) from None


READING_AND_WRITING = 2
"""Logical CPUs that Ray Data needs beside the workers: for the tasks that read and write, and on resume for the actor
that leaves out what is done."""


def local_cpus() -> int:
    """Logical CPUs of a Ray of our own: the cores, and what reads and writes beside them and mostly waits."""
    return len(os.sched_getaffinity(0)) + READING_AND_WRITING


@dataclass(frozen=True)
class Node:
    """What one node has in all, by Ray's resource names, and its labels."""

    resources: Mapping[str, float]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def gpu_models(self) -> list[str]:
        """Of its GPUs, by Ray's names."""
        return [name.partition(":")[2] for name in self.resources if name.startswith("accelerator_type:")]


@dataclass(frozen=True)
class Cluster:
    """The nodes that are up, and whether an autoscaler may add others: of which types, where that is known."""

    nodes: tuple[Node, ...]
    grows: bool = False
    types: tuple[Node, ...] = ()

    @property
    def total(self) -> dict[str, float]:
        """All nodes together, by Ray's resource names."""
        return dict(sum((Counter(node.resources) for node in self.nodes), Counter()))


@dataclass(frozen=True)
class Need:
    """Something that must be placed `count` times, each on one node."""

    what: str
    count: int
    each: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    advice: str = "add nodes"
    """What to do where the cluster cannot hold it."""


def cluster() -> Cluster:
    """The cluster that is connected."""
    _autoscaler_has_a_type_for.cache_clear()
    alive = [node for node in ray.nodes() if node["Alive"]]
    grows = has_autoscaler()
    nodes = tuple(Node(node["Resources"], node.get("Labels", {})) for node in alive)
    return Cluster(nodes, grows, _types() if grows else ())


def _types() -> tuple[Node, ...]:
    """What the autoscaler of Ray's cluster launcher may add. It keeps its configuration on the head, where jobs run."""
    with suppress(OSError, yaml.YAMLError):
        config = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text()) or {}
        types = config.get("available_node_types", {})
        workers = [kind for name, kind in types.items() if name != config.get("head_node_type")]
        if all(kind.get("resources") for kind in workers):  # else a provider finds them out when a machine is up
            return tuple(Node(kind["resources"], kind.get("labels") or {}) for kind in workers)
    return ()


def this_machine() -> Cluster:
    """What a Ray of our own would have here, without starting it."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return Cluster((Node({"CPU": float(local_cpus())} | ({"GPU": float(gpus)} if gpus else {})),))


def check_needs(needs: Sequence[Need], cluster: Cluster) -> None:
    """Refuse what could never be scheduled; where an autoscaler may add nodes, how many is for it to say.

    Raises:
        RecipeError: naming what is asked and what there is.
    """
    for need in needs:
        if not need.count or any(places(node, need) for node in (*cluster.nodes, *cluster.types)):
            continue
        if (
            cluster.grows
            and not cluster.types
            and _autoscaler_has_a_type_for(tuple(sorted(need.each.items())), tuple(sorted(need.labels.items())))
        ):
            continue
        each = ", ".join(f"{amount:g} {name}" for name, amount in need.each.items())
        wanted = f"{each or 'nothing'}" + (f" and the labels {need.labels}" if need.labels else "")
        nowhere = "no node of the cluster has" + (", nor one that its autoscaler may add" if cluster.grows else "")
        raise RecipeError(f"{need.what} asks for {wanted} on one node, which {nowhere}: {need.advice}")
    if cluster.grows:
        return
    wanted_in_all: Counter[str] = Counter()
    for need in needs:
        wanted_in_all.update({name: amount * need.count for name, amount in need.each.items()})
    for name, amount in wanted_in_all.items():
        has = cluster.total.get(name, 0.0)
        if amount > has + 1e-9:
            whose = ", ".join(f"{n.each[name] * n.count:g} for {n.what}" for n in needs if name in n.each)
            advice = next(need.advice for need in reversed(needs) if name in need.each)
            raise RecipeError(f"the run needs {amount:g} {name} at least ({whose}), the cluster has {has:g}: {advice}")


ANSWER_S = 30.0
"""Seconds that an autoscaler is given to look at a need; it looks every few seconds."""


@cache
def _autoscaler_has_a_type_for(each: tuple[tuple[str, float], ...], labels: tuple[tuple[str, str], ...]) -> bool:
    """Whether the autoscaler may bring a node for this, as far as it says: version 2 (KubeRay's) names what no type of
    its nodes could hold, but not the types themselves. A placement group stands for the need until it has looked.

    What it cannot bring *now*, with machines on their way, counts as what it may bring. Asked once for each need and
    look at the cluster: several steps need the same, but a later look may get a surer answer.
    """
    if not each or not ray.is_initialized() or not says_what_it_cannot_bring():
        return True
    group = placement_group([dict(each)], bundle_label_selector=[dict(labels)] if labels else None)
    try:
        asked = cluster_status().cluster_resource_state.cluster_resource_state_version
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline and not group.wait(timeout_seconds=1):
            said = cluster_status().autoscaling_state
            if said.last_seen_cluster_resource_state_version > asked:
                impossible = any(group.id.hex() in one.details for one in said.infeasible_gang_resource_requests)
                return not impossible or bool(said.pending_instance_requests or said.pending_instances)
        return True
    finally:
        remove_placement_group(group)


JOINING_S = 60.0
"""Seconds that the nodes of a cluster which was just started are waited for."""


def await_room(check: Callable[[Cluster], None]) -> None:
    """Wait until `check` passes on the cluster that is connected, since its nodes may still be joining.

    Raises:
        RecipeError: what `check` says, at once where the cluster is our own, else after `JOINING_S`.
    """
    deadline = time.monotonic() + (JOINING_S if os.environ.get("RAY_ADDRESS") else 0)
    said = False
    while True:
        try:
            return check(cluster())
        except RecipeError as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                print(f"waiting {JOINING_S:.0f} s for nodes: {error}", file=sys.stderr, flush=True)
            said = True
            time.sleep(2)


def places(node: Node, need: Need) -> int:
    """How many of what is needed a node that is free holds at once, and no more than are needed."""
    plain = {key: value for key, value in need.labels.items() if not value.startswith(("!", "in(", "!in("))}
    if any(node.labels.get(key) != value for key, value in plain.items()):
        return 0
    each = (int((node.resources.get(name, 0.0) + 1e-9) / amount) for name, amount in need.each.items())
    return min([need.count, *each])
