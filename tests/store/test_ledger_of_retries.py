"""What a step's rows cost before they were done again, and what is counted where there are several, or none."""

from pathlib import Path

import pyarrow.parquet as pq

from ultraif_ray.records import Row, Usage, to_table
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import LEDGER, Entry, Retried


def row(number: int, generated: int, outcome: str = "failed") -> Row:
    usage = [Usage(role="composer", generated=generated), Usage(role="judge", generated=1)]
    return Row.model_validate({"id": number, "query": "q", "outcome": outcome, "usage": usage})


def test_attempts_are_counted_from_the_rows_that_were_put_aside(tmp_path: Path) -> None:
    for place, name, rows in (
        ("rows", "a", [row(1, 5, "paired"), row(2, 6, "paired"), row(3, 7)]),
        ("retried", "a", [row(1, 10), row(2, 20)]),
        ("retried", "b", [row(2, 40)]),
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
