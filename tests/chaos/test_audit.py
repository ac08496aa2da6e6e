"""The audit can fail: run folders made by hand, with one fault each."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from tests.chaos.audit import Report, audit, cost, undisturbed
from tests.chaos.campaign import simulated
from tests.chaos.kills import Kill
from tests.chaos.nodes import left_over
from ultraif_ray.data.export import SETS, export
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import Row, prompt_id, to_table
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows, enter

FIRST, SECOND = 11, 12
"""Two processes with engines: the first died once, with the first two rows in flight, and the second did the rest."""


@dataclass(frozen=True)
class Run:
    """A run as it should be, for a fault to be put in."""

    recipe: Recipe
    prompts: list[Row]
    expected: dict[int, Row]
    kills: list[Kill]
    place: Path

    def rows(self) -> list[Row]:
        """The rows in the files."""
        return [Row.model_validate(row) for row in pq.read_table(self._file).to_pylist()]

    def write(self, rows: list[Row]) -> None:
        """Rows in place of those in the files."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(rows), self._file)

    @property
    def _file(self) -> Path:
        return self.place / "run/synthesize/rows/part.parquet"

    def note(self, process: int, rows: list[Row]) -> None:
        """Let a process note that it made these rows."""
        with (self.place / f"replies/{process}.jsonl").open("a") as file:
            file.writelines(json.dumps({"row": row.id, "lengths": [cost(row)]}) + "\n" for row in rows)

    def enter(self, step: str, entry: Entry) -> None:
        """An entry of the ledger, and the step as done."""
        folder = RunFolder(self.recipe.run_folder)
        enter(folder, step, entry, ("ingest", "synthesize", "export"))
        folder.open_step(step, {})
        folder.finish(step)


@pytest.fixture(scope="module")
def anywhere() -> Recipe:
    return parse_recipe({"name": "x", "prompts": ["p.jsonl"], **simulated()})


@pytest.fixture(scope="module")
def rows(anywhere: Recipe) -> dict[int, Row]:
    queries = [f"Write {i} lines about rain, no rhymes" for i in range(8)]
    return undisturbed(anywhere, [Row(id=prompt_id(query, []), query=query) for query in queries])


@pytest.fixture
def run(tmp_path: Path, anywhere: Recipe, rows: dict[int, Row]) -> Run:
    recipe = anywhere.model_copy(update={"run": str(tmp_path / "run")})
    prompts = [Row(id=row.id, query=row.query) for row in rows.values()]
    ended = list(rows.values())
    kill = Kill("synthesize", "worker", written=frozenset(row.id for row in ended[2:4]), dead=frozenset({FIRST}))
    made = Run(recipe, prompts, rows, [kill], tmp_path)
    (tmp_path / "replies").mkdir()
    made.note(FIRST, ended[:4])
    made.note(SECOND, [*ended[:2], *ended[4:]])
    folder = RunFolder(recipe.run_folder)
    made.write(ended)
    made.enter("ingest", Entry(input=8, outcomes={"accepted": 8}))
    made.enter("synthesize", count_rows(folder, "synthesize", 8, "outcome", ()))
    made.enter("export", export(recipe, folder, "synthesize", "export", SETS, {}))
    return made


def report_of(run: Run) -> Report:
    report = Report(seed=0)
    audit(report, run.recipe, run.prompts, run.expected, run.kills, run.place / "replies")
    return report


def test_a_run_that_did_again_what_was_in_flight_is_clean(run: Run) -> None:
    report = report_of(run)
    assert report.clean, report
    at_risk = sum(cost(row) for row in run.rows()[:2])
    assert report.wasted == report.in_flight == at_risk > 0
    assert report.kept == sum(map(cost, run.expected.values()))
    assert report.kills == {"synthesize: worker": 1}


def fail_one(run: Run) -> None:
    first, *rest = run.rows()
    first.fail("composer", "kills its engine")
    run.write([first, *rest])


def cheapen_one(run: Run) -> None:
    first, *rest = run.rows()
    first.usage[0].generated -= 1
    run.write([first, *rest])


def lose_prompt(run: Run) -> None:
    """As ingest would: it is in no step, and every count holds."""
    run.write(run.rows()[1:])
    for step, outcome in (("ingest", "accepted"), ("synthesize", "paired"), ("export", "sft")):
        run.enter(step, Entry(input=7, outcomes={outcome: 7}))


def empty_notes(run: Run) -> None:
    for file in (run.place / "replies").iterdir():
        file.unlink()


def drop_set(run: Run) -> None:
    (run.place / "run/export/sft/train.parquet").unlink()


def open_export_again(run: Run) -> None:
    manifest = run.place / "run/export/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"state": "running"}))


def break_ledger(run: Run) -> None:
    ledger = run.place / "run/ledger.json"
    text = json.loads(ledger.read_text())
    text["synthesize"]["outcomes"]["paired"] += 1
    ledger.write_text(json.dumps(text))


def cut_file(run: Run) -> None:
    (file,) = (run.place / "run/synthesize/rows").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])


FAULTS: dict[str, tuple[Callable[[Run], object], str]] = {
    "a row is lost": (lambda run: run.write(run.rows()[1:]), "lost"),
    "ingest lost a prompt": (lose_prompt, "lost"),
    "a row that nobody asked for": (lambda run: run.write([*run.rows(), Row(id=5, query="?")]), "unknown"),
    "a row stands there twice": (lambda run: run.write([*run.rows(), run.rows()[0]]), "doubled"),
    "a row in flight ended as failed": (fail_one, "changed"),
    "a row's usage is another": (cheapen_one, "changed"),
    "a file is cut off": (cut_file, "unreadable"),
    "a ledger does not sum": (break_ledger, "broken_ledgers"),
    "a set is missing": (drop_set, "broken_sets"),
    "a step is not done": (open_export_again, "unfinished"),
    "all was done again": (lambda run: run.note(SECOND, run.rows()), "beyond"),
    "a quarter of what was written was done again": (lambda run: run.note(SECOND, run.rows()[2:4]), "beyond"),
    "what was in flight was done three times": (lambda run: run.note(SECOND, run.rows()[:1]), "beyond"),
    "one reply more than a row takes": (lambda run: run.note(SECOND, [single_reply(run)]), "beyond"),
    "nobody noted anything": (empty_notes, "unmetered"),
}


def single_reply(run: Run) -> Row:
    """A written row, of which one token is noted."""
    row = run.rows()[2]
    row.usage = row.usage[:1]
    row.usage[0].generated = 1
    return row


def test_a_kill_that_came_too_late_is_a_fault_of_the_campaign() -> None:
    assert Report(seed=0).clean
    assert not Report(seed=0, missed=["synthesize: head"]).clean


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_any_kind_is_not_clean(run: Run, fault: str) -> None:
    put_in, told_by = FAULTS[fault]
    put_in(run)
    report = report_of(run)
    assert not report.clean
    assert getattr(report, told_by), report


def test_rows_of_a_process_that_did_not_die_may_not_be_done_again(run: Run) -> None:
    survived = replace(run, kills=[replace(run.kills[0], dead=frozenset())])
    assert report_of(survived).beyond == sum(cost(row) for row in run.rows()[:2])


def test_a_meter_that_says_less_than_the_files_is_not_clean() -> None:
    for made, kept in ((0, 0), (9, 10)):
        assert not Report(seed=0, metered=True, made=made, kept=kept).clean
    assert Report(seed=0, metered=True, made=10, kept=10).clean


def test_a_training_that_saw_a_row_twice_is_not_clean(run: Run) -> None:
    trained = parse_recipe(run.recipe.model_dump() | {"policy": {"model": "m"}, "align": {"iterations": 0}})
    made = replace(run, recipe=trained)
    for step in ("sft", "model"):
        made.enter(step, Entry(input=2, outcomes={"trained on": 2}))
    file = run.place / "run/sft/rows_seen.npy"
    for seen, broken in (([0, 1, 1, 0], []), ([0, 1, 1, 1], ["sft"]), ([0, 1, 1], ["sft"])):
        np.save(file, [(step, step // 2, row) for step, row in enumerate(seen)])
        assert report_of(made).broken_trainings == broken


def test_what_is_left_over_is_named() -> None:
    command = [sys.executable, "-c", "print(flush=True); input()", "ray::MapWorker"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdout
    worker.stdout.readline()  # it is there, under its own words
    (found,) = left_over(lambda: [psutil.Process(worker.pid)], patience_s=0)
    assert "ray::MapWorker" in found
    assert not Report(seed=0, left_over=[found]).clean
    worker.kill()
    worker.wait()
    assert left_over(list, patience_s=0) == []
