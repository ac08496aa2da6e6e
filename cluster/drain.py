#!/usr/bin/env python
"""A node is about to go: no new work comes to it, training saves a checkpoint, and Ray hears of its end at once.

    drain.py [SECONDS]          now: the hook of KubeRay's pods (preStop)
    drain.py --watch aws|gcp    as soon as the cloud says that it takes the machine back

Leaves SECONDS for what is at work there, at most; a node without work goes at once.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import psutil

EVERY_S = 2.0
"""Seconds between two looks. Amazon recommends five at most; Google gives thirty seconds in all."""

MARGIN_S = 5.0
"""Seconds before the machine's end at which Ray leaves it, so that the cluster need not miss it first."""

AGAIN_S = 10.0
"""Seconds after which Ray is told once more: a head that was away does not know, nor of a node that was joining."""

AWS = "http://169.254.169.254"
GOOGLE_LEFT_S = 30.0
"""Seconds from Google's notice to a spot machine's end (Compute Engine, "Spot VMs": preemption process)."""


def main() -> None:
    """Wait for the notice, where there is one to wait for, and leave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=90.0)
    parser.add_argument("--watch", choices=CLOUDS)
    parser.add_argument("--port", help="of the cluster's head, where this machine has nodes of several clusters")
    asked = parser.parse_args()
    leave(watch(CLOUDS[asked.watch]) if asked.watch else asked.seconds, asked.port)


# ---- notices ---------------------------------------------------------------------------------------------------------


def watch(seconds_left: Callable[[], float | None]) -> float:
    """Ask until there is a notice; the seconds that it leaves. A server that does not answer is asked again."""
    said = ""
    while True:
        try:
            if (left := seconds_left()) is not None:
                return max(0.0, left - MARGIN_S)
            fault = ""
        except (OSError, ValueError, KeyError) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault != said:
            say(fault or "the metadata server answers again")
        said = fault
        time.sleep(EVERY_S)


def aws() -> float | None:
    """Seconds until Amazon takes this machine back; None without a notice, which comes two minutes before (EC2's user
    guide, "Spot Instance interruption notices"). Asked in the way of IMDSv2.
    """
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", AWS).rstrip("/")
    token = ask("PUT", f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    try:
        notice = ask("GET", f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return (datetime.fromisoformat(json.loads(notice)["time"]) - datetime.now(UTC)).total_seconds()


def gcp() -> float | None:
    """Seconds until Google takes this machine back; None without a notice (Compute Engine, "Create and use Spot VMs":
    detect preemption).
    """
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    said = ask("GET", f"http://{host}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GOOGLE_LEFT_S if said.strip() == "TRUE" else None


CLOUDS = {"aws": aws, "gcp": gcp}


def ask(method: str, url: str, headers: dict[str, str]) -> str:
    """What the metadata server answers; never through a proxy."""
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - one of the two above
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
        return str(answer.read().decode())


# ---- Ray -------------------------------------------------------------------------------------------------------------


def leave(seconds: float, port: str | None = None) -> None:
    """Drain this machine's node, and end its Ray when nothing is at work there any more, or the seconds are over."""
    deadline = time.monotonic() + seconds
    nodes = raylets(port)
    say(f"{seconds:.0f} s are left; {len(nodes)} node(s) of Ray here")
    told = -math.inf
    while (at_work := alive(nodes)) and (left := deadline - time.monotonic()) > 0:
        if time.monotonic() - told > AGAIN_S:
            for node in at_work:
                drain(node, left)
            told = time.monotonic()
        time.sleep(0.5)
    for node in alive(nodes):
        node.terminate()
    psutil.wait_procs(nodes, timeout=MARGIN_S)


def raylets(port: str | None) -> list[psutil.Process]:
    """The processes of this machine that are a node of Ray's, but for a head: one, but where several nodes are tried
    out on one machine.
    """
    found = []
    for process in psutil.process_iter(["cmdline"]):
        program, *words = process.info["cmdline"] or [""]
        if os.path.basename(program) != "raylet" or "--head" in words:
            continue
        if port in (None, arguments(words)["--gcs-address"].rpartition(":")[2]):
            found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:  # what its parent has not looked at yet
                found.append(process)
    return found


def arguments(words: list[str]) -> dict[str, str]:
    """The arguments of a command line, by name."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def drain(node: psutil.Process, seconds: float) -> None:
    """Tell Ray's head that a node is about to go."""
    said = arguments(node.info["cmdline"])
    command = ["ray", "drain-node", "--address", said["--gcs-address"], "--node-id", said["--node_id"],
               "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the machine is taken away",
               "--deadline-remaining-seconds", str(int(seconds))]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"Ray does not drain it: {done.stderr.strip()[-500:]}")


def say(words: str) -> None:
    """A line for the log."""
    print(f"drain.py: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
