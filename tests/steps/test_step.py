"""A new kind of step is one class and one line: here it is one, in a plan of its own, through the real loop."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulated import recipe
from ultraif_ray.errors import RunError
from ultraif_ray.recipe import Recipe
from ultraif_ray.steps.ingest import Ingest
from ultraif_ray.steps.run import run_steps
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
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
