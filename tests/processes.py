"""Processes that a test looks for while they come and go."""

from contextlib import suppress

import psutil


def descendants(pid: int, *titles: str) -> list[psutil.Process]:
    """The processes that one has started, and those have, whose name or command line holds every one of `titles`.
    What ends while it is looked at is none of them.
    """
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = " ".join([process.name(), *process.cmdline()])
            if all(title in words for title in titles):
                found.append(process)
    return found
