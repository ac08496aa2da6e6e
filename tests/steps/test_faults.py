"""Each command, cut off at its n-th change of the run's folder for every n: the next one ends as if it had not been."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults import FailingFileSystem, as_after_a_death, in_store
from tests.simulated import prompts_file, recipe, rows_of, with_pool, without_usage
from ultraif_ray.errors import UltraIFError
from ultraif_ray.recipe import Recipe
from ultraif_ray.steps.run import retry, run
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import NEW, RunFolder
from ultraif_ray.store.lease import LEASE

ROWS = 6

Command = Callable[[Recipe], Any]


pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture(autouse=True)
def tiny_by_name(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe names its model."""
    monkeypatch.setenv("TINY", tiny)


def made(base: Path, **sections: Any) -> Recipe:
    flow = {"rows_per_block": 2}
    return with_pool(recipe(base, count=ROWS, flow=flow, **sections), {"engine": "simulated", "broken_share": 0.1})


def failing(base: Path) -> Recipe:
    """Two of its rows are refused."""
    faults = [{"kind": "refuse", "query": f"number {number} "} for number in (1, 4)]
    return with_pool(made(base), {"engine": "simulated", "broken_share": 0.1, "faults": faults})


def up_to_export(given: Recipe) -> None:
    run(given, until="export")


def trained(base: Path) -> Recipe:
    """A policy learns from what it holds, a step or two."""
    fields = {"max_length": 512, "per_device_train_batch_size": 2, "num_train_epochs": 1, "learning_rate": 1e-3}
    policy = {"model": os.environ["TINY"], "lora": {"r": 2}}
    return made(base, policy=policy, sft=fields, align={"iterations": 0}, train={"workers": {"min": 1, "max": 1}})


def grown(base: Path) -> Recipe:
    """Three prompts have come to its file."""
    given = made(base)
    prompts_file(base, ROWS + 3)
    return given


# Each: what the folder holds before, the recipe of the command, and the command.
COMMANDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Recipe], Command]] = {
    "ingest": (lambda base: None, made, lambda given: run(given, until="ingest")),
    "export": (lambda base: None, made, up_to_export),
    "retry": (lambda base: up_to_export(failing(base)), made, retry),
    "remake": (
        lambda base: up_to_export(made(base)),
        lambda base: made(base, synthesize={"k": 2}),
        lambda given: run(given, until="export", remake=True),
    ),
    "training": (lambda base: up_to_export(trained(base)), trained, run),
    "more prompts": (
        lambda base: up_to_export(made(base)),
        grown,
        up_to_export,
    ),
}


def content(folder: RunFolder) -> dict[str, Any]:
    """What a run holds, but for what each request cost and the names of files."""
    sets = {
        file.relative_to(folder.path).as_posix(): sorted(file.read_text().splitlines())
        for file in Path(folder.at("export")).rglob("*.jsonl")
    }
    rows = without_usage(rows_of(folder)) if folder.state("synthesize") else {}
    weights = {
        file.relative_to(folder.path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(folder.path).rglob("*.safetensors")
    }
    return {"rows": {number: row | {"source": ""} for number, row in rows.items()}, "sets": sets, "weights": weights}


def audit(folder: RunFolder) -> None:
    """What holds of a run after a command that ended well."""
    for step, entry in ledger.read(folder).items():
        ledger.check(step, entry)
    prompts = [row.id for row in rows_of(folder, "ingest")]
    assert len(prompts) == len(set(prompts)) == ledger.read(folder)["ingest"].outcomes["accepted"]
    if folder.state("synthesize"):
        rows = rows_of(folder)
        assert sorted(row.id for row in rows) == sorted(prompts)
        answered = {row.id for row in rows if row.outcome != "failed" and row.instructions[-1].questions}
        files = Path(folder.at("export", "rl")).glob("*.jsonl")
        assert {json.loads(line)["id"] for file in files for line in file.read_text().splitlines()} == answered
    assert LEASE not in folder.names()
    half = [name for name in folder.fs.find(folder.path) if name.endswith(NEW)]
    assert not [name for name in half if "/lease" not in name]  # who takes a lease may be writing it now


def attempts(before: Path, scratch: Path, command: str, kind: Literal["crash", "error"], every: int) -> Iterator[Path]:
    """Copies of the folder `before` in which the command was cut off at its n-th change."""
    _, given, act = COMMANDS[command]
    for number in count(1, every):
        base = scratch / str(number)
        shutil.copytree(before, base)
        fs = FailingFileSystem(number, kind)
        with in_store(fs), suppress(OSError, UltraIFError):
            act(given(base))
        as_after_a_death(RunFolder(str(base / "run")))
        yield base
        if fs.left > 0:
            print(f"{command}, {kind}: {number - fs.left} changes")
            return
        shutil.rmtree(base)


FEW = [("export", "crash", 41), ("retry", "crash", 41), ("more prompts", "crash", 41)]
SLOW = [("training", "crash", 17)]
ALL = [(command, kind, 1) for command in COMMANDS for kind in ("crash", "error")]


@pytest.mark.parametrize(
    ("command", "kind", "every"),
    [
        *FEW,
        *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW),
        *(pytest.param(*one, marks=pytest.mark.long) for one in ALL),
    ],
)
def test_a_command_that_is_cut_off_anywhere_ends_the_next_time_as_if_nothing_had_happened(
    tmp_path: Path, command: str, kind: Literal["crash", "error"], every: int
) -> None:
    prepare, given, act = COMMANDS[command]
    (before := tmp_path / "before").mkdir()
    prepare(before)
    shutil.copytree(before, undisturbed := tmp_path / "undisturbed")
    act(given(undisturbed))
    expected = content(RunFolder(str(undisturbed / "run")))
    for base in attempts(before, tmp_path, command, kind, every):
        again, folder = given(base), RunFolder(str(base / "run"))
        if command == "retry":
            up_to_export(again)  # whoever does not retry has all rows too
            audit(folder)
        act(again)
        if command == "retry":
            up_to_export(again)
        audit(folder)
        assert content(folder) == expected, base.name


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long)])
def test_a_remake_that_is_cut_off_and_taken_back_is_refused_or_whole(tmp_path: Path, every: int) -> None:
    (before := tmp_path / "before").mkdir()
    up_to_export(made(before))
    expected = content(RunFolder(str(before / "run")))
    for base in attempts(before, tmp_path, "remake", "crash", every):
        taken_back = ""
        try:
            up_to_export(made(base))
        except UltraIFError as error:
            taken_back = str(error)
        folder = RunFolder(str(base / "run"))
        assert "was made with other settings" in taken_back or content(folder) == expected, base.name
