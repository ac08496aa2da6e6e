"""One run at a time in a folder: a small file says whose it is, and another, that its holder renews, that it lives.

The lease is created where there is none, in one step, and never written again: so no two runs take it at once, and one
that was long suspended cannot write over another's. Clocks of two machines are never compared: a run that finds a lease
watches whether its holder still beats.
"""

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder, new_id

LEASE = "lease.json"

BEAT_S = 5.0
"""Seconds between two renewals."""

SILENT_S = 4 * BEAT_S
"""Seconds without a renewal after which the holder counts as dead: a few beats, for a slow store."""


_TAKEN_OVER = signal.SIGUSR1
"""What ends the work of a run that lost its folder. SIGINT is ignored where a shell's script started it with `&`."""


def _interrupt(number: int, frame: Any) -> None:
    """End the work as Ctrl-C does."""
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(signal.SIGINT, frame)


class Lease:
    """Holds a run's folder for the length of a `with` block.

    Args:
        folder: the run's folder.
        beat_s: seconds between two renewals.
        silent_s: seconds without one after which another holder counts as dead.

    Raises:
        RunError: on entering, where another run holds the folder.
    """

    def __init__(self, folder: RunFolder, beat_s: float = BEAT_S, silent_s: float = SILENT_S):
        self._folder, self._beat_s, self._silent_s = folder, beat_s, silent_s
        self._me = {"holder": new_id(), "host": socket.gethostname(), "pid": os.getpid(), "machine": this_machine()}
        self._beats, self._lost = 0, False
        self._before: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        while not self._folder.create(self._me, LEASE):
            found = self._read()
            if found and not _died_here(found):
                self._watch(found)
            self._remove(found)
        self._beat()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_TAKEN_OVER, _interrupt)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._before is not None:
            signal.signal(_TAKEN_OVER, self._before)
        with suppress(OSError):
            self._folder.fs.rm(self._place_of(self._me))
        if self._lost:
            self.check()
        with suppress(OSError):
            self._remove(self._me)

    def check(self) -> None:
        """Raises RunError where another run has taken the folder over, as after this one was long suspended."""
        if not self._is_mine():
            self._lost = True
            raise RunError(f"{self._folder}: {_said(self._read())} has taken this folder over; this run stops")

    def _watch(self, found: dict[str, Any]) -> None:
        """Wait until the holder has been silent for long enough; RunError if it is alive."""
        until, before = time.monotonic() + self._silent_s, self._beats_of(found)
        while time.monotonic() < until:
            self._stop.wait(self._beat_s / 4)
            now = self._read()
            if not now:
                return
            if now != found or self._beats_of(found) != before:
                raise RunError(
                    f"{self._folder} is in use by {_said(now)}. Wait for it, stop it, or name another folder with --run"
                )

    def _remove(self, found: dict[str, Any]) -> None:
        """Delete a lease, if it is still the one that was found. Where the store can rename in one step, it is looked
        at again when no other can have taken it.
        """
        if self._read() != found:
            return
        with suppress(FileNotFoundError):
            if self._folder.is_local:
                aside = self._folder.at(f"{LEASE}.{new_id()}")
                self._folder.fs.mv(self._folder.at(LEASE), aside)
                if self._folder.read_json(aside.rsplit("/", 1)[-1]) != found:
                    with suppress(FileExistsError):
                        os.link(aside, self._folder.at(LEASE))  # another's, after all
                self._folder.fs.rm(aside)
            else:
                self._folder.fs.rm(self._folder.at(LEASE))
        if found:
            with suppress(OSError):
                self._folder.fs.rm(self._place_of(found))

    def _renew(self) -> None:
        while not self._stop.wait(self._beat_s):
            if not self._is_mine():
                self._lost = True
                if self._before is not None:  # else it was not the main thread that holds the folder
                    signal.pthread_kill(threading.main_thread().ident or 0, _TAKEN_OVER)
                return
            with suppress(Exception):  # a store that is down for a moment must not end the renewals
                self._beat()

    def _is_mine(self) -> bool:
        with suppress(Exception):  # what cannot be read now says nothing; stores have errors of their own
            found = self._read() or (self._me if self._folder.create(self._me, LEASE) else self._read())
            return not found or found["holder"] == self._me["holder"]
        return True

    def _read(self) -> dict[str, Any]:
        return self._folder.read_json(LEASE)

    def _beat(self) -> None:
        self._beats += 1
        self._folder.fs.pipe_file(self._place_of(self._me), str(self._beats).encode())

    def _beats_of(self, holder: dict[str, Any]) -> bytes:
        """What a holder last said of itself: another text each time."""
        with suppress(FileNotFoundError):
            return bytes(self._folder.fs.cat_file(self._place_of(holder)))
        return b""

    def _place_of(self, holder: dict[str, Any]) -> str:
        return self._folder.at(f"lease-{holder.get('holder')}")


def this_machine() -> str:
    """What tells this machine since it was started, and the container, from others, whatever their host names are."""
    with suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _died_here(found: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone: then there is nothing to wait for."""
    if found.get("host") != socket.gethostname() or found.get("machine") != this_machine():
        return False
    try:
        os.kill(int(found.get("pid", 0)), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _said(found: dict[str, Any]) -> str:
    return f"the run of process {found.get('pid')} on {found.get('host')}"
