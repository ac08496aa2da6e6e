import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import LEASE, Lease


def lease(tmp_path: Path) -> Lease:
    return Lease(RunFolder(str(tmp_path)), beat_s=0.2, silent_s=1.0)


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with lease(tmp_path) as first:
        with (
            pytest.raises(RunError, match=rf"is in use by the run of process {os.getpid()} on .*--run"),
            lease(tmp_path),
        ):
            pass
        first.check()
    assert not (tmp_path / LEASE).exists()
    with lease(tmp_path):
        pass


def take_and_die(folder: Path) -> None:
    with lease(folder):
        os._exit(9)


class CountsReads(RunFolder):
    """A folder that counts how often its lease is looked at."""

    reads = 0

    def read_json(self, *parts: str) -> dict[str, Any]:
        self.reads += 1
        return super().read_json(*parts)


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_without_watching_it(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("spawn").Process(target=take_and_die, args=(tmp_path,))
    holder.start()
    holder.join()
    assert holder.exitcode == 9
    folder = CountsReads(str(tmp_path))
    with Lease(folder, beat_s=0.2, silent_s=1.0):
        assert folder.reads == 3  # what it finds, twice, and once more when nobody else can have it


def test_the_lease_of_another_machine_is_taken_when_it_is_silent(tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text(json.dumps({"holder": "x", "host": "elsewhere", "pid": 1, "beats": 7}))
    with lease(tmp_path) as mine:
        mine.check()


@contextmanager
def beating(tmp_path: Path, holder: str) -> Iterator[None]:
    """Somebody renews the lease of a holder."""
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.05):
            beats += 1
            (tmp_path / f"lease-{holder}").write_text(str(beats))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_holder_of_this_name_in_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its process has a number that means nothing here."""
    holder = {"holder": "x", "host": socket.gethostname(), "pid": 2**22 - 1, "machine": "another pid:[1]"}
    (tmp_path / LEASE).write_text(json.dumps(holder))
    with beating(tmp_path, "x"), pytest.raises(RunError, match="is in use by the run of process 4194303"):
        lease(tmp_path).__enter__()
    assert json.loads((tmp_path / LEASE).read_text()) == holder


def test_of_many_that_start_at_once_one_gets_in_and_the_others_hear_that_the_folder_is_in_use(tmp_path: Path) -> None:
    together, over, said = threading.Barrier(8), threading.Event(), list[str]()

    def start() -> None:
        together.wait()
        try:
            with Lease(RunFolder(str(tmp_path)), beat_s=0.2, silent_s=60):
                said.append("mine")
                over.wait(20)
        except RunError as error:
            said.append(str(error))
        if len(said) == 8:
            over.set()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("mine") == 1
    assert all("is in use by" in one for one in said if one != "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_written_once_and_its_holder_beats_beside_it(tmp_path: Path) -> None:
    """So one that was suspended has nothing to write over another's."""
    with lease(tmp_path):
        written = (tmp_path / LEASE).stat().st_mtime_ns, (tmp_path / LEASE).stat().st_ino
        (beats,) = tmp_path.glob("lease-*")
        first = beats.read_bytes()
        while beats.read_bytes() == first:
            time.sleep(0.05)
        assert ((tmp_path / LEASE).stat().st_mtime_ns, (tmp_path / LEASE).stat().st_ino) == written
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_somebody_deleted_is_taken_again_and_a_second_run_stays_out(tmp_path: Path) -> None:
    with lease(tmp_path) as first:
        held = (tmp_path / LEASE).read_bytes()
        (tmp_path / LEASE).unlink()
        first.check()
        assert (tmp_path / LEASE).read_bytes() == held
        with pytest.raises(RunError, match="is in use"):
            lease(tmp_path).__enter__()


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["", "in the background"])
def test_a_run_that_was_suspended_too_long_stops(tmp_path: Path, on_ctrl_c: Any) -> None:
    """Also one that a script started with `&`, which ignores SIGINT."""
    other = {"holder": "x", "host": "elsewhere", "pid": 1, "beats": 1}
    went_on = False

    def work() -> None:
        nonlocal went_on
        with lease(tmp_path):
            (tmp_path / LEASE).write_text(json.dumps(other))
            threading.Event().wait(5)  # is interrupted
            went_on = True

    before = [signal.signal(signal.SIGINT, on_ctrl_c), signal.getsignal(signal.SIGUSR1)]
    try:
        with pytest.raises(RunError, match="process 1 on elsewhere has taken this folder over"):
            work()
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert not went_on
    assert signal.getsignal(signal.SIGUSR1) == before[1]
    assert json.loads((tmp_path / LEASE).read_text()) == other


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), lease(tmp_path / "file"):
        pass
