"""Parts that end in every way that a part can."""

import os
import signal
import subprocess
import time

from tests.gpu_check.part import Failed, Figures, Here, Skipped


def passes(here: Here) -> Figures:
    print("all is well")
    return {"gpus": here.gpus, "of": {"one": 1}}


def fails(here: Here) -> Figures:
    raise Failed("3 is not 4")


def breaks(here: Here) -> Figures:
    raise ValueError("a long tale\nand its end")


def skips(here: Here) -> Figures:
    raise Skipped("it is too warm")


def crashes(here: Here) -> Figures:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def exits(here: Here) -> Figures:
    print("no memory", flush=True)
    os._exit(3)


def hangs(here: Here) -> Figures:
    """With a process of its own, which must end with it."""
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    time.sleep(600)
    return {}
