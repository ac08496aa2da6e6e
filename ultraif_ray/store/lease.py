"""One run at a time in a folder: a small file that the run which holds the folder renews while it lives.

Clocks of two machines are never compared: a run that finds a lease watches whether it is still renewed.
"""

import os
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder

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
        self._me = {"holder": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._beats, self._lost = 0, False
        self._before: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        if (found := self._read()) and not _died_here(found):
            self._watch(found)
        self._write()
        self._stop.wait(0.2)  # of two that came at the same moment the later writer stays
        self.check()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_TAKEN_OVER, _interrupt)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._before is not None:
            signal.signal(_TAKEN_OVER, self._before)
        if self._lost:
            self.check()
        with suppress(OSError):
            self._folder.fs.rm(self._folder.at(LEASE))

    def check(self) -> None:
        """Raises RunError where another run has taken the folder over, as after this one was long suspended."""
        if not self._is_mine():
            self._lost = True
            raise RunError(f"{self._folder}: {_said(self._read())} has taken this folder over; this run stops")

    def _watch(self, found: dict[str, Any]) -> None:
        """Wait until the holder has been silent for long enough; RunError if it is alive."""
        until = time.monotonic() + self._silent_s
        while time.monotonic() < until:
            self._stop.wait(self._beat_s / 4)
            now = self._read()
            if not now:
                return
            if now != found:
                raise RunError(
                    f"{self._folder} is in use by {_said(now)}. Wait for it, stop it, or name another folder with --run"
                )

    def _renew(self) -> None:
        while not self._stop.wait(self._beat_s):
            if not self._is_mine():
                self._lost = True
                if self._before is not None:  # else it was not the main thread that holds the folder
                    signal.pthread_kill(threading.main_thread().ident or 0, _TAKEN_OVER)
                return
            with suppress(Exception):  # a store that is down for a moment must not end the renewals
                self._write()

    def _is_mine(self) -> bool:
        with suppress(Exception):  # what cannot be read now says nothing; stores have errors of their own
            found = self._read()
            return not found or found["holder"] == self._me["holder"]
        return True

    def _read(self) -> dict[str, Any]:
        return self._folder.read_json(LEASE)

    def _write(self) -> None:
        self._beats += 1
        self._folder.write_json({**self._me, "beats": self._beats}, LEASE)


def _died_here(found: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone: then there is nothing to wait for."""
    if found.get("host") != socket.gethostname():
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
