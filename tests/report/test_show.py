"""A run in words: pages of rows, its end, and text that is never taken for markup."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.scripted import composed
from ultraif_ray.errors import RunError
from ultraif_ray.records import Check, Constraint, Response, Row, Verdict, to_table
from ultraif_ray.report.show import curve, print_end, print_rows
from ultraif_ray.store import ledger
from ultraif_ray.store.difficulty import Difficulty, Rate
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, Tokens, Training


def paired(number: int) -> Row:
    no = Verdict(question="Is it short?", by="code", answer="no", p_yes=0.25, explanation="It is long.")
    refusal = Response(text="I can't.", finish="refusal")
    responses = [Response(text="Rain.", passed=True), Response(text="Rain and rain.", verdicts=[no]), refusal]
    instruction = composed("rain", ("rain, briefly", "Is it short?"), responses=responses)
    instruction.added[0].check = Check(name="words", relation="at most", number=2)
    found = Constraint(category="format", text="in French", simplified_query="rain", question="Is it French?")
    return Row(
        id=number,
        query=f"rain {number} in French [bold]",
        constraints=[found],
        instructions=[instruction],
        decomposed="decomposed",
        outcome="paired",
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three paired rows and one that failed."""
    failed = Row(id=9, query="x", decomposed="simple")
    failed.fail("composer", "RequestRefused", "longer than the context", "half of [red]it")
    folder = RunFolder(str(tmp_path / "run [v2] [/b]"))  # whose path is no markup
    for step in ("ingest", "synthesize"):
        folder.open_step(step, {})
        (place := Path(folder.at(step, "rows"))).mkdir()
        rows = [*map(paired, range(3)), failed]
        pq.write_table(to_table(rows), place / "a.parquet")
        folder.finish(step)
    tokens = {"judge": Tokens(requests=4, prompt=1200, cached=300, generated=64)}
    ledger.enter(folder, "synthesize", Entry(input=4, outcomes={"paired": 3, "failed": 1}, tokens=tokens))
    return folder


def test_rows_come_in_pages(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(str(run), "paired", rows=1, skip=1)
    said = capsys.readouterr().out
    assert "rain 1 in French" in said
    assert "rain 0" not in said
    assert "1 of 3 rows that ended as paired" in said
    assert "more: --skip 2" in said
    assert str(run) in said.replace("\n", "")


def test_a_row_is_shown_whole_and_its_text_is_no_markup(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(str(run), None, rows=9, skip=0)
    said = capsys.readouterr().out
    for part in ("in French [bold]", "constraint, format: in French", "composed, 1 added: rain, briefly",
                 "check: words at most 2", "verdict, by code: no",
                 "response 1, passed: Rain.", "response 2, failed: Rain and rain.",
                 "response 3, refusal: I can't.", "no (p yes 0.25): Is it short?",
                 "composer failed: RequestRefused: longer than the context",
                 "on the reply: half of [red]it"):  # fmt: skip
        assert part in said


HOSTILE = "[/set] [red]x[/red] :smile: \x1b]52;c;cm0=\x07\x1b[2J\x1b]8;;http://x\x1b\\\\\x9b31m\u202e"


def test_nothing_in_a_text_reaches_the_terminal_but_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich would take it for markup and names of emoji, the terminal for orders. Rich's colours are all there is."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    row = paired(1).model_copy(update={"query": HOSTILE, "source": f"data{HOSTILE}.jsonl:1"})
    row.instructions[0].responses[0].text = HOSTILE
    row.instructions[0].added[0].questions = [f"Is it {HOSTILE}?"]
    row.fail("judge", HOSTILE, HOSTILE, HOSTILE)
    folder = RunFolder(str(tmp_path / "run"))
    folder.open_step("synthesize", {})
    (tmp_path / "run/synthesize/rows").mkdir()
    pq.write_table(to_table([row]), tmp_path / "run/synthesize/rows/a.parquet")
    folder.finish("synthesize")
    failures = {f"judge: {HOSTILE}": 1}
    difficulty = Difficulty(levels={1: Rate(passed=1, of=2000)})
    entry = Entry(input=1, outcomes={"paired": 1}, failures=failures, control_tokens=1, difficulty=difficulty)
    ledger.enter(folder, "synthesize", entry)
    print_rows(str(folder), None, rows=1, skip=0)
    print_end(folder, "synthesize")
    said = capsys.readouterr().out
    styled = re.compile(r"\x1b\[[0-9;]*m")
    assert styled.search(said)
    plain = styled.sub("", said)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", plain)
    whole = "".join(plain.split())
    assert "[/set][red]x[/red]:smile:\\u001b]52;c;cm0=\\u001b[2J" in whole  # Rich drops the bell itself
    assert "1holdcontroltokens,readastext" in whole
    assert "responsesthatpassed,bynumberofconstraints:1:<1%of2,000" in whole


def test_a_step_without_rows_is_named(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has no rows of 'round-1/synthesize'; there is synthesize, ingest"):
        print_rows(str(run), None, rows=1, skip=0, step="round-1/synthesize")


def test_the_end_shows_funnel_tokens_and_losses(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    tried = {"evaluated": 4, "valid_json": 0.5, "usable": 0.25, "usable_prompted": 0.75, "takes_over": False}
    report = Training.model_validate({"loss": [2.0, 1.0], "held_out_loss": [2.5, 1.5], **tried})
    ledger.enter(run, "composer", Entry(input=5, outcomes={"trained on": 5}, training=report))
    run.write_text("| ifeval | strict | 541 | 18.5 [15.3, 21.8] |\n", "evaluation", "table.md")
    print_end(run, "synthesize")
    assert f"synthesize: done, in {run}/synthesize" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    print_end(run, "")
    assert "18.5" not in capsys.readouterr().out  # before it is done
    run.open_step("evaluation", {})
    run.finish("evaluation")
    print_end(run, "")
    said = " ".join(capsys.readouterr().out.split())
    assert "1 failed, 3 paired" in said
    assert "1,200" in said
    assert "2.500 → 1.500" in said
    assert "composer: of 4 held-out pairs, 50% were answered with valid JSON, 25% with what could be used (75%" in said
    assert "composer: the prompted composer stays" in said
    assert "Benchmarks | ifeval | strict | 541 | 18.5 [15.3, 21.8] |" in said


def test_a_curve_has_its_lowest_and_highest_point() -> None:
    assert curve([1, 2, 3]) == "▁▅█"
    assert curve([2, 2]) == "▄▄"
    assert len(curve(list(range(100)), width=10)) == 10
    assert curve([]) == ""
