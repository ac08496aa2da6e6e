import json
from itertools import islice
from pathlib import Path

import pytest

from ultraif_ray.bench.filters import measure, records_of
from ultraif_ray.data.readers import find_sources
from ultraif_ray.errors import InputError


@pytest.mark.slow
def test_every_filter_is_timed_and_what_all_find_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "Write a poem about the sea.",
        "Thanks!",
        "Écris un poème sur la mer.",
        "Write to ann@example.org about it.",
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    measure([str(file)], rows=8, ids=10)
    said = " ".join(capsys.readouterr().out.split())
    for name, finds in (("asks nothing", 1), ("private data", 2), ("duplicate", 0)):
        assert f" {name} {finds} " in said  # of eight, the second four with a number behind them
    assert "3 other language, 2 accepted, 2 near duplicate, 1 asks nothing" in said
    assert "10 ids: 0 MB of memory" in said


def test_records_come_again_with_a_number_behind_what_humans_said(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    chat = {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "told"}]}
    file.write_text(json.dumps(chat) + "\n" + json.dumps({"title": "x"}) + "\n")
    found = [record for _, record in islice(records_of(find_sources([str(file)])), 4)]
    assert found[:2] == [chat, {"title": "x"}]
    assert found[2] == {"messages": [{"role": "user", "content": "ask (1)"}, {"role": "assistant", "content": "told"}]}
    assert found[3] == {"title": "x"}
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(InputError, match="no record to filter"):
        next(records_of(find_sources([str(tmp_path / "b.jsonl")])))
