"""A real Ray cluster of several nodes on this machine, made of processes that can be killed like a cloud kills them.

Every node is a process group of its own. All processes carry a mark in their environment, by which they are found.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
MARK = "ULTRAIF_CHAOS"

OF_A_RUN = ("ray::MapWorker", "RayTrainWorker", "ray::CrashTracker", "ray::Scoreboard", "EngineCore")
"""Names of the processes that a run starts in a cluster."""


class Nodes:
    """A head without CPUs for work, and nodes, none with the gigabyte for which Ray Data's filter of what is done would
    wait for ever.

    Args:
        place: a folder for logs.
        nodes: nodes beside the head.
        cpus: logical CPUs of each.
    """

    def __init__(self, place: Path, nodes: int = 2, cpus: int = 3):
        self.place, self.cpus = place, cpus
        self.mark = uuid.uuid4().hex
        self._groups: dict[str, subprocess.Popen[bytes]] = {}
        self._count = 0
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            MARK: self.mark,
            "RAY_AUTH_MODE": "disabled",
            # A dead node is noticed in seconds instead of half a minute, so that a test is short.
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "4",
            "RAY_health_check_timeout_ms": "5000",
        }
        self.start(nodes)

    def start(self, nodes: int) -> None:
        """Start a new head and nodes."""
        self._scratch = tempfile.mkdtemp(prefix="nodes-")  # short: a socket's path may have some hundred characters
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.environment["RAY_ADDRESS"] = self.address
        self._spawn("head", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        check = [*RAY, "health-check", "--address", self.address]
        deadline = time.monotonic() + 300
        while subprocess.run(check, env=self.environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(0.3)
        for _ in range(nodes):
            self.add()

    def add(self) -> str:
        """Start a node."""
        self._count += 1
        name = f"node-{self._count}"
        self._spawn(name, f"--address={self.address}", f"--num-cpus={self.cpus}")
        return name

    def _spawn(self, name: str, *arguments: str) -> None:
        ours = ["--block", "--disable-usage-stats", "--include-log-monitor=false",
                "--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0",
                "--object-store-memory=200000000", "--memory=500000000", f"--labels=chaos={name}",
                # Nodes that share a folder number their sockets in it; two that start at once take the same number.
                f"--temp-dir={self._scratch}/{name}"]  # fmt: skip
        with (self.place / f"{name}.log").open("ab") as log:
            self._groups[name] = subprocess.Popen(
                [*RAY, "start", *arguments, *ours],
                env=self.environment, start_new_session=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The nodes beside the head."""
        return [name for name in self._groups if name != "head"]

    def on(self, name: str, title: str) -> list[psutil.Process]:
        """The processes of one node whose name begins with `title`."""
        found = []
        with suppress(psutil.Error):
            for process in psutil.Process(self._groups[name].pid).children(recursive=True):
                with suppress(psutil.Error):
                    if " ".join(process.cmdline()).startswith(title):
                        found.append(process)
        return found

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Our living processes whose command line holds `title`."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
                if ours and (title in " ".join(process.cmdline()) or title in process.name()):
                    found.append(process)
        return found

    def raylet(self, name: str, patience_s: float = 300) -> psutil.Process:
        """A node's raylet; one that is still starting is waited for."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for process in psutil.Process(self._groups[name].pid).children(recursive=True):
                with suppress(psutil.Error):
                    if "raylet/raylet" in " ".join(process.cmdline()):
                        return process
            time.sleep(0.2)
        raise AssertionError(f"{name} has no raylet; see {self.place}/{name}.log")

    def kill_group(self, name: str) -> None:
        """Kill a node with all its processes, workers and engines among them, as when a machine goes."""
        group = self._groups.pop(name)
        leader = psutil.Process(group.pid)
        family = [leader, *leader.children(recursive=True)]
        with suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
        for process in family:  # Ray's workers are in groups of their own
            with suppress(psutil.Error):
                process.kill()
        group.wait()

    def kill_raylet(self, name: str) -> None:
        """Kill a node's raylet alone; what it started is left to notice."""
        self.raylet(name).kill()
        group = self._groups.pop(name)
        group.wait(timeout=60)

    def suspend(self, name: str, seconds: float) -> None:
        """Stop a node for longer than Ray waits for it, as when its machine is moved; when it goes on, it has been
        given up, and ends.
        """
        group = self._groups[name]
        leader = psutil.Process(group.pid)
        family = [leader, *leader.children(recursive=True)]
        for process in family:
            with suppress(psutil.Error):
                process.suspend()
        time.sleep(seconds)
        for process in family:
            with suppress(psutil.Error):
                process.resume()
        group.wait(timeout=120)
        del self._groups[name]

    def drain(self, name: str, seconds: float) -> None:
        """Tell Ray that a node will be taken away, as a cloud does for a spot node, and then take it."""
        deadline_s = time.monotonic() + 300
        while not (node_id := self._id(name)):  # the node may still be joining
            assert time.monotonic() < deadline_s, f"{name} did not join"
            time.sleep(0.5)
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        deadline = ["--deadline-remaining-seconds", str(int(seconds))]
        command = [*RAY, "drain-node", "--address", self.address, "--node-id", node_id, *reason, *deadline]
        subprocess.run(command, env=self.environment, capture_output=True, check=True)
        time.sleep(seconds)
        self.kill_group(name)

    def _id(self, name: str) -> str:
        """Ray's id of a node that is alive; empty where there is none."""
        nodes = GcsClient(address=self.address).get_all_node_info()
        alive = GcsNodeInfo.GcsNodeState.Value("ALIVE")
        found = (node_id for node_id, node in nodes.items() if node.labels.get("chaos") == name and node.state == alive)
        return next((node_id.hex() for node_id in found), "")

    def stop(self) -> None:
        """Kill everything."""
        for name in list(self._groups):
            self.kill_group(name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def at_work(self) -> list[psutil.Process]:
        """What is there for a run and should end with it; Ray keeps actors of its own, and workers without work."""
        return [process for title in OF_A_RUN for process in self.processes(title)]


def left_over(look: Callable[[], list[psutil.Process]], patience_s: float = 20) -> list[str]:
    """What `look` still finds once it has had its time to end."""
    deadline = time.monotonic() + patience_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [_words(process)[:100] for process in found]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return f"process {process.pid}"
