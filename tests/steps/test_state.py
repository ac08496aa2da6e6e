"""What a run's folder holds is what its prompts and settings say, whatever was changed, moved or deleted in between."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.simulated import prompts_file, recipe, rows_of, with_pool
from ultraif_ray.errors import InputError, RecipeError, RunError
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Row, to_table
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import retry, run
from ultraif_ray.steps.step import Context, whole_settings
from ultraif_ray.store.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_ray")


def everything(folder: RunFolder) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in Path(folder.path).rglob("*") if file.is_file()}


def test_prompts_that_come_to_a_run_are_done_alone_and_what_was_made_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = recipe(tmp_path, count=8, policy={"model": "packaged"})
    folder = run(made, until="export")
    before, sets = {row.id: row for row in rows_of(folder)}, folder.build_of("export")
    prompts_file(tmp_path, 12)
    capfd.readouterr()
    run(made, until="export")
    said = capfd.readouterr().err
    assert "ingest: 4 prompts come to 8" in said
    after = {row.id: row for row in rows_of(folder)}
    assert len(after) == len(rows_of(folder)) == 12
    assert {number: after[number] for number in before} == before
    ledger = folder.read_json("ledger.json")
    assert [ledger[step]["input"] for step in ("ingest", "decompose", "synthesize", "export")] == [14, 12, 12, 12]
    assert folder.build_of("export") != sets

    sft = next(step for step in plan(made, folder) if step.name == "sft")
    folder.open_step("sft", whole_settings(sft, Context(made, folder)))
    folder.finish("sft")  # the simulated engine serves no model
    written = everything(folder)
    prompts_file(tmp_path, 13)
    with pytest.raises(RunError, match="prompts have come to those of this run, and sft were trained without them"):
        run(made, until="sft")
    assert everything(folder) == written
    moved = (tmp_path / "prompts.jsonl").rename(tmp_path / "moved.jsonl")
    prompts_file(tmp_path, 12).rename(moved)
    run(made.model_copy(update={"prompts": (str(moved),)}), until="export")  # the same ones, from elsewhere
    assert [folder.state(step) for step in ("ingest", "synthesize", "export", "sft")] == ["done"] * 4
    assert written.items() <= everything(folder).items() | {
        (file, time) for file, time in written.items() if file.name in ("manifest.json", "recipe.yaml")
    }


def test_rows_whose_prompts_were_replaced_under_the_same_name_are_refused_and_not_counted(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=4)
    folder = run(made)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Write another poem please"}\n')
    with pytest.raises(RunError, match="ingest was made with other settings"):
        run(made)
    assert len(rows_of(folder, "ingest")) == 4
    folder.clear("ingest")
    with pytest.raises(RunError, match=r"synthesize was made with other .*\n  made from: ingest, which was made anew"):
        run(made)
    assert len(rows_of(folder)) == 4
    prompts_file(tmp_path, 4)
    folder.clear("ingest")
    run(made)  # the same content again: what was made from it stays
    folder.clear("synthesize")
    built = folder.build_of("export")
    run(made)
    assert folder.build_of("export") != built  # made anew with the rows, which were sampled anew


def test_a_file_that_was_lost_is_made_again_and_no_other(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=12)
    folder = run(made)
    before = {row.id: row for row in rows_of(folder)}
    lost = Path(folder.data_files("synthesize")[0])
    gone = set(pq.read_table(lost)["id"].to_pylist())
    lost.unlink()
    run(made)
    after = {row.id: row for row in rows_of(folder)}
    assert after.keys() == before.keys()
    assert all(after[number] == before[number] for number in before.keys() - gone)
    assert folder.state("export") == "done"


def test_a_step_all_of_whose_rows_failed_is_no_success_however_small(tmp_path: Path) -> None:
    refusing = with_pool(recipe(tmp_path, count=6), {"engine": "simulated", "refused_share": 1.0})
    with pytest.raises(RunError, match=r"synthesize: 6 of 6 rows failed: \w+: RequestRefused \(6\).*`ultraif retry"):
        run(refusing)
    folder = RunFolder(refusing.run_folder)
    assert (folder.state("synthesize"), folder.state("export")) == ("running", "")
    assert folder.read_json("ledger.json")["synthesize"]["outcomes"] == {"failed": 6}
    taken = refusing.model_copy(update={"flow": refusing.flow.model_copy(update={"breaker_share": 1.0})})
    assert run(taken).state("export") == "done"


def failing(made: Recipe, *numbers: int) -> Recipe:
    """The same with a pool that refuses some of its rows."""
    faults = [{"kind": "refuse", "query": f"number {number} "} for number in numbers]
    return with_pool(made, {"engine": "simulated", "faults": faults})


@pytest.mark.parametrize("moved", ["file", "folder"])
def test_a_retry_needs_no_prompts_and_is_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    made = recipe(tmp_path, count=6)
    folder = run(failing(made, 2, 3), until="export")
    (tmp_path / "prompts.jsonl").unlink()
    if moved == "folder":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert retry(failing(made)) == 2
    assert len(rows_of(folder)) == 6
    assert not any(row.outcome == "failed" for row in rows_of(folder))
    assert folder.state("export") == "done"
    assert retry(failing(made)) == 0


def test_a_retry_that_cannot_be_has_changed_nothing(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=6)
    folder = run(failing(made, 2), until="export")
    before = everything(folder)
    for other in (made.model_copy(update={"seed": 1}), grown(made, tmp_path)):
        with pytest.raises(RunError, match="was made with other settings; set these back"):
            retry(failing(other))
        assert everything(folder) == before


def grown(made: Recipe, tmp_path: Path) -> Recipe:
    prompts_file(tmp_path, 7)
    return made


def test_a_retry_goes_on_with_one_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(tmp_path, count=6)
    folder = run(failing(made, 2, 3), until="export")
    with monkeypatch.context() as patch:
        patch.setattr("ultraif_ray.flow.graph.run_pipeline", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retry(failing(made))
    assert (folder.count("synthesize"), folder.state("export")) == (4, "")
    assert retry(failing(made)) == 2
    assert folder.count("synthesize") == 6
    assert folder.read_json("ledger.json")["synthesize"]["retried"]["attempts"] == 2


@pytest.mark.parametrize("limited", [True, False])
def test_the_order_of_prompts_counts_where_not_all_are_read(tmp_path: Path, limited: bool) -> None:
    files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    for file in files:
        Path(file).write_text("".join(json.dumps({"prompt": f"Write about {file} {n}"}) + "\n" for n in range(2)))
    made = recipe(tmp_path, ingest={"limit": 2 if limited else None}).model_copy(update={"prompts": tuple(files)})
    folder = run(made, until="ingest")
    first = [row.query for row in rows_of(folder, "ingest")]
    other = made.model_copy(update={"prompts": tuple(reversed(files))})
    if limited:
        with pytest.raises(RunError, match="order: "):
            run(other, until="ingest")
    else:
        run(other, until="ingest")
    assert [row.query for row in rows_of(folder, "ingest")] == first


def test_a_saved_dataset_is_told_by_its_content(tmp_path: Path) -> None:
    import datasets

    def saved(*asked: str) -> Recipe:
        datasets.Dataset.from_list([{"prompt": one} for one in asked]).save_to_disk(str(tmp_path / "set"))
        return recipe(tmp_path).model_copy(update={"prompts": (str(tmp_path / "set"),)})

    folder = run(saved("Write about rain", "Write about fog"), until="ingest")
    run(saved("Write about rain", "Write about fog"), until="ingest")
    with pytest.raises(RunError, match="ingest was made with other settings"):
        run(saved("Write about snow", "Write about fog"), until="ingest")
    assert [row.query for row in rows_of(folder, "ingest")] == ["Write about rain", "Write about fog"]
    run(saved("Write about rain", "Write about fog", "Write about snow"), until="ingest")
    assert len(rows_of(folder, "ingest")) == 3


def test_training_sets_without_an_example_are_no_success_unless_asked_for(tmp_path: Path) -> None:
    made = with_pool(recipe(tmp_path, count=4, synthesize={"goal": "sft", "k": 1}), {"engine": "simulated"})
    never = made.synthesize.model_copy(update={"judge": "logprob", "threshold": 1 - 1e-9})
    judge_says_no = made.model_copy(update={"synthesize": never})
    with pytest.raises(RunError, match="export: no row gave an example for SFT or DPO"):
        run(judge_says_no)
    flow = judge_says_no.flow.model_copy(update={"breaker_share": 1.0})
    assert run(judge_says_no.model_copy(update={"flow": flow})).state("export") == "done"


@pytest.mark.slow
def test_a_model_of_fewer_rounds_claims_nothing_of_those_that_were_run_before(tmp_path: Path, tiny: str) -> None:
    fields = {"max_length": 512, "num_train_epochs": 1}
    policy = {"model": tiny, "lora": {"r": 2}}
    trained: dict[str, Any] = {
        "policy": policy,
        "sft": fields,
        "dpo": fields,
        "train": {"workers": {"min": 1, "max": 1}},
    }
    folder = run(recipe(tmp_path, count=8, align={"iterations": 2}, **trained))
    card = Path(folder.at("model", "README.md"))
    both = card.read_text()
    assert "| round-1/dpo |" in both
    assert "| round-2/dpo |" in both
    run(recipe(tmp_path, count=8, align={"iterations": 1}, **trained))
    assert "round-2/dpo" in folder.read_json("ledger.json")  # it is still there
    one = card.read_text()
    assert "| round-1/dpo |" in one
    assert "round-2" not in one


def test_of_a_finished_run_only_the_export_is_made_anew_and_other_changes_are_refused(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=8)
    folder = run(made)
    files = {path: Path(path).stat().st_mtime_ns for path in folder.data_files("synthesize")}
    run(made)
    assert {path: Path(path).stat().st_mtime_ns for path in folder.data_files("synthesize")} == files
    other = recipe(tmp_path, count=8, synthesize={"k": 2})
    noted = Path(folder.at("recipe.yaml")).read_text()
    with pytest.raises(RunError, match=r"synthesize\.k: 5 → 2"):
        run(other)
    assert Path(folder.at("recipe.yaml")).read_text() == noted
    run(recipe(tmp_path, count=8, export={"layout": "reference", "held_out": 0}))
    first = json.loads(Path(folder.at("export", "composer", "train.jsonl")).read_text().splitlines()[0])
    assert set(first) == {"instruction", "output", "history"}
    assert {path: Path(path).stat().st_mtime_ns for path in folder.data_files("synthesize")} == files
    prompts_file(tmp_path, 7)
    with pytest.raises(RunError, match="ingest was made with other settings"):
        run(made)
    assert len(rows_of(folder, "ingest")) == 8


def test_prompts_of_which_none_can_be_used_are_an_error(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": " "}\n{"prompt": ""}\n')
    with pytest.raises(InputError, match="no prompt could be used: 2 empty"):
        run(made)


def test_prompts_need_not_be_there_once_they_are_read(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=4)
    run(made, until="ingest")
    (tmp_path / "prompts.jsonl").unlink()
    assert len(rows_of(run(made))) == 4


def test_nothing_is_deleted_before_all_is_checked(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=4, policy={"model": "packaged"}, sft={"lerning_rate": 1e-5})
    folder = RunFolder(made.run_folder)
    for step in ("ingest", "decompose", "synthesize", "export", "sft"):
        folder.open_step(step, {})
        folder.finish(step)
    with pytest.raises(RecipeError, match=r"sft\.lerning_rate is not a field"):
        run(made, remake=True)
    assert folder.state("ingest") == folder.state("sft") == "done"


def test_a_retry_where_no_row_failed_deletes_nothing(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    folder = RunFolder(made.run_folder)
    for step in ("synthesize", "export", "sft"):
        folder.open_step(step, {})
    (tmp_path / "run/synthesize/rows").mkdir()
    table = to_table([Row(id=1, query="x", outcome="satisfied")])
    pq.write_table(table, tmp_path / "run/synthesize/rows/a.parquet")
    for step in ("synthesize", "export", "sft"):
        folder.finish(step)
    assert retry(made, remake=True) == 0
    assert folder.state("export") == folder.state("sft") == "done"
