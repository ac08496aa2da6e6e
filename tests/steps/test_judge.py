"""Responses of one run, judged again in another."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.simulated import recipe, rows_of
from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import Row, Usage, to_table
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.responses import ReadResponses
from ultraif_ray.steps.run import run
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder


def judging(made: Recipe, place: Path, **synthesize: object) -> Recipe:
    data = made.model_dump() | {"run": str(place), "responses": {"run": made.run}}
    return parse_recipe(data | {"synthesize": data["synthesize"] | synthesize})


def answers(rows: list[Row]) -> dict[int, list[tuple[str, list[str]]]]:
    """What was composed and answered, by row."""
    return {row.id: [(one.query, [r.text for r in one.responses]) for one in row.instructions] for row in rows}


@pytest.mark.usefixtures("no_ray")
def test_all_responses_are_judged_again_and_none_is_sampled(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=12, synthesize={"k": 2, "goal": "all"})
    before = rows_of(first := run(made))
    assert {row.outcome for row in before} > {"failed"}
    again = judging(made, tmp_path / "again", judge="logprob", ask_all=True)
    folder = run(again)
    after = rows_of(folder, "judge")
    assert answers(after) == answers(before)
    for row in after:
        assert row.outcome == "failed" or {usage.role for usage in row.usage} == {"judge"}
        responses = [response for one in row.instructions for response in one.responses if row.outcome != "failed"]
        assert all(verdict.p_yes is not None for response in responses for verdict in response.verdicts)
    ledger = folder.read_json("ledger.json")
    assert list(ledger) == ["responses", "judge", "export"]
    assert ledger["judge"]["outcomes"]["failed"] == sum(row.outcome == "failed" for row in after) < 12
    assert set(ledger["judge"]["tokens"]) == {"judge"}
    first.clear("synthesize")  # it is copied, and needed no more
    files = {path: Path(path).stat().st_mtime_ns for path in folder.data_files("judge")}
    run(again)
    assert {path: Path(path).stat().st_mtime_ns for path in folder.data_files("judge")} == files


def test_responses_are_copied_without_what_they_cost_and_not_read_again(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=1)
    source, folder = RunFolder(made.run_folder), RunFolder(str(tmp_path / "again"))
    source.open_step("synthesize", {"made": "by hand"})
    rows = [Row(id=number, query=f"Say {number}.", usage=[Usage(role="judge", prompt=9)]) for number in range(3)]
    for part in (rows[:1], rows[1:]):
        (tmp_path / "run/synthesize/rows").mkdir(exist_ok=True)
        pq.write_table(to_table(part), tmp_path / f"run/synthesize/rows/{part[0].id}.parquet")
    source.finish("synthesize")
    step, context = ReadResponses(), Context(judging(made, tmp_path / "again"), folder)
    settings = step.settings(context)
    folder.open_step(step.name, settings)
    (entry,) = step.run(context).values()
    folder.finish(step.name)
    assert (entry.input, entry.outcomes) == (3, {"read": 3})
    assert rows_of(folder, "responses") == [row.model_copy(update={"usage": []}) for row in rows]
    source.clear("synthesize")
    assert step.settings(context) == settings  # they need not be there any more


def test_dpo_rounds_go_on_from_the_prompts_of_the_responses(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=1, policy={"model": "packaged"}).model_dump()
    steps = plan(parse_recipe(made | {"responses": {"run": "other"}}), RunFolder(str(tmp_path / "run")))
    assert [step.name for step in steps] == [
        "responses", "judge", "export", "sft", "round-1/synthesize", "round-1/export", "round-1/dpo", "model",
    ]  # fmt: skip
    synthesis = steps[4]
    assert {name: source.name for name, source in synthesis.inputs.items()} == {"rows": "responses", "policy": "sft"}
    assert "instructions" not in synthesis.columns  # type: ignore[attr-defined]


def test_what_has_no_responses_is_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=1)
    with pytest.raises(InputError, match=r"run/synthesize holds no responses, or not yet all: name a run whose"):
        run(judging(made, tmp_path / "again"))
    with pytest.raises(RecipeError, match=r"responses\.step: .*got 'decompose'"):
        parse_recipe(made.model_dump() | {"responses": {"run": "r", "step": "decompose"}})
    with pytest.raises(RecipeError, match="responses are judged as they are: leave sets and composer out"):
        parse_recipe(made.model_dump() | {"responses": {"run": "r"}, "composer": {"model": "packaged"}})
