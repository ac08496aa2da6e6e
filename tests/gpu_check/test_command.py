"""The command: a part that hangs or crashes is one line of its table, and training needs five packages."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import tests.gpu_check.__main__ as command
from tests.gpu_check.__main__ import LEFT_OUT, PARTS, Part, look
from tests.gpu_check.part import Here
from tests.imports import closure_of, distributions_of, python_with

FIVE = ("torch", "transformers", "peft", "trl", "accelerate")


def part(way: str, **fields: object) -> Part:
    return replace(Part(way, f"it {way}", f"tests.gpu_check.troubled:{way}", 60, after=()), **fields)  # type: ignore[arg-type]


# ---- every end is a line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "state", "why", "logged"),
    [
        ("passes", "pass", "", ""),
        ("skips", "skipped", "it is too warm", ""),
        ("fails", "fail", "3 is not 4", ""),
        ("breaks", "fail", "ValueError: and its end", "raise ValueError"),
        ("crashes", "fail", "its process was killed by SIGSEGV: Fatal Python error: Segmentation fault", "in crashes"),
        ("exits", "fail", "its process ended with 3: no memory", "no memory"),
    ],
)
def test_however_a_part_ends_it_is_one_line(tmp_path: Path, way: str, state: str, why: str, logged: str) -> None:
    line = command.run(part(way), Here(str(tmp_path), gpus=2), 60)
    assert (line.result.state, line.result.why) == (state, why)
    assert logged in line.log
    assert (line.result.figures == {"gpus": 2, "of": {"one": 1}}) is (way == "passes")
    assert way in command.shown(line)


def test_a_part_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    line = command.run(part("hangs"), Here(str(tmp_path)), 4)
    assert (line.result.state, line.result.why) == ("fail", "it did not end in 4 s")
    assert re.search(r"troubled\.py.* in hangs", line.log)
    for _ in range(300):
        if _is_gone(int(line.log.split()[0])):
            return
        time.sleep(0.1)
    raise AssertionError("what it started runs on")


def _is_gone(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # where nobody waits for orphans
    return True


def test_what_cannot_be_looked_at_says_why_and_the_rest_goes_on() -> None:
    parts = [
        part("fails", name="first"),
        part("passes", name="second", after=("first",)),
        part("passes", name="third", needs=("no_such_module",)),
        part("passes", name="fourth", gpu=True),
        part("passes", name="fifth"),
    ]
    assert [(line.result.state, line.result.why) for line in look(parts)] == [
        ("fail", "3 is not 4"),
        ("skipped", "'first' did not pass"),
        ("skipped", "no_such_module is not installed"),
        ("skipped", "there is no GPU"),
        ("pass", ""),
    ]
    assert [line.result.why for line in look(parts[:1], within_s=1)] == ["the 1 s for all are over"]


@pytest.mark.parametrize(("last", "code"), [("passes", 0), ("skips", 0), ("fails", 1)])
def test_the_command_ends_with_1_where_a_part_fails(
    tmp_path: Path, last: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PARTS", (part("passes", name="machine"), part(last, after=("machine",))))
    monkeypatch.setattr(sys, "argv", ["gpu_check", last, "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == code
    written = json.loads((tmp_path / "out.json").read_text())
    assert [one["part"]["name"] for one in written] == ["machine", last]
    printed = capsys.readouterr().out
    assert LEFT_OUT in printed  # there is no GPU
    assert f"{1 + (last == 'passes')} pass, {code} fail, {int(last == 'skips')} skipped" in printed


def test_the_page_lists_every_part() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", Path("docs/gpu.md").read_text(), re.MULTILINE)
    assert rows == [one.name for one in PARTS]


# ---- five packages ---------------------------------------------------------------------------------------------------


def five() -> set[str]:
    """What a machine has that has these. Some versions of typer require pydantic, and others do not."""
    return closure_of(*FIVE) - {"pydantic", "pydantic-core"}


def test_a_trainer_is_made_without_ray_and_vllm() -> None:
    parts = ("tests.gpu_check.machine", "tests.gpu_check.models", "tests.gpu_check.training")
    assert not distributions_of(*parts, "ultraif_ray.train.worker", "ultraif_ray.train.memory") - five()


@pytest.mark.long
def test_with_five_packages_training_is_looked_at_and_engines_are_not(tmp_path: Path) -> None:
    python = python_with(tmp_path / "python", five())
    target = tmp_path / "out.json"
    words = [python, "-m", "tests.gpu_check", "start", "dpo", "sft", "--within", "3600", "--json", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = {one["part"]["name"]: one["result"] for one in json.loads(target.read_text())}
    assert {name: one["state"] for name, one in found.items()} == {
        "machine": "pass", "model": "pass", "start": "skipped", "dpo": "pass", "sft": "pass",
    }  # fmt: skip
    assert found["start"]["why"] == "vllm, pydantic are not installed"


@pytest.mark.long
def test_the_engine_passes_in_its_cpu_form() -> None:
    lines = list(look(PARTS, within_s=3600))  # no time is asserted
    assert [line for line in lines if line.result.state == "fail"] == []
    assert {line.part.name: line.result.why for line in lines if line.result.state == "skipped"} == {
        "two": "there is no GPU"
    }
