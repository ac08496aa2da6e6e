"""Apply each named mutant to a copy of the repository, run its tests there, and print who noticed.

    python -m tests.mutants [NAME ...] [--only light|heavy]        (`make mutants`; a NAME is a part of a mutant's name)

Prints a line for each mutant: caught, with the first test that failed, or SURVIVED. Exits with 1 if one survived. A
test that fails without any mutant too notices nothing: so `make test` comes before, or --check.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from xml.etree import ElementTree

from tests.mutants.mutant import Mutant, all_mutants

ROOT = Path(__file__).resolve().parents[2]

LANES = 2
"""Mutants tried at once. Most of a short test's time is imports; two cores do two."""

PATIENCE_S = 300
"""A test that a mutant makes wait for ever has noticed it."""


@dataclass(frozen=True)
class Verdict:
    """How one mutant ended; `caught_by` is the first test that failed, or empty."""

    mutant: Mutant
    caught_by: str
    seconds: float


def main() -> None:
    """Try the mutants whose names hold one of the given parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of names; all mutants if none is given")
    parser.add_argument("--check", action="store_true", help="run the tests without a mutant first, some 12 minutes")
    parser.add_argument(
        "--only", choices=("light", "heavy"), help="those whose tests need no engine and no cluster, or do"
    )
    options = parser.parse_args()
    chosen = [one for one in all_mutants() if not options.names or any(name in one.name for name in options.names)]
    chosen = [one for one in chosen if not options.only or one.heavy == (options.only == "heavy")]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies = [_copy(Path(scratch) / f"lane-{lane}") for lane in range(LANES)]
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        lanes = ("-n", str(LANES), "--dist", "loadgroup")
        if options.check and (failed := _failing(copies[0], tests, 6 * PATIENCE_S, lanes)):
            sys.exit(f"{failed} fails without any mutant; mend that first")
        verdicts = _try_all(chosen, copies)
    survived = [verdict.mutant.name for verdict in verdicts if not verdict.caught_by]
    print(f"{len(verdicts) - len(survived)} of {len(verdicts)} caught; survived: {survived or 'none'}")
    sys.exit(1 if survived else 0)


def _copy(target: Path) -> Path:
    """The files that git would commit, as they are now."""
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def _try_all(mutants: Sequence[Mutant], copies: list[Path]) -> list[Verdict]:
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            verdict = _try(mutant, copy)
        finally:
            free.put(copy)
        print(f"{verdict.caught_by or 'SURVIVED'}  <- {mutant.name} ({verdict.seconds:.0f} s)", flush=True)
        return verdict

    slow_first = sorted(mutants, key=lambda mutant: not mutant.heavy)
    with ThreadPoolExecutor(len(copies)) as lanes:
        return list(lanes.map(attempt, slow_first))


def _try(mutant: Mutant, copy: Path) -> Verdict:
    file = copy / mutant.file
    whole, started = file.read_text(), time.monotonic()
    file.write_text(mutant.applied(whole))
    try:
        caught_by = _failing(copy, mutant.tests, PATIENCE_S)
    finally:
        file.write_text(whole)
    return Verdict(mutant, caught_by, time.monotonic() - started)


def _failing(copy: Path, tests: Sequence[str], patience_s: float, options: Sequence[str] = ()) -> str:
    """The first of these tests that fails in this copy, or the empty string; RuntimeError if they cannot be run."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not long",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        *options,
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    with (copy / "said.txt").open("w+") as said:  # a pipe would be held by what outlives the tests
        process = subprocess.Popen(command, cwd=copy, env=environment, start_new_session=True, stdout=said, stderr=said)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return f"no end in {patience_s:.0f} s: {tests[0]}"
        finally:
            _end(process)
        said.seek(0)
        words = said.read()
    if process.returncode == 0:
        return ""
    failed = [case for case in ElementTree.parse(report).iter("testcase") if len(case) and case[0].tag != "skipped"]  # noqa: S314
    if process.returncode != 1 or not failed:
        raise RuntimeError(f"pytest ended with {process.returncode} on {tests}:\n{words[-3000:]}")
    return f"{failed[0].get('classname')}::{failed[0].get('name')}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever of its session still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
