from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultraif_ray.errors import RunError
from ultraif_ray.flow.folder import RunFolder


def test_begin_resume_finish(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert folder.state("synthesize") == ""
    assert folder.begin("synthesize", {"k": 5}) is False
    assert folder.state("synthesize") == "running"
    assert folder.begin("synthesize", {"k": 5}) is False
    folder.finish("synthesize")
    assert folder.begin("synthesize", {"k": 5}) is True


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.begin("synthesize", {"synthesize": {"k": 4, "wave": 1}})
    folder.begin("synthesize", {"synthesize": {"k": 5, "wave": 1}})  # nothing is written yet, so nothing is mixed
    (tmp_path / "synthesize/rows").mkdir()
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "synthesize/rows/a.parquet")
    with pytest.raises(RunError) as caught:
        folder.begin("synthesize", {"synthesize": {"k": 3, "wave": 1}})
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
