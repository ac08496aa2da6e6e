"""Ctrl-C, at a moment that a test chooses."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_once(when: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C comes to this process a moment after `when` holds, also where a shell has it ignore that."""

    def interrupt() -> None:
        while not when():
            if ended.wait(0.1):
                return
        if not ended.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if not callable(before):
            signal.signal(signal.SIGINT, before)
