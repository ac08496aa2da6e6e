"""What a Ray task of ingest hands on, without Ray."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.simulated import recipe
from ultraif_ray.data.ingest import read_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt
from ultraif_ray.steps import ingest
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder


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
    tables = list(ingest.parse_source(batch, settings))
    rows = [row for table in tables for row in table.to_pylist()]
    assert max(table.num_rows for table in tables) == 2
    found = list(read_prompts(sources, settings))
    assert len(rows) == len(found) == (5 if turns == "all" else 3)
    for row, item in zip(rows, found, strict=True):
        reason = row.pop("reason")
        if isinstance(item, Prompt):
            assert (reason, Prompt.model_validate(row)) == ("", item)
        else:
            assert (reason, row["source"], row["query"]) == (item.reason, item.source, item.seen)


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
