"""What no CPU can prove, looked at in under ten minutes: a table of what passes and what does not.

    python -m tests.gpu_check [PART ...] [--model MODEL] [--json OUT] [--within S]     (`make gpu-check`)

It takes the Python and the libraries that are there, installs nothing, and wants no network unless MODEL is on the
hub. Each part runs in a process of its own, with a limit. Where there is no GPU it takes a CPU form, and says what that
leaves out. Exits with 1 where a part fails; one that is skipped says why.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tests.gpu_check.part import Figures, Here, Result

ROOT = Path(__file__).parents[2]

TEN_MINUTES = 570.0
"""Seconds for all parts together, for which their own limits are made; those that have no time left are skipped."""

LEAST = 15.0
"""Seconds without which no part is begun."""

LOG_LINES = 60
"""Lines of a failed part's output that are shown."""

LEFT_OUT = (
    "Without a GPU this left out: 512 sequences (64 here), bfloat16 in engines (float32), NCCL (gloo, two processes), "
    "a model of a billion weights (a million), CUDA graphs, and the memory of a GPU."
)


@dataclass(frozen=True)
class Part:
    """Something to look at.

    Attributes:
        name: on the command line and in the table.
        claim: what it is that passes.
        function: `module:function`, see `tests.gpu_check.part`.
        limit_s: seconds after which it hangs.
        needs: modules without which it is skipped.
        after: parts that must have passed.
        gpu: whether there is nothing to look at without a GPU.
    """

    name: str
    claim: str
    function: str
    limit_s: float
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ("machine", "model")
    gpu: bool = False


_ASKED, _TRAINED = ("vllm", "pydantic", "pyarrow"), ("torch", "transformers", "peft", "trl", "accelerate")
_ENGINE = ("machine", "model", "start")

PARTS = (
    Part("machine", "versions and devices", "tests.gpu_check.machine:look", 60, ("torch",), ()),
    Part("model", "there is a model", "tests.gpu_check.models:make", 90, ("transformers", "peft"), ("machine",)),
    Part("dpo", "DPO under FSDP 2 in bfloat16", "tests.gpu_check.training:dpo", 180, _TRAINED),
    Part("sft", "SFT of an adapter", "tests.gpu_check.training:adapter", 180, _TRAINED),
    Part("start", "an engine starts and answers", "tests.gpu_check.engines:start", 240, _ASKED),
    Part("in-flight", "all rows in flight in one step", "tests.gpu_check.engines:in_flight", 150, _ASKED, _ENGINE),
    Part("adapter", "LoRA beside the base in one engine", "tests.gpu_check.engines:adapter", 150, _ASKED, _ENGINE),
    Part("grammars", "replies follow their schemas", "tests.gpu_check.engines:grammars", 150, _ASKED, _ENGINE),
    Part("labels", "log-probabilities are transformers'", "tests.gpu_check.engines:labels", 150, _ASKED, _ENGINE),
    Part("two", "two engines load on one GPU", "tests.gpu_check.engines:two", 150, _ASKED, _ENGINE, gpu=True),
    Part("throughput", "as fast as vLLM alone", "tests.gpu_check.engines:throughput", 240, _ASKED, _ENGINE),
)


@dataclass(frozen=True)
class Line:
    """How a part went: a line of the table.

    Attributes:
        part: which.
        result: how it ended.
        seconds: how long it took.
        peak_mib: the most memory of a GPU that was taken meanwhile, by whomever; None where nobody can say.
        log: the end of what it printed, where it failed.
    """

    part: Part
    result: Result
    seconds: float = 0.0
    peak_mib: int | None = None
    log: str = ""


def look(parts: Sequence[Part], model: str = "", within_s: float = TEN_MINUTES) -> Iterator[Line]:
    """Run the parts, one after the other.

    Args:
        parts: those to run; the ones that they come after are run as well.
        model: the model to ask and to train; empty for a random one.
        within_s: seconds for all of them; with more, each has more.
    """
    ends = time.monotonic() + within_s
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        here, passed = Here(scratch, model), set[str]()
        for part in parts:
            left = ends - time.monotonic()
            if why := _why_not(part, passed, left, within_s) or (
                "there is no GPU" if part.gpu and not here.gpus else ""
            ):
                yield Line(part, Result("skipped", why))
                continue
            line = run(part, here, min(part.limit_s * within_s / TEN_MINUTES, left))
            if line.result.state == "pass":
                passed.add(part.name)
            if part.name == "machine" and line.result.figures:
                here = replace(here, gpus=line.result.figures["gpus"])
            yield line


def _why_not(part: Part, passed: set[str], left: float, within_s: float) -> str:
    """Why a part cannot be run; or empty."""
    if missing := [name for name in part.needs if find_spec(name) is None]:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    if unproven := [name for name in part.after if name not in passed]:
        return f"'{unproven[0]}' did not pass"
    return f"the {within_s:.0f} s for all are over" if left < LEAST else ""


def run(part: Part, here: Here, limit_s: float) -> Line:
    """Run one part in a process of its own, with all that it starts."""
    place = Path(here.scratch)
    asked, found, log = (place / f"{part.name}.{kind}" for kind in ("here.json", "json", "log"))
    asked.write_text(json.dumps(asdict(here)), encoding="utf-8")
    command = [sys.executable, "-m", "tests.gpu_check.part", part.function, str(asked), str(found)]
    began = time.monotonic()
    with log.open("wb") as output, _peak() as peaks:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=ROOT, env=_environment(here), start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGABRT)  # upon which Python says where each process hangs
            time.sleep(1)
        finally:  # with what it has left running
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    printed = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code is None:
        result = Result("fail", f"it did not end in {limit_s:.0f} s")
    elif found.exists():
        result = Result(**json.loads(found.read_text(encoding="utf-8")))
    else:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        said = [one for one in printed if one.startswith("Fatal Python error")] or printed or ["it printed nothing"]
        result = Result("fail", f"its process {how}: {said[-1]}")
    shown = "\n".join(printed[-LOG_LINES:]) if result.state == "fail" else ""
    return Line(part, result, time.monotonic() - began, max(peaks, default=None), shown)


def _environment(here: Here) -> dict[str, str]:
    """That of this process. A model that is at hand is not looked for on the hub."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if not here.model or Path(here.model).exists():
        ours |= {"HF_HUB_OFFLINE": "1"}
    return os.environ | ours


@contextmanager
def _peak() -> Iterator[list[int]]:
    """MiB of the fullest GPU, looked at all the while with NVIDIA's own tool."""
    seen: list[int] = []
    over = threading.Event()
    tool = shutil.which("nvidia-smi")

    def watch(tool: str) -> None:
        while not over.wait(0.5):
            asked = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            with suppress(OSError, ValueError, subprocess.SubprocessError):
                told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout
                seen.append(max(map(int, told.split())))

    watcher = threading.Thread(target=watch, args=(tool,), daemon=True)
    if tool:
        watcher.start()
    try:
        yield seen
    finally:
        over.set()
        if tool:
            watcher.join()


# ---- what is shown ---------------------------------------------------------------------------------------------------

WIDTH = 118


def shown(line: Line) -> str:
    """A line of the table; more than one where there is much to say."""
    peak = "-" if line.peak_mib is None else f"{line.peak_mib}"
    head = f"{line.part.name:<11} {line.result.state:<8} {line.seconds:6.1f} {peak:>8}  "
    seen = _words(line.result.figures or {}) if line.result.state == "pass" else line.result.why
    text = f"{line.part.claim}: {seen}" if seen else line.part.claim
    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _words(figures: Figures) -> str:
    said = (f"{name} {_words(one) if isinstance(one, dict) else one}" for name, one in figures.items())
    return "; ".join(said)


def _wanted(names: Sequence[str]) -> list[Part]:
    """The parts of these names, or all, and those that they come after."""
    known = {part.name: part for part in PARTS}
    wanted = set(names or known)
    wanted |= {before for name in wanted for before in known[name].after}
    return [part for part in PARTS if part.name in wanted]


def main() -> None:
    """Look, print the table as it grows, and end with 1 where a part fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a part that crashes leaves no image of all its memory
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(names)}; all if none is given")
    parser.add_argument("--model", default="", help="a folder, a hub id or `packaged`; a random Llama if none is given")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write what was found here too")
    parser.add_argument(
        "--within", type=float, default=TEN_MINUTES, metavar="S", help="seconds for all parts [%(default)g]"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"there is no part '{min(unknown)}'; there are {', '.join(names)}")
    print(f"{'part':<11} {'result':<8} {'s':>6} {'GPU MiB':>8}  what was looked at, and seen", flush=True)
    lines = []
    for line in look(_wanted(options.parts), options.model, options.within):
        print(shown(line), flush=True)
        lines.append(line)
    failed = [line for line in lines if line.result.state == "fail"]
    for line in failed:
        print(f"\n---- {line.part.name}: the end of its output\n{line.log}")
    counts = {state: sum(line.result.state == state for line in lines) for state in ("pass", "fail", "skipped")}
    here = next((line.result.figures for line in lines if line.part.name == "machine"), None)
    if here and not here["gpus"]:
        print(f"\n{LEFT_OUT}")
    print("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1), encoding="utf-8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
