"""What a run came to by its files, held against its prompts, its kills, and the same rows where nothing dies."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.chaos.kills import Kill, rows_by_process
from ultraif_ray.data.export import examples
from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.engine.simulated import SimulatedEngine
from ultraif_ray.flow.worker import KILLS_ITS_ENGINE
from ultraif_ray.method.journey import STAGES, run_journey
from ultraif_ray.recipe import Recipe, SimulatedPool
from ultraif_ray.records import Row
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.train import TrainingStep
from ultraif_ray.store.folder import RunFolder

FAULTS_OF_ENGINES = {KILLS_ITS_ENGINE, "EngineDead", "EngineUnavailable"}
"""Failures of a row that a kill can cause, and must not."""


@dataclass
class Report:
    """What a run came to; all that makes it not `clean` is a count or a list that should be empty.

    `missed` are the kills that came too late. `made`, `kept` and `wasted` are generated tokens, where engines note
    them: in all, in the files, and the difference. `in_flight` is what the rows cost that were in flight on what died,
    each as often as it was; `beyond` is what was made of some row beyond its cost and that. `unmetered` are rows of
    which less was noted than they cost.
    """

    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    rows: int = 0
    lost: int = 0
    unknown: int = 0
    doubled: int = 0
    changed: int = 0
    unreadable: int = 0
    unfinished: list[str] = field(default_factory=list)
    broken_ledgers: list[str] = field(default_factory=list)
    broken_sets: list[str] = field(default_factory=list)
    broken_trainings: list[str] = field(default_factory=list)
    unexpected_ends: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    metered: bool = False
    made: int = 0
    kept: int = 0
    in_flight: int = 0
    beyond: int = 0
    unmetered: int = 0

    @property
    def wasted(self) -> int:
        """Tokens that were made and are in no row."""
        return self.made - self.kept

    @property
    def clean(self) -> bool:
        """Whether all befell it that was to, and nothing was lost, doubled, changed, broken, left behind, or paid for
        beyond what was in flight.
        """
        counts = (self.lost, self.unknown, self.doubled, self.changed, self.unreadable, self.beyond, self.unmetered)
        lists = (self.unfinished, self.broken_ledgers, self.broken_sets, self.broken_trainings, self.unexpected_ends)
        metered = not self.metered or self.made >= self.kept > 0
        return not any(counts) and not any(lists) and not self.left_over and not self.missed and metered


def undisturbed(recipe: Recipe, prompts: list[Row]) -> dict[int, Row]:
    """The rows of these prompts by id, as they end where nothing dies: each goes its journey in this process.

    Only for recipes whose engines are simulated; what these say depends on what they are asked, and not on the time.
    """
    pools = {name: pool for name, pool in recipe.pools.items() if isinstance(pool, SimulatedPool)}
    at_once = {"tokens_per_s": 1e12, "replies": None}
    engines = {name: SimulatedEngine(pool.model_copy(update=at_once)) for name, pool in pools.items()}

    async def all_journeys() -> list[Row]:
        rows = [row.model_copy(deep=True) for row in prompts]
        return await asyncio.gather(
            *(run_journey(row, STAGES, RoleClient(recipe, dict(engines)), recipe) for row in rows)
        )

    return {row.id: row for row in asyncio.run(all_journeys())}


def audit(
    report: Report,
    recipe: Recipe,
    prompts: list[Row],
    expected: dict[int, Row],
    kills: list[Kill],
    replies: Path | None,
) -> None:
    """Look at a run's files, and enter in the report what is there.

    Args:
        report: what is filled in.
        recipe: the run's.
        prompts: what was put in, as rows that have not been anywhere.
        expected: the same at their end, see `undisturbed`; empty where that is not known.
        kills: what befell it.
        replies: where the engines noted what they made; None where they did not.
    """
    folder = RunFolder(recipe.run_folder)
    report.rows = len(prompts)
    report.kills = dict(Counter(f"{kill.step}: {kill.kind}" for kill in kills))
    rows = _rows(folder, report)
    found, wanted = Counter(row.id for row in rows), {row.id for row in prompts}
    report.lost, report.unknown = len(wanted - found.keys()), len(found.keys() - wanted)
    report.doubled = found.total() - len(found)
    if expected:
        report.changed = sum(row != expected.get(row.id, row) for row in rows)
    else:
        report.changed = sum(any(one.kind in FAULTS_OF_ENGINES for one in row.failures) for row in rows)
    _look_at_steps(folder, recipe, report)
    if expected:
        _look_at_sets(folder, recipe, expected, report)
    if replies:
        _look_at_costs(rows, expected, kills, replies, report)


def cost(row: Row) -> int:
    """Tokens that were generated for a row."""
    return sum(usage.generated for usage in row.usage)


def in_flight(kill: Kill, made: dict[int, dict[int, int]]) -> set[int]:
    """Rows that were begun in what died, or stood still, and were not written."""
    return ({row for pid in kill.dead for row in made.get(pid, {})} | kill.begun) - kill.written


def _rows(folder: RunFolder, report: Report) -> list[Row]:
    rows: list[Row] = []
    for path in folder.data_files("synthesize"):
        try:
            table = pq.read_table(path, filesystem=folder.fs)
        except Exception:  # noqa: BLE001 - whatever makes it unreadable
            report.unreadable += 1
        else:
            rows += map(Row.model_validate, table.to_pylist())
    return rows


def _look_at_steps(folder: RunFolder, recipe: Recipe, report: Report) -> None:
    ledger = folder.read_json("ledger.json")
    for step in plan(recipe, folder):
        if folder.state(step.name) != "done":
            report.unfinished.append(step.name)
        if isinstance(step, TrainingStep):
            trained_on = ledger[step.name]["outcomes"]["trained on"]
            with folder.fs.open(folder.at(step.name, "rows_seen.npy")) as file:
                seen = np.load(file)
            epochs = [sorted(seen[seen[:, 1] == epoch, 2].tolist()) for epoch in np.unique(seen[:, 1])]
            if not epochs or any(rows != list(range(trained_on)) for rows in epochs):
                report.broken_trainings.append(step.name)
    broken = [step for step, entry in ledger.items() if sum(entry["outcomes"].values()) != entry["input"]]
    of_all_rows = ("ingest", "synthesize", "export")
    report.broken_ledgers = broken + [step for step in of_all_rows if ledger[step]["input"] != report.rows]


def _look_at_sets(folder: RunFolder, recipe: Recipe, expected: dict[int, Row], report: Report) -> None:
    for name in ("sft", "dpo"):
        wanted = Counter(row.id for row in expected.values() for _ in examples(row, name, recipe.export))
        files = [folder.at("export", name, file) for file in folder.names("export", name) if file.endswith(".parquet")]
        found = Counter(
            number for file in files for number in pq.read_table(file, filesystem=folder.fs)["id"].to_pylist()
        )
        if found != wanted:
            report.broken_sets.append(name)


def _look_at_costs(rows: list[Row], expected: dict[int, Row], kills: list[Kill], replies: Path, report: Report) -> None:
    by_process = rows_by_process(replies)
    made: Counter[int] = Counter()
    for noted in by_process.values():
        made.update(noted)
    deaths = Counter(number for kill in kills for number in in_flight(kill, by_process))
    costs = {number: cost(row) for number, row in expected.items()}
    report.metered = True
    report.made, report.kept = made.total(), sum(map(cost, rows))
    report.in_flight = sum(times * costs.get(number, 0) for number, times in deaths.items())
    report.beyond = sum(max(0, n - costs.get(number, 0) * (1 + deaths[number])) for number, n in made.items())
    report.unmetered = sum(made[number] < once for number, once in costs.items())


def summary(reports: list[Report]) -> dict[str, Any]:
    """All runs in one."""
    by_kind = sum((Counter(report.kills) for report in reports), Counter())
    metered = [report for report in reports if report.metered]
    made, wasted = sum(report.made for report in metered), sum(report.wasted for report in metered)
    totals = ("rows", "lost", "doubled", "changed", "beyond")
    return {
        "kills": by_kind.total(),
        "by_kind": dict(by_kind),
        **{name: sum(getattr(report, name) for report in reports) for name in totals},
        "wasted_tokens_share": round(wasted / max(made, 1), 4),
        "in_flight_share": round(sum(report.in_flight for report in metered) / max(made, 1), 4),
        "missed": sum(len(report.missed) for report in reports),
        "left_over": sum(len(report.left_over) for report in reports),
        "unexpected_ends": sum(len(report.unexpected_ends) for report in reports),
        "clean": all(report.clean for report in reports),
    }
