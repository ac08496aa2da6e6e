"""What a Ray task of ingest hands on, without Ray."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.simulated import recipe
from ultraif_ray.data.ingest import Rejection, read_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.method.contamination import Index, Rule, guard, known
from ultraif_ray.recipe import Decontaminate, Ingest
from ultraif_ray.records import Prompt
from ultraif_ray.steps import ingest
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import run
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Filtered


@pytest.mark.parametrize("turns", ["last", "first", "all", "mixed"])
def test_a_task_hands_on_what_the_reader_found_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: Any
) -> None:
    said = ["tell me", "one", "tell me more", "two", "thanks"]
    chat = {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]}
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in (chat, {"prompt": " "}, {"prompt": "ask"})))
    monkeypatch.setattr(ingest, "ROWS_AT_ONCE", 2)
    settings, sources = Ingest(turns=turns), find_sources([str(file)])
    batch = pa.Table.from_pylist([{"path": source.path, "kind": source.kind} for source in sources])
    benchmarks = Index([known("own", "4", "ask", 1)], Rule(n=1, window=None))
    tables = list(ingest.parse_source(batch, settings, benchmarks))
    rows = [row for table in tables for row in table.to_pylist()]
    assert max(table.num_rows for table in tables) == 2
    found = list(read_prompts(sources, settings, benchmarks))
    assert len(rows) == len(found) == (5 if turns == "all" else 3)
    for row, item in zip(rows, found, strict=True):
        why = [row.pop(name) for name in ("reason", "kind", "like", "value", "masked")]
        if isinstance(item, Prompt):
            assert (why[0], Prompt.model_validate(row)) == ("", item)
        else:
            assert Rejection(row["source"], why[0], row["query"], *why[1:]) == item
    assert [item.reason for item in found if isinstance(item, Rejection)][-1] == "contaminated"


def test_the_same_files_in_another_order_are_other_prompts(tmp_path: Path) -> None:
    """Of two duplicates the first stays, and a limit takes the first."""
    files = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    for file in files:
        Path(file).write_text('{"prompt": "ask"}\n')
    made = recipe(tmp_path)
    found = [
        ingest.Ingest().settings(Context(made.model_copy(update={"prompts": order}), RunFolder(made.run_folder)))
        for order in (tuple(files), tuple(reversed(files)))
    ]
    assert found[0] != found[1]
    assert found[0]["prompts"] == found[1]["prompts"]


def test_what_is_contaminated_stands_in_the_ledger_and_among_the_rejected(tmp_path: Path, no_ray: None) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"key": 4, "prompt": "Describe the oldest lighthouse on the island, in verse."}\n')
    made = recipe(tmp_path, decontaminate={"against": {"own": {"files": [str(own)], "share": 0.6}}})
    folder = run(made, until="ingest")
    filters = ledger.read(folder)["ingest"].filters
    assert filters["contaminated"] == Filtered(threshold=0.45, count=0)
    assert {name: one.count for name, one in filters.items()} == {
        "contaminated": 0, "duplicate": 1, "asks nothing": 0,
    }  # fmt: skip
    with open(made.prompts[0], "a", encoding="utf-8") as file:
        for text in ("DESCRIBE the oldest lighthouse on the island in verse", "Describe the oldest tree in verse"):
            file.write(json.dumps({"prompt": text}) + "\n")
    folder = run(made, until="ingest")
    entry = ledger.read(folder)["ingest"]
    assert entry.outcomes["contaminated"] == 1
    (example,) = entry.filters["contaminated"].examples
    assert (example.kind, example.like, example.value) == ("own", "4", 1.0)
    assert example.seen.startswith("DESCRIBE")
    table = pq.read_table(folder.uri("ingest", "rejected"))
    (kept,) = [row for row in table.to_pylist() if row["reason"] == "contaminated"]
    assert (kept["kind"], kept["like"], kept["value"], kept["source"]) == ("own", "4", 1.0, example.source)


def test_a_recipe_that_keeps_more_out_reads_anew_and_one_that_turns_nothing_away_does_not(
    tmp_path: Path, no_ray: None
) -> None:
    made = recipe(tmp_path)
    first = run(made, until="ingest").build_of("ingest")
    less = made.model_copy(update={"decontaminate": Decontaminate(benchmarks="none")})
    assert run(less, until="ingest").build_of("ingest") == first


def test_the_composer_is_held_to_the_files_too(tmp_path: Path, no_ray: None) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "Describe the oldest lighthouse on the island, in verse."}\n')
    made = recipe(tmp_path, decontaminate={"against": {"own": str(tmp_path / "own.jsonl")}})
    (step,) = [one for one in plan(made, RunFolder(made.run_folder)) if isinstance(one, Synthesize)]
    context = Context(made, RunFolder(made.run_folder))
    run(made, until="synthesize")
    held = guard(step.serving(context).decontaminate)
    assert held
    assert held.find("describe the oldest lighthouse on the island in verse")
    assert step.settings(context)["benchmarks"].keys() == {"own", "shipped"}


def test_a_filter_that_is_on_stands_in_the_ledger_with_its_threshold_and_examples(tmp_path: Path, no_ray: None) -> None:
    file = tmp_path / "more.jsonl"
    texts = ["Écris un poème sur la mer.", "Write to ann@example.org about the sea.", "Write a poem about the sea."]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    options = {"languages": ["en"], "private": "mask", "near_duplicates": 0.8, "asks_nothing": "keep"}
    made = recipe(tmp_path, prompts=[str(file)], ingest=options)
    entry = ledger.read(run(made, until="ingest"))["ingest"]
    assert entry.outcomes == {"accepted": 2, "other language": 1}
    assert {name: (one.threshold, one.count) for name, one in entry.filters.items()} == {
        "contaminated": (0.45, 0), "duplicate": (None, 0), "near duplicate": (0.8, 0), "other language": (None, 1),
        "private data": (None, 1),
    }  # fmt: skip
    (example,) = entry.filters["private data"].examples
    assert (example.kind, example.seen) == ("e-mail address", "")
    (example,) = entry.filters["other language"].examples
    assert (example.kind, example.seen, example.source) == ("fr", texts[0], f"{file}:1")
