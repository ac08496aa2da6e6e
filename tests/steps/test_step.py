"""A new kind of step is one class and one line: here are some, in plans of their own, through the real loop."""

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.simulated import recipe, with_pool
from ultraif_ray.errors import GO_ON, RunError
from ultraif_ray.flow.cluster import Need
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Prompt, Row, arrow_schema, to_table
from ultraif_ray.steps.ingest import Ingest
from ultraif_ray.steps.plan import plan as whole_plan
from ultraif_ray.steps.run import retry, run_steps
from ultraif_ray.steps.step import Context, Step, whole_settings
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import LEASE
from ultraif_ray.store.ledger import Entry


@dataclass(frozen=True)
class CountWords(Step):
    """Counts the words of the prompts that were read."""

    rows: Step

    kind = "count_words"

    def settings(self, context: Context) -> dict[str, Any]:
        """A setting of the recipe, as any step might have."""
        return {"seed": context.recipe.seed}

    def run(self, context: Context) -> dict[str, Entry]:
        """Write the number of words, and account for every row."""
        folder = context.folder
        rows = [query for batch in folder.read_tables(self.rows.name) for query in batch.column("query").to_pylist()]
        folder.write_json({"words": sum(len(query.split()) for query in rows)}, self.name, "words.json")
        return {self.name: Entry(input=len(rows), outcomes={"counted": len(rows)})}


def plan() -> list[Step]:
    return [rows := Ingest(), CountWords(rows)]


def run(made: Recipe, **options: Any) -> RunFolder:
    run_steps(made, plan(), plan(), **options)
    return RunFolder(made.run_folder)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_new_kind_of_step_runs_resumes_and_is_refused_like_any_other(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=3)
    folder = run(made)
    assert folder.read_json("count_words", "words.json") == {"words": 24}
    assert ledger.read(folder)["count_words"] == Entry(input=3, outcomes={"counted": 3})
    written = Path(folder.at("count_words", "words.json")).stat().st_mtime_ns
    run(made)
    assert Path(folder.at("count_words", "words.json")).stat().st_mtime_ns == written
    other = made.model_copy(update={"seed": 1})
    with pytest.raises(RunError, match="seed: 0 → 1"):
        run(other)
    ledger.enter(folder, "count_words", Entry(input=9, outcomes={"stale": 9}))
    run(other, remake=True)
    assert ledger.read(folder)["count_words"].input == 3
    assert Path(folder.at("count_words", "words.json")).stat().st_mtime_ns > written


def test_a_step_has_its_name_from_its_kind_and_its_round() -> None:
    step = CountWords(Ingest())
    assert (step.name, replace(step, round=2).name) == ("count_words", "round-2/count_words")
    assert step.inputs == {"rows": Ingest()}


# ---- steps that write a note, and need neither Ray nor an engine -----------------------------------------------------


@dataclass(frozen=True)
class Note(Step):
    """Writes a note; its settings hold nothing of the recipe."""

    kind = "first"

    def settings(self, context: Context) -> dict[str, Any]:
        """Nothing."""
        return {}

    def run(self, context: Context) -> dict[str, Entry]:
        """Write what was there before, and whose the folder is."""
        folder = context.folder
        found = {"before": folder.names(self.name), "held by": folder.read_json(LEASE)["pid"]}
        folder.write_json(found, self.name, "note.json")
        return {self.name: Entry(input=1, outcomes={"noted": 1})}


@dataclass(frozen=True)
class Seeded(Note):
    """Made from a step, and with a setting of the recipe."""

    source: Step

    kind = "seeded"

    def settings(self, context: Context) -> dict[str, Any]:
        """The recipe's seed."""
        return {"seed": context.recipe.seed}

    def run(self, context: Context) -> dict[str, Entry]:
        """With the seed 13, too much for one file of a process that may write a megabyte."""
        if context.recipe.seed == 13:
            Path(context.folder.at(self.name, "large")).write_bytes(bytes(2**21))
        return super().run(context)


@dataclass(frozen=True)
class FromSeeded(Note):
    """Made from a step."""

    source: Step

    kind = "from_seeded"


class Beside(FromSeeded):
    """The same, of another name."""

    kind = "beside"


def notes() -> list[Step]:
    return [first := Note(), seeded := Seeded(source=first), FromSeeded(source=seeded), Beside(source=first)]


def take_notes(made: Recipe, seed: int, remake: bool = False) -> None:
    run_steps(made.model_copy(update={"seed": seed}), notes(), notes(), remake=remake)


def everything(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Each file with the time it was written at and its bytes."""
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def noted(tmp_path: Path) -> Recipe:
    """A recipe whose notes were taken with the seed 0; in every step's folder lies a file more."""
    made = recipe(tmp_path, count=3)
    take_notes(made, 0)
    for step in notes():
        (tmp_path / "run" / step.name / "old").touch()
    return made


def test_remake_deletes_the_step_that_changed_and_what_was_made_from_it_and_a_refusal_nothing(
    noted: Recipe, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    before = everything(place)
    with pytest.raises(RunError, match=r"seed: 0 → 1\nMade from it: from_seeded\."):
        take_notes(noted, 1)
    assert everything(place) == before
    with pytest.raises(RunError, match="File too large"), small_files():
        take_notes(noted, 13, remake=True)
    assert not (place / "from_seeded").exists()  # nothing made from the old one is left beside the new
    assert set(ledger.read(RunFolder(str(place)))) == {"first", "beside"}
    take_notes(noted, 1, remake=True)
    after = everything(place)
    for step in ("first", "beside"):
        kept = {file: content for file, content in before.items() if file.is_relative_to(place / step)}
        assert kept
        assert kept == {file: content for file, content in after.items() if file.is_relative_to(place / step)}
    for step in ("seeded", "from_seeded"):
        assert json.loads((place / step / "note.json").read_text())["before"] == ["manifest.json"]
    assert set(ledger.read(RunFolder(str(place)))) == {"first", "seeded", "from_seeded", "beside"}


def test_a_step_goes_on_with_what_it_has_but_not_with_what_a_deletion_that_was_cut_off_has_left(
    noted: Recipe, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    begun = json.loads((place / "seeded/manifest.json").read_text()) | {"state": "running"}
    (place / "seeded/manifest.json").write_text(json.dumps(begun))
    (place / "beside/manifest.json").unlink()
    take_notes(noted, 0)
    assert "old" in json.loads((place / "seeded/note.json").read_text())["before"]
    assert json.loads((place / "beside/note.json").read_text())["before"] == ["manifest.json"]


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process can be larger than a megabyte: what a full disk is, for whoever may not mount one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_refuses_names_the_step_in_one_line_and_the_same_command_goes_on(
    noted: Recipe, tmp_path: Path
) -> None:
    made = noted.model_copy(update={"run": str(tmp_path / "other")})
    with pytest.raises(RunError) as caught, small_files():
        take_notes(made, 13)
    assert str(caught.value) == f"seeded: [Errno 27] File too large\n{GO_ON}"
    folder = RunFolder(made.run_folder)
    assert [folder.state(step.name) for step in notes()] == ["done", "running", "", ""]
    first = everything(tmp_path / "other/first")
    take_notes(made, 13)
    assert [folder.state(step.name) for step in notes()] == ["done"] * 4
    assert everything(tmp_path / "other/first") == first


@contextmanager
def held_by_another(place: Path) -> Iterator[None]:
    """A run on another machine, which is alive."""
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.05):
            beats += 1
            new = place / "new-lease"
            new.write_text(json.dumps({"holder": "x", "host": "elsewhere", "pid": 7, "beats": beats}))
            new.rename(place / LEASE)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        while not (place / LEASE).exists():
            stop.wait(0.01)
        yield
    finally:
        stop.set()
        beating.join()
        (place / LEASE).unlink()


def test_a_run_holds_its_folder_while_a_step_works(noted: Recipe, tmp_path: Path) -> None:
    assert json.loads((tmp_path / "run/first/note.json").read_text())["held by"] == os.getpid()
    assert not (tmp_path / "run" / LEASE).exists()


@pytest.mark.parametrize("command", ["run", "retry"])
def test_a_command_in_a_folder_that_another_works_in_is_refused_and_changes_nothing(
    tmp_path: Path, command: str
) -> None:
    made, place = recipe(tmp_path, count=1), tmp_path / "run"
    folder = RunFolder(made.run_folder)
    ingest, synthesis = whole_plan(made, folder)[:2]
    table = to_table([Row(id=1, query="x", outcome="failed")])
    for step, rows in ((ingest, table.select(arrow_schema(Prompt).names)), (synthesis, table)):
        folder.open_step(step.name, whole_settings(step, Context(made, folder)))
        (place / step.name / "rows").mkdir()
        pq.write_table(rows, place / step.name / "rows/a.parquet")
        folder.finish(step.name)
    with held_by_another(place):
        before = everything(place / "ingest") | everything(place / "synthesize")
        with pytest.raises(RunError, match="is in use by the run of process 7 on elsewhere"):
            retry(made) if command == "retry" else take_notes(made, 0)
        assert everything(place / "ingest") | everything(place / "synthesize") == before
        assert not (place / "first").exists()


@dataclass(frozen=True)
class LosesTheFolder(Note):
    """Another run takes the folder over while it works."""

    def run(self, context: Context) -> dict[str, Entry]:
        """Write another's lease."""
        context.folder.write_json({"holder": "x", "host": "elsewhere", "pid": 7, "beats": 1}, LEASE)
        return {self.name: Entry(input=0, outcomes={})}


def test_a_run_that_lost_its_folder_begins_no_further_step(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=3)
    steps: list[Step] = [first := LosesTheFolder(), Beside(source=first)]
    with pytest.raises(RunError, match="process 7 on elsewhere has taken this folder over"):
        run_steps(made, steps, steps)
    assert not (tmp_path / "run/beside").exists()
    assert json.loads((tmp_path / "run" / LEASE).read_text())["holder"] == "x"


def test_what_a_store_refuses_as_a_step_is_opened_is_told_with_its_name(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/first").write_text("no folder")
    with pytest.raises(RunError, match=r"^first: "):
        run_steps(made, notes(), notes())


# ---- steps that run beside a training --------------------------------------------------------------------------------


def wait(met: Callable[[], bool]) -> None:
    """For a minute at most."""
    deadline = time.monotonic() + 60
    while not met() and time.monotonic() < deadline:
        time.sleep(0.1)


@dataclass(frozen=True)
class Measuring(Note):
    """Asks for one CPU, and notes whether the training had begun before it ended."""

    waits: bool
    """Not to end before that, for a minute."""

    kind = "measuring"
    beside_training = True

    def needs(self, context: Context) -> list[Need]:
        """One CPU."""
        return [Need("it", 1, {"CPU": 1})]

    def run(self, context: Context) -> dict[str, Entry]:
        """Look for the training's folder."""
        wait(lambda: not self.waits or bool(context.folder.state("training")))
        found = {"training": context.folder.state("training"), "replicas": context.recipe.pools["m"].replicas.max}
        context.folder.write_json(found, self.name, "found.json")
        return {self.name: Entry(input=1, outcomes={"measured": 1})}


@dataclass(frozen=True)
class Taking(Note):
    """A training that asks for one CPU and may take more; it ends when it was measured."""

    most: int

    kind = "training"

    def takes_at_most(self, context: Context) -> list[Need]:
        """Its CPUs."""
        return [Need("a worker", self.most, {"CPU": 1})]

    def run(self, context: Context) -> dict[str, Entry]:
        """Wait for what was measured."""
        wait(lambda: "found.json" in context.folder.names("measuring"))
        return super().run(context)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("most", "room"), [(7, True), (8, False)])  # of eight
def test_a_step_runs_beside_a_training_where_there_is_room_for_all_that_both_may_take(
    tmp_path: Path, most: int, room: bool
) -> None:
    made = with_pool(recipe(tmp_path, count=1), {"engine": "simulated", "replicas": {"min": 1, "max": 3}})
    steps: list[Step] = [measured := Measuring(waits=room), Taking(most=most), FromSeeded(source=measured)]
    run_steps(made, steps, steps)
    folder = RunFolder(made.run_folder)
    found = {"training": "running" if room else "", "replicas": 1 if room else 3}
    assert folder.read_json("measuring", "found.json") == found
    assert [folder.state(step.name) for step in steps] == ["done"] * 3
    assert list(ledger.read(folder)) == ["measuring", "training", "from_seeded"]
