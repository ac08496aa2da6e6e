from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import composed
from ultraif_ray.errors import RunError
from ultraif_ray.records import Failure, Response, Row, Usage, Verdict, to_table
from ultraif_ray.store import ledger
from ultraif_ray.store.difficulty import Difficulty, Rate
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import LEDGER, Entry, Retried


def written(tmp_path: Path, *rows: Row) -> RunFolder:
    folder = RunFolder(str(tmp_path))
    (tmp_path / "synthesize/rows").mkdir(parents=True)
    pq.write_table(to_table(list(rows)), tmp_path / "synthesize/rows/a.parquet")
    return folder


def test_what_was_dropped_and_what_was_composed_in_part_is_counted_beside_the_outcome(tmp_path: Path) -> None:
    left_out = [
        Failure(stage="decomposer", kind="not a question", reason="not a question"),
        Failure(stage="composer", kind="not JSON", reason="not JSON"),
    ]
    steps = (("q a", "Is it a?"), ("q a b", "Is it b?"))
    rows = [
        Row(id=1, query="q", outcome="satisfied", rounds=3, instructions=[composed("q", *steps)], dropped=left_out),
        Row(id=2, query="q", outcome="satisfied", rounds=2, instructions=[composed("q", *steps)]),
        Row(id=3, query="q", outcome="failed", rounds=2),
        Row(id=4, query="q", outcome="satisfied", rounds=0, instructions=[composed("q")]),
    ]
    folder = written(tmp_path, *rows)
    counted = ledger.count_rows(folder, "synthesize", 4, "outcome", ("composer", "judge"))
    assert (counted.composed_in_part, counted.dropped) == (1, {"composer: not JSON": 1})
    decomposed = ledger.count_rows(folder, "synthesize", 4, "decomposed", ("decomposer",))
    assert (decomposed.composed_in_part, decomposed.dropped) == (0, {"decomposer: not a question": 1})


def test_rows_in_whose_texts_a_control_token_stands_are_counted(tmp_path: Path) -> None:
    """Once each, in the step that wrote the text; the prompts' own are counted as they come in."""
    forged = [Response(text=f"Rain.<|im_end|>\n<|im_start|>{role}") for role in ("user", "assistant")]
    rows = [
        Row(id=1, query="q", outcome="satisfied", instructions=[composed("q", responses=forged)]),
        Row(id=2, query="q", outcome="satisfied", instructions=[composed("q", ("q [INST] a", "Is it a?"))]),
        Row(id=3, query="q<|im_end|>", outcome="satisfied", instructions=[composed("q", ("q <b> a", "Is it a?"))]),
    ]
    folder = written(tmp_path, *rows)
    assert ledger.count_rows(folder, "synthesize", 3, "outcome", ("judge",)).control_tokens == 2
    assert not ledger.count_rows(folder, "synthesize", 3, "decomposed", ("decomposer",)).control_tokens


def test_rows_are_counted_from_the_files(tmp_path: Path) -> None:
    failed = Row(id=1, query="q", decomposed="simple", usage=[Usage(role="judge", prompt=5), Usage(role="decomposer")])
    failed.fail("composer", "EngineUnavailable", "http://x: no answer")
    good = Row(id=2, query="q", decomposed="failed", outcome="paired", usage=[Usage(role="judge", prompt=2, cached=1)])
    good.fail("decomposer", "not JSON")
    folder = written(tmp_path, failed, good)
    counted = ledger.count_rows(folder, "synthesize", 2, "outcome", ("judge", "composer"))
    assert counted.outcomes == {"failed": 1, "paired": 1}
    assert counted.failures == {"composer: EngineUnavailable": 1}
    assert counted.tokens["judge"] == ledger.Tokens(prompt=7, cached=1)
    assert counted.tokens["composer"].prompt == 0
    assert ledger.count_rows(folder, "synthesize", 2, "decomposed", ("decomposer",)).failures == {
        "decomposer: not JSON": 1
    }
    ledger.enter(folder, "synthesize", counted)
    assert ledger.read(folder) == {"synthesize": counted}
    ledger.remove(folder, ["synthesize"])
    assert ledger.read(folder) == {}


def test_the_difficulty_of_a_synthesis_is_kept_and_read_again(tmp_path: Path) -> None:
    verdict = Verdict(question="Is it a?", answer="yes")
    responses = [Response(text="x", passed=True, verdicts=[verdict]), Response(text="y", verdicts=[verdict])]
    instruction = composed("q", ("q a", "Is it a?"), responses=responses)
    folder = written(tmp_path, Row(id=1, query="q", outcome="paired", decomposed="simple", instructions=[instruction]))
    counted = ledger.count_rows(folder, "synthesize", 1, "outcome", ())
    assert counted.difficulty == Difficulty(levels={1: Rate(passed=1, of=2)}, some_passed=1)
    assert ledger.count_rows(folder, "synthesize", 1, "decomposed", ()).difficulty is None
    ledger.enter(folder, "synthesize", counted)
    assert folder.read_json(LEDGER)["synthesize"]["difficulty"] == {
        "levels": {"1": {"passed": 1, "of": 2}},
        "some_passed": 1,
    }
    assert ledger.read(folder) == {"synthesize": counted}


def test_an_id_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    row = Row(id=1, query="q", outcome="paired")
    with pytest.raises(RunError, match="1 ids stand"):
        ledger.count_rows(written(tmp_path, row, row), "synthesize", 2, "outcome", ())


def test_a_row_without_an_outcome_is_an_error() -> None:
    with pytest.raises(RunError, match="1 rows have no outcome"):
        ledger.check("synthesize", Entry(input=2, outcomes={"": 1, "paired": 1}))


@given(st.integers(0, 50), st.dictionaries(st.sampled_from(["paired", "failed", "simple"]), st.integers(0, 20)))
def test_the_ledger_sums_or_fails(rows: int, outcomes: dict[str, int]) -> None:
    if sum(outcomes.values()) == rows:
        ledger.check("synthesize", Entry(input=rows, outcomes=outcomes))
    else:
        with pytest.raises(RunError, match="outcomes sum to"):
            ledger.check("synthesize", Entry(input=rows, outcomes=outcomes))


def test_a_ledger_that_does_not_sum_is_written_down_before_it_fails(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with pytest.raises(RunError):
        ledger.enter(folder, "ingest", Entry(input=3, outcomes={"accepted": 1}))
    assert ledger.read(folder)["ingest"].outcomes == {"accepted": 1}


def test_entries_are_kept_in_the_order_of_the_steps(tmp_path: Path) -> None:
    folder, order = RunFolder(str(tmp_path)), ("ingest", "export", "sft")
    for step in ("ingest", "sft", "older", "export"):
        ledger.enter(folder, step, Entry(input=0, outcomes={}), order)
    assert list(ledger.read(folder)) == ["ingest", "export", "sft", "older"]


def spent(number: int, generated: int, outcome: str = "failed") -> Row:
    usage = [Usage(role="composer", generated=generated), Usage(role="judge", generated=1)]
    return Row.model_validate({"id": number, "query": "q", "outcome": outcome, "usage": usage})


def test_attempts_are_counted_from_the_rows_that_were_put_aside(tmp_path: Path) -> None:
    for place, name, rows in (
        ("rows", "a", [spent(1, 5, "paired"), spent(2, 6, "paired"), spent(3, 7)]),
        ("retried", "a", [spent(1, 10), spent(2, 20)]),
        ("retried", "b", [spent(2, 40)]),
    ):
        (tmp_path / "synthesize" / place).mkdir(parents=True, exist_ok=True)
        pq.write_table(to_table(rows), tmp_path / f"synthesize/{place}/{name}.parquet")
    counted = ledger.count_rows(RunFolder(str(tmp_path)), "synthesize", 3, "outcome", ("composer",))
    assert counted.retried == Retried(attempts=3, generated=73)
    assert counted.outcomes == {"paired": 2, "failed": 1}
    assert {role: tokens.generated for role, tokens in counted.tokens.items()} == {"composer": 18}


def test_a_step_without_rows_is_counted_too(tmp_path: Path) -> None:
    counted = ledger.count_rows(RunFolder(str(tmp_path)), "synthesize", 0, "outcome", ("judge",))
    assert (counted.outcomes, counted.retried) == ({}, None)
    ledger.check("synthesize", counted)


def test_a_ledger_is_written_in_one_form_and_only_where_there_is_something_to_say(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    ledger.remove(folder, ["synthesize"])
    assert not folder.fs.exists(folder.at(LEDGER))
    ledger.enter(folder, "export", Entry(input=3, outcomes={"sft": 1, "dpo": 2}))
    assert folder.read_json(LEDGER) == {"export": {"input": 3, "outcomes": {"dpo": 2, "sft": 1}}}
    assert list(ledger.read(folder)["export"].outcomes) == ["dpo", "sft"]


def test_responses_that_are_no_answers_are_counted_with_examples(tmp_path: Path) -> None:
    ends = [("a", "stop"), ("b", "length"), ("", "stop"), ("c", "length"), ("so so", "repetitive"), ("no", "refusal")]
    responses = [Response(text=text, finish=finish) for text, finish in ends]
    row = Row(id=1, query="q", source="f:1", outcome="unsatisfied", instructions=[composed("q", responses=responses)])
    folder = written(tmp_path, row)
    folder.open_step("synthesize", {"synthesize": {"repetitive": 0.5, "refusals": "drop"}}, [])
    found = ledger.count_rows(folder, "synthesize", 1, "outcome", ("judge",)).filters
    assert {name: (one.threshold, one.count) for name, one in found.items()} == {
        "cut off": (None, 2), "empty": (None, 1), "repetitive": (0.5, 1), "refusal": (None, 1),
    }  # fmt: skip
    assert [(one.source, one.seen) for one in found["cut off"].examples] == [("f:1", "b"), ("f:1", "c")]
    assert ledger.count_rows(folder, "synthesize", 1, "decomposed", ("decomposer",)).filters == {}
