from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder


def test_begin_resume_finish(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert folder.state("synthesize") == ""
    assert folder.open_step("synthesize", {"k": 5}) is False
    assert folder.state("synthesize") == "running"
    assert folder.open_step("synthesize", {"k": 5}) is False
    folder.finish("synthesize")
    assert folder.open_step("synthesize", {"k": 5}) is True


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {"synthesize": {"k": 4, "wave": 1}})
    folder.open_step("synthesize", {"synthesize": {"k": 5, "wave": 1}})  # nothing is written yet, so nothing is mixed
    (tmp_path / "synthesize/rows").mkdir()
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "synthesize/rows/a.parquet")
    with pytest.raises(RunError) as caught:
        folder.open_step("synthesize", {"synthesize": {"k": 3, "wave": 1}})
    assert "synthesize.k: 5 → 3" in str(caught.value)
    assert "wave" not in str(caught.value)


def test_only_files_whose_checkpoint_is_committed_count(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    for name in ("a_000000-0", "a_000001-0", "a_000002-0"):
        (tmp_path / "synthesize/rows").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [1, 2]}), tmp_path / f"synthesize/rows/{name}.parquet")
    assert folder.count("synthesize") == 6  # a step without checkpoints: all of them
    checkpoint = tmp_path / "synthesize/checkpoint"
    checkpoint.mkdir()
    (checkpoint / "a_000000.parquet").touch()
    (checkpoint / "a_000001.pending.parquet").touch()
    assert [Path(f).name for f in folder.data_files("synthesize")] == ["a_000000-0.parquet"]
    assert folder.count("synthesize") == 2


def test_nothing_is_forgotten_where_nothing_is_written(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {"k": 5})
    assert folder.forget("synthesize", "outcome", "failed") == 0


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_broken_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(RunError, match=r"ledger\.json"):
        RunFolder(str(tmp_path)).read_json("ledger.json")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder(str(tmp_path / "file")).write_text("x", "recipe.yaml")


def test_paths_for_ray_are_absolute_and_keep_their_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/x").uri("ingest") == f"{tmp_path}/runs/x/ingest"
    assert RunFolder("memory://b/runs/").uri("ingest") == "memory:///b/runs/ingest"


def step_with(tmp_path: Path, files: dict[str, list[int]], checkpoints: dict[str, list[int]]) -> RunFolder:
    for kind, tables in (("rows", files), ("checkpoint", checkpoints)):
        (tmp_path / "synthesize" / kind).mkdir(parents=True)
        for name, ids in tables.items():
            table = pa.table({"id": ids, "outcome": ["failed" if one % 2 else "paired" for one in ids]})
            pq.write_table(table, tmp_path / "synthesize" / kind / f"{name}.parquet")
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {})
    return folder


def ids_in(folder: RunFolder) -> list[int]:
    return sorted(one for batch in folder.read_tables("synthesize") for one in batch.column("id").to_pylist())


def ids_done(folder: RunFolder) -> list[int]:
    """What Ray Data would not do again."""
    names = [n for n in folder.names("synthesize", "checkpoint") if not n.endswith(".pending.parquet")]
    return sorted(
        one for n in names for one in pq.read_table(folder.at("synthesize", "checkpoint", n))["id"].to_pylist()
    )


def test_settle_leaves_each_id_once_and_forgets_ids_without_their_rows(tmp_path: Path) -> None:
    files = {"a-0": [1, 2], "b-0": [2, 3], "half-0": [9], "late-0": [1, 2]}
    folder = step_with(tmp_path, files, {"a": [1, 2], "b": [2, 3], "lost": [7], "half.pending": [9], "late": [1, 2]})
    assert folder.repair("synthesize") == 3
    assert ids_in(folder) == ids_done(folder) == [1, 2, 3]
    assert folder.repair("synthesize") == 0


def test_settle_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """The ids are replaced before the rows."""
    folder = step_with(tmp_path, {"a-0": [1, 2, 3]}, {"a": [2]})
    assert folder.repair("synthesize") == 2
    assert ids_in(folder) == [2]


def test_forget_takes_failed_rows_out_and_keeps_them_beside(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2, 3], "b-0": [4, 6]}, {"a": [1, 2, 3], "b": [4, 6]})
    folder.finish("synthesize")
    assert folder.forget("synthesize", "outcome", "failed") == 2
    assert folder.state("synthesize") == "running"
    assert ids_in(folder) == ids_done(folder) == [2, 4, 6]
    assert pq.read_table(tmp_path / "synthesize/retried/attempt-1.parquet")["id"].to_pylist() == [1, 3]
    assert folder.forget("synthesize", "outcome", "failed") == 0


def test_what_is_written_into_a_finished_step_counts_no_more(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2]}, {"a": [1, 2]})
    folder.finish("synthesize")
    pq.write_table(pa.table({"id": [2]}), tmp_path / "synthesize/rows/zombie-0.parquet")
    pq.write_table(pa.table({"id": [2]}), tmp_path / "synthesize/checkpoint/zombie.parquet")
    assert ids_in(folder) == [1, 2]


def test_a_folder_of_another_format_is_refused_whatever_is_asked_of_it(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.write_json({"state": "done", "fingerprint": "x", "settings": {}}, "ingest", "manifest.json")
    says = r"ingest was made by another version of ultraif-ray \(format 1, not 2\): name another folder with --run"
    for ask in (
        folder.state,
        folder.fingerprint_of,
        folder.inputs,
        folder.finish,
        lambda step: folder.open_step(step, {}),
    ):
        with pytest.raises(RunError, match=says):
            ask("ingest")


def test_a_folder_holds_steps_once_one_has_begun(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    (tmp_path / "notes.txt").write_text("")
    assert not folder.holds_steps()
    folder.open_step("export", {})
    assert folder.holds_steps()
