"""One part, as its process runs it: `python -m tests.gpu_check.part FUNCTION HERE.json RESULT.json`.

A part is a function of `Here` that returns what it saw. This module is imported before anything is known to work, so it
needs nothing but Python.
"""

import importlib
import json
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["pass", "fail", "skipped"]

Figures = dict[str, Any]
"""What was seen, by name: numbers and texts, or once more by name."""


class Failed(Exception):
    """What was seen is not what should be."""


class Skipped(Exception):
    """Why it could not be looked at here."""


@dataclass(frozen=True)
class Here:
    """Where a part runs, as far as the parts before it have found out.

    Attributes:
        scratch: a folder that all parts share.
        model: the model to ask and to train, a folder or a hub id; empty for a random one.
        gpus: how many there are; 0 is the CPU form.
    """

    scratch: str
    model: str = ""
    gpus: int = 0

    @property
    def asked(self) -> str:
        """The model to ask and to train."""
        return self.model or f"{self.scratch}/model"

    @property
    def adapter(self) -> str:
        """A LoRA adapter on that model."""
        return f"{self.scratch}/adapter"


@dataclass(frozen=True)
class Result:
    """How a part ended, and why where it did not pass."""

    state: State
    why: str = ""
    figures: Figures | None = None


def run(function: str, here: Here) -> Result:
    """Run a part, named as `module:function`; whatever it raises is its result."""
    module, _, name = function.partition(":")
    try:
        return Result("pass", figures=getattr(importlib.import_module(module), name)(here))
    except Skipped as skipped:
        return Result("skipped", str(skipped))
    except Failed as failed:
        return Result("fail", str(failed))
    except Exception as error:  # noqa: BLE001 - a part is here to find out what goes wrong
        traceback.print_exc()
        lines = str(error).strip().splitlines()  # of an error of another process, its traceback
        return Result("fail", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500])


def main(function: str, found: str, target: str) -> None:
    """Run a part on what the file `found` says of this place, and write its result to the file `target`."""
    result = run(function, Here(**json.loads(Path(found).read_text(encoding="utf-8"))))
    Path(target).write_text(json.dumps(asdict(result)), encoding="utf-8")


if __name__ == "__main__":
    from tests.gpu_check import part  # this module under its name, whose exceptions the parts raise

    part.main(*sys.argv[1:])
