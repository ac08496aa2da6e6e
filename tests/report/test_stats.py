"""What a data set holds, in one screen, as the command prints it."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.evaluate.benchmarks import written
from tests.report.test_show import HOSTILE, paired
from ultraif_ray import stats
from ultraif_ray.cli import main
from ultraif_ray.data.stats import Copied, Stats
from ultraif_ray.errors import InputError, RunError
from ultraif_ray.records import Row, to_table
from ultraif_ray.report.stats import print_stats
from ultraif_ray.store.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three paired rows and one that failed."""
    folder = RunFolder(str(tmp_path / "run"))
    for step in ("ingest", "round-1/synthesize", "synthesize"):
        folder.open_step(step, {})
        (place := Path(folder.at(step, "rows"))).mkdir()
        rows = [*map(paired, range(3)), Row(id=9, query="x", outcome="failed", decomposed="simple")]
        if step == "ingest":
            rows = [Row(id=row.id, query=row.query, source=f"/data/a.jsonl:{row.id}") for row in rows]
        for row in rows:
            for instruction in row.instructions:
                instruction.responses[0].verdicts = [
                    instruction.responses[1].verdicts[0].model_copy(update={"answer": "yes"})
                ]
        pq.write_table(to_table(rows), place / "a.parquet")
        folder.finish(step)
    return folder


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_run_is_shown_in_one_screen(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    print_stats(stats(str(run)))
    said = lines_of(capsys)
    assert "".join(said).replace(" ", "").startswith(f"{run}/synthesize:4records")
    for line in (
        "records paired: 3 (75 %), failed: 1 (25 %)",
        "levels 1: 3 (100 %)",
        "checkers words: 3 (100 %)",
        "pass rate between: 3 (100 %)",
        "passed, by level 1: 50 % of 6",
        "met, by checker words: 50 % of 6",
        "exact copies 0 of 4 prompts; 6 of 9 answers (67 %)",
        "composed 3 13 13 13 13 13 13",
        "4 at random",
        "1: rain, briefly",
        "response: Rain.",
    ):
        assert line in said, line
    assert len(said) < 50


@pytest.mark.parametrize("step", ["ingest", "synthesize", "round-1/synthesize"])
def test_a_step_is_named_by_its_name_or_by_its_folder(run: RunFolder, step: str) -> None:
    by_name, by_folder = stats(str(run), step=step), stats(run.at(step))
    assert by_name == by_folder
    assert by_name.kinds == ({"accepted": 4} if step == "ingest" else {"paired": 3, "failed": 1})
    assert by_name.sources == ({"/data/a.jsonl": 4} if step == "ingest" else {})


def test_what_is_no_data_is_refused_with_what_is(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no rows of 'judge'; there is synthesize, ingest"):
        stats(str(run), step="judge")
    folder = RunFolder(str(tmp_path / "sets"))
    folder.open_step("export", {})
    with pytest.raises(RunError, match=r"has no rows, only sets: name one, such as .*/sets/export/sft"):
        stats(str(folder))
    numbers = written(tmp_path / "numbers.jsonl", [{"x": 1}, {"x": 2}])
    with pytest.raises(InputError, match=r"numbers.jsonl:1: no field of prompts: .* Accepted: ShareGPT"):
        stats(numbers)
    with pytest.raises(InputError, match="no folder of a run, so it has no step 'ingest'"):
        stats(numbers, step="ingest")
    with pytest.raises(InputError, match="no such file"):
        stats(str(tmp_path / "nothing.jsonl"))


def test_the_command_prints_the_figures_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing in a text reaches the terminal but its letters."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    records = [{"prompt": HOSTILE, "completion": f"yes\n{HOSTILE}", "category": HOSTILE}] * 3
    some = [written(tmp_path / f"{name}.jsonl", records) for name in ("one", "two")]
    out = tmp_path / "figures.json"
    words = [*some, "ingest.encoding=utf-8", "-n", "2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["ultraif", "stats", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "[/set] [red]x[/red] :smile: \\u001b]52;c;cm0=" in said
    assert not {"\x07", "\u202e"} & set(said)
    assert "\x1b]" not in said
    assert "one.jsonl: 3 (50 %), two.jsonl: 3 (50 %)" in said
    found = Stats.model_validate(json.loads(out.read_text()))
    assert found == stats(some, rows=2)
    assert (found.records, len(found.drawn)) == (6, 2)
    assert found.same_prompt == Copied(count=5, of=6, exact=True)


def test_an_encoding_is_named_as_the_message_says(tmp_path: Path) -> None:
    (file := tmp_path / "a.csv").write_bytes("prompt\nÉcris-moi un poème sur la mer s'il te plaît\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"set ingest\.encoding=cp1252"):
        stats(str(file))
    assert stats(str(file), encoding="cp1252").languages == {"fr": 1}
    with pytest.raises(InputError, match="no encoding is called 'latin-99'"):
        stats(str(file), encoding="latin-99")


def test_only_what_is_all_says_100_percent(capsys: pytest.CaptureFixture[str]) -> None:
    found = Stats(of="a", records=2000, kinds={"a": 1999, "b": 1}, levels=dict.fromkeys(range(20), 100))
    print_stats(found)
    said = lines_of(capsys)
    assert said[0] == "a: 2,000 records"
    assert "records a: 1,999 (>99 %), b: 1 (<1 %)" in said
    assert any("8: 100 (5 %), 11 more: 1,100 (55 %)" in line for line in said)
