import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.faults import Cut, FailingFileSystem
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
    checkpoint = Path(folder.at(*folder.checkpoint("synthesize")))
    checkpoint.mkdir(parents=True)
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
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {})
    for place, tables in ((("synthesize", "rows"), files), (folder.checkpoint("synthesize"), checkpoints)):
        Path(folder.at(*place)).mkdir(parents=True)
        for name, ids in tables.items():
            write(folder, ids, *place, f"{name}.parquet")
    return folder


def write(folder: RunFolder, ids: list[int], *place: str) -> None:
    table = pa.table({"id": ids, "outcome": ["failed" if one % 2 else "paired" for one in ids]})
    pq.write_table(table, folder.at(*place))


def repair_and_settle(folder: RunFolder) -> None:
    """As a step does at its end."""
    folder.settle("synthesize", folder.repair("synthesize").files)


def ids_in(folder: RunFolder) -> list[int]:
    return sorted(one for batch in folder.read_tables("synthesize") for one in batch.column("id").to_pylist())


def ids_done(folder: RunFolder) -> list[int]:
    """What Ray Data would not do again."""
    place = folder.checkpoint("synthesize")
    names = [n for n in folder.names(*place) if not n.endswith(".pending.parquet")]
    return sorted(one for n in names for one in pq.read_table(folder.at(*place, n))["id"].to_pylist())


def test_settle_leaves_each_id_once_and_forgets_ids_without_their_rows(tmp_path: Path) -> None:
    files = {"a-0": [1, 2], "b-0": [2, 3], "half-0": [9], "late-0": [1, 2]}
    folder = step_with(tmp_path, files, {"a": [1, 2], "b": [2, 3], "lost": [7], "half.pending": [9], "late": [1, 2]})
    repaired = folder.repair("synthesize")
    assert repaired.taken_out == 3
    assert sorted(repaired.ids) == ids_in(folder) == ids_done(folder) == [1, 2, 3]
    assert folder.repair("synthesize").taken_out == 0


def test_forget_takes_failed_rows_out_and_keeps_them_beside(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2, 3], "b-0": [4, 6]}, {"a": [1, 2, 3], "b": [4, 6]})
    folder.finish("synthesize")
    assert folder.forget("synthesize", "outcome", "failed") == 2
    assert folder.state("synthesize") == "running"
    assert ids_in(folder) == ids_done(folder) == [2, 4, 6]
    (kept,) = folder.retried("synthesize")
    assert pq.read_table(kept)["id"].to_pylist() == [1, 3]
    assert folder.forget("synthesize", "outcome", "failed") == 0


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2, 3], "b-0": [4, 6]}, {"a": [1, 2, 3], "b": [4, 6]})
    flushed, named = set[int](), dict[str, bool]()
    monkeypatch.setattr("os.fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    move = LocalFileSystem.mv

    def watched(fs: LocalFileSystem, path1: str, path2: str, **options: Any) -> None:
        named[Path(path2).name] = Path(path1).stat().st_ino in flushed
        move(fs, path1, path2, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", watched)
    folder.finish("synthesize")
    build = folder.build_of("synthesize")
    folder.forget("synthesize", "outcome", "failed")
    assert named == dict.fromkeys(["manifest.json", f"{build}.parquet", "a.parquet", "a-0.parquet"], True)


def test_what_is_written_into_a_finished_step_counts_no_more(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2]}, {"a": [1, 2]})
    folder.finish("synthesize")
    write(folder, [2], "synthesize", "rows", "zombie-0.parquet")
    write(folder, [2], *folder.checkpoint("synthesize"), "zombie.parquet")
    assert ids_in(folder) == [1, 2]
    assert folder.forget("synthesize", "outcome", "failed") == 1
    assert ids_in(folder) == ids_done(folder) == [2]  # the one that counted


def test_what_is_written_between_the_counting_and_the_end_of_a_step_counts_in_neither(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"b-0": [1, 2]}, {"b": [1, 2]})
    repair_and_settle(folder)
    write(folder, [2, 3], "synthesize", "rows", "a-0.parquet")
    write(folder, [2, 3], *folder.checkpoint("synthesize"), "a.parquet")
    assert ids_in(folder) == [1, 2]
    folder.finish("synthesize")
    assert ids_in(folder) == [1, 2]


def test_files_of_another_time_that_the_step_was_begun_never_count(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {"k": 5})
    others = folder.checkpoint("synthesize")
    folder.open_step("synthesize", {"k": 3})
    for place in (others, folder.checkpoint("synthesize"), ("synthesize", "rows")):
        Path(folder.at(*place)).mkdir(parents=True)
    write(folder, [1], "synthesize", "rows", "late-0.parquet")
    write(folder, [1], *others, "late.parquet")
    assert (folder.count("synthesize"), folder.repair("synthesize").files) == (0, [])
    write(folder, [1], "synthesize", "rows", "own-0.parquet")
    write(folder, [1], *folder.checkpoint("synthesize"), "own.parquet")
    assert folder.repair("synthesize").files == ["own-0.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", None], ids=["empty", "a head", "half"])
@pytest.mark.parametrize("broken", ["rows", "ids"])
def test_a_file_that_cannot_be_read_is_moved_aside_and_its_rows_are_done_again(
    tmp_path: Path, content: bytes | None, broken: str
) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2], "b-0": [3], "b-1": [4]}, {"a": [1, 2], "b": [3, 4]})
    place = (
        ("synthesize", "rows", "b-0.parquet") if broken == "rows" else (*folder.checkpoint("synthesize"), "b.parquet")
    )
    file = Path(folder.at(*place))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    repaired = folder.repair("synthesize")
    assert repaired.unreadable == (str(file),)
    assert Path(folder.at("synthesize", "unreadable", file.name)).exists()
    left = [1, 2, 4] if broken == "rows" else [1, 2]
    assert sorted(repaired.ids) == ids_in(folder) == ids_done(folder) == left
    assert folder.repair("synthesize").unreadable == ()


def test_a_broken_file_of_a_step_that_is_done_is_named_and_once_deleted_its_rows_are_made_again(tmp_path: Path) -> None:
    folder = step_with(tmp_path, {"a-0": [1, 2], "b-0": [3]}, {"a": [1, 2], "b": [3]})
    folder.finish("synthesize")
    (file := Path(folder.at("synthesize", "rows", "b-0.parquet"))).write_bytes(b"")
    with pytest.raises(RunError, match=r"rows/b-0\.parquet cannot be read: .* Delete it, and run the same command"):
        ids_in(folder)
    file.unlink()
    assert folder.lost_files("synthesize") == ["b-0.parquet"]
    folder.repair("synthesize")
    folder.reopen("synthesize")
    assert ids_in(folder) == ids_done(folder) == [1, 2]


def test_a_store_that_fails_for_a_moment_moves_no_file(tmp_path: Path) -> None:
    class Down(LocalFileSystem):
        cachable = False

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            raise OSError(5, "Input/output error") if path.endswith("b-0.parquet") else TimeoutError

    folder = step_with(tmp_path, {"a-0": [1], "b-0": [3]}, {"a": [1], "b": [3]})
    manifest = (tmp_path / "synthesize/manifest.json").read_bytes()
    folder.fs = Down()
    folder.fs.cat_file = lambda path: manifest
    with pytest.raises(OSError):  # noqa: PT011 - one of the two
        folder.repair("synthesize")
    assert not (tmp_path / "synthesize/unreadable").exists()


def test_a_pending_twin_of_what_is_committed_is_deleted(tmp_path: Path) -> None:
    """Ray Data would delete the data file with it."""
    folder = step_with(tmp_path, {"a-0": [1]}, {"a": [1], "a.pending": [1], "b.pending": [2]})
    folder.repair("synthesize")
    assert sorted(folder.names(*folder.checkpoint("synthesize"))) == ["a.parquet", "b.pending.parquet"]


def test_a_step_that_is_begun_anew_or_goes_on_after_it_was_done_is_another_build(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.open_step("synthesize", {"k": 5})
    first = folder.build_of("synthesize")
    folder.open_step("synthesize", {"k": 5})
    folder.finish("synthesize")
    assert folder.build_of("synthesize") == first
    folder.reopen("synthesize", grows=True)
    second = folder.build_of("synthesize")
    assert (folder.state("synthesize"), folder.earlier_builds("synthesize")) == ("running", [first])
    folder.reopen("synthesize")
    assert folder.earlier_builds("synthesize") == []
    folder.clear("synthesize")
    folder.open_step("synthesize", {"k": 5})
    assert len({first, second, folder.build_of("synthesize")}) == 3


def test_what_a_step_was_made_from_is_a_change_where_it_was_made_anew(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    rows = {"step": "ingest", "build": "a"}
    folder.open_step("synthesize", {"inputs": {"rows": rows}})
    assert folder.changes("synthesize", {"inputs": {"rows": rows}}) == []
    anew = folder.changes("synthesize", {"inputs": {"rows": rows | {"build": "b"}}})
    assert anew == ["made from: ingest, which was made anew since"]
    assert folder.changes("synthesize", {"inputs": {"rows": rows | {"step": "decompose"}}}) == [
        "made from: ingest → decompose"
    ]


def test_of_many_that_create_a_file_at_once_one_does(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: folder.create({"number": number}, "lease.json"), range(8)))
    assert sum(made) == 1
    assert folder.read_json("lease.json") == {"number": made.index(True)}
    assert folder.names() == ["lease.json"]


def test_a_folder_of_another_format_is_refused_whatever_is_asked_of_it(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.write_json({"state": "done", "fingerprint": "x", "settings": {}}, "ingest", "manifest.json")
    says = r"ingest was made by another version of ultraif-ray \(format 1, not 3\): name another folder with --run"
    for ask in (
        folder.state,
        folder.fingerprint_of,
        folder.inputs,
        folder.finish,
        folder.build_of,
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


# ---- cut off anywhere ------------------------------------------------------------------------------------------------


def cut_at_every_change(start: Path, scratch: Path, act: Callable[[RunFolder], Any]) -> list[RunFolder]:
    """Copies of the folder `start` in which `act` was cut off at its 1st, 2nd, … change; the last is not cut off."""
    found = []
    for n in count(1):
        copy = scratch / str(n)
        shutil.copytree(start, copy)
        folder = RunFolder(str(copy))
        folder.fs = FailingFileSystem(n)
        try:
            act(folder)
        except (Cut, RunError):
            found.append(RunFolder(str(copy)))
        else:
            return [*found, RunFolder(str(copy))]
    raise AssertionError


@dataclass(frozen=True)
class Left:
    """A file of rows that a run left: which of its ids its checkpoint holds, and whether that is committed."""

    rows: frozenset[int]
    committed: frozenset[int]
    pending: bool


one_file = st.builds(
    lambda rows, short, pending: Left(frozenset(rows), frozenset(sorted(rows)[short:]), pending),
    st.sets(st.integers(0, 5), min_size=1),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([False, False, True]),
)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(one_file, min_size=1, max_size=3), st.booleans())
@example([Left(frozenset({1, 2, 3}), frozenset({2, 3}), False), Left(frozenset({3}), frozenset({3}), False)], True)
def test_a_repair_or_a_retry_that_is_cut_off_anywhere_loses_no_row_and_doubles_none(
    tmp_path_factory: pytest.TempPathFactory, left: list[Left], orphan: bool
) -> None:
    base = tmp_path_factory.mktemp("cut")
    files = {f"{n}-0": sorted(one.rows) for n, one in enumerate(left)}
    ids = {f"{n}.pending" if one.pending else f"{n}": sorted(one.committed) for n, one in enumerate(left)}
    step_with(base / "left", files, ids | ({"orphan": [7]} if orphan else {}))
    settled = sorted({one for file in left if not file.pending for one in file.committed})

    for n, folder in enumerate(cut_at_every_change(base / "left", base / "repair", lambda it: it.repair("synthesize"))):
        assert set(ids_done(folder)) - {7} == set(settled), n
        folder.repair("synthesize")
        assert ids_in(folder) == ids_done(folder) == settled, n

    whole = RunFolder(str(base / "left"))
    whole.repair("synthesize")
    whole.finish("synthesize")
    failed = [one for one in settled if one % 2]
    for folder in cut_at_every_change(base / "left", base / "retry", forget_failed):
        assert folder.state("synthesize") == "running" or ids_in(folder) == settled
        forget_failed(folder)
        assert ids_in(folder) == ids_done(folder) == [one for one in settled if not one % 2]
        assert folder.state("synthesize") == ("running" if failed else "done")
        kept = [one for file in folder.retried("synthesize") for one in pq.read_table(file)["id"].to_pylist()]
        assert sorted(kept) == failed  # each attempt once


def forget_failed(folder: RunFolder) -> None:
    folder.forget("synthesize", "outcome", "failed")


def test_a_step_that_is_finished_while_it_is_cut_off_is_done_with_its_files_or_not_done(tmp_path: Path) -> None:
    step_with(tmp_path / "made", {"a-0": [1, 2]}, {"a": [1, 2]})
    cuts = cut_at_every_change(tmp_path / "made", tmp_path / "cut", lambda folder: folder.finish("synthesize"))
    assert [folder.state("synthesize") for folder in cuts][-1] == "done"
    for folder in cuts:
        done = folder.state("synthesize") == "done"
        assert not done or folder.read_json("synthesize", "manifest.json")["files"] == ["a-0.parquet"]


def test_a_step_whose_deletion_is_cut_off_is_done_with_all_its_rows_or_not_done(tmp_path: Path) -> None:
    folder = step_with(tmp_path / "made", {"a-0": [1], "b-0": [2]}, {"a": [1], "b": [2]})
    folder.finish("synthesize")
    cuts = cut_at_every_change(
        tmp_path / "made", tmp_path / "cut", lambda it: it.open_step("synthesize", {"k": 2}, remake=True)
    )
    assert any(not Path(cut.at("synthesize", "rows", "b-0.parquet")).exists() for cut in cuts[:-1])
    for cut in cuts:
        assert cut.state("synthesize") != "done" or ids_in(cut) == [1, 2]


def test_a_step_that_is_begun_anew_is_known_to_hold_what_it_held_wherever_that_is_cut_off(tmp_path: Path) -> None:
    folder = step_with(tmp_path / "made", {"a-0": [1]}, {"a": [1]})
    folder.finish("synthesize")
    before = folder.build_of("synthesize")
    cuts = cut_at_every_change(
        tmp_path / "made", tmp_path / "cut", lambda it: it.restart("synthesize", {"k": 2}, holds=[before])
    )
    assert [cut.names("synthesize") for cut in cuts][-1] == ["manifest.json"]
    for cut in cuts:
        assert cut.build_of("synthesize") == before or cut.earlier_builds("synthesize") == [before]


def test_a_path_is_taken_as_it_is_written(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "e5 [v2] *"))
    folder.open_step("synthesize", {"k": 5})
    (Path(folder.at("synthesize", "rows"))).mkdir()
    pq.write_table(
        pa.table({"id": [1, 2], "outcome": ["failed", "paired"]}), folder.at("synthesize", "rows", "a.parquet")
    )
    folder.copy(("synthesize", "rows"), ("kept", "rows"))
    assert folder.names("kept", "rows") == ["a.parquet"]
    folder.finish("synthesize")
    assert RunFolder(str(tmp_path / "e5 [v2] *")).count("synthesize") == 2
    folder.clear("synthesize")
    assert not folder.holds_steps()


@pytest.mark.parametrize("path", ["what?", "memory://bucket/e5 [v2]", "memory://bucket/a*", "memory://bucket/a?"])
def test_a_path_that_ray_or_a_store_takes_for_something_else_is_refused(path: str) -> None:
    with pytest.raises(RunError, match="choose another with --run"):
        RunFolder(path)
