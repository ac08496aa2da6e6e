import json
from pathlib import Path
from typing import Any

import pytest

from ultraif_ray.data.benchmarks import kept_out, read_against, read_benchmark
from ultraif_ray.data.ingest import Rejection, to_prompts
from ultraif_ray.errors import InputError
from ultraif_ray.method.contamination import Index, index_of
from ultraif_ray.recipe import Against, Decontaminate, Ingest
from ultraif_ray.records import Prompt

ASKED = "Describe the oldest lighthouse on the island in four short lines."
OTHER = "List every tool that a bookbinder keeps within reach of the press."


def jsonl(file: Path, *records: Any) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def test_a_benchmark_is_read_in_any_shape_and_every_human_turn_of_it(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    file = jsonl(tmp_path / "x.jsonl", {"key": 17, "prompt": "p"}, {"question": "q"}, {"id": "m", "messages": turns},
                 {"instruction": ""})  # fmt: skip
    assert [(one.id, one.text) for one in read_benchmark((file,))] == [
        ("17", "p"), ("2", "q"), ("m", "a"), ("m", "c"),
    ]  # fmt: skip


def test_in_several_files_an_id_has_its_files_name(tmp_path: Path) -> None:
    for name in "ab":
        jsonl(tmp_path / f"{name}.jsonl", {"prompt": name})
    assert [one.id for one in read_benchmark((str(tmp_path),))] == ["a 1", "b 1"]


def test_a_benchmark_that_is_not_there_is_missed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_against({"own": Against(files=(str(tmp_path / "a.jsonl"),))})


def test_a_step_knows_the_index_that_ships_and_each_file_by_its_state(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", {"prompt": ASKED})
    settings = Decontaminate(against={"own": Against(files=(file,), share=0.6)})
    first = kept_out(settings)
    assert set(first["benchmarks"]) == {"own", "shipped"}
    assert kept_out(settings.model_copy(update={"index": "somewhere"})) == first
    jsonl(tmp_path / "a.jsonl", {"prompt": OTHER})
    assert kept_out(settings) != first
    assert kept_out(Decontaminate(benchmarks="none"))["benchmarks"] == {}


# ---- at ingest -------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Index:
    file = jsonl(tmp_path / "own.jsonl", {"key": 4, "prompt": ASKED})
    found = index_of(Decontaminate(benchmarks="none"), read_against({"own": Against(files=(file,))}))
    assert found
    return found


def every(index: Index | None, *texts: str, **options: Any) -> list[Prompt | Rejection]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return list(to_prompts({"messages": turns}, "f:1", Ingest(**options), index))


def test_a_benchmarks_prompt_is_turned_away_with_its_benchmark_its_id_and_how_much_of_it(index: Index) -> None:
    (item,) = every(index, f"Please: {ASKED.upper()}")
    assert item == Rejection("f:1", "contaminated", f"Please: {ASKED.upper()}", "own", "4", 1.0)
    (item,) = every(index, f"Please: {ASKED.replace('oldest', 'newest')}")
    assert isinstance(item, Rejection)
    assert item.value
    assert 0.45 < item.value < 1
    for text, held in ((OTHER, index), (ASKED, None)):
        (item,) = every(held, text)
        assert isinstance(item, Prompt)


def test_so_are_those_that_have_it_in_their_history_but_not_an_answer(index: Index) -> None:
    found = every(index, "Tell me of the sea.", "Gladly.", ASKED, "It is white.", "And the newest one?", turns="all")
    assert [item.reason if isinstance(item, Rejection) else item.query for item in found] == [
        "Tell me of the sea.", "contaminated", "contaminated",
    ]  # fmt: skip
    (item,) = every(index, "What could I be asked?", ASKED, "And what more?")
    assert isinstance(item, Prompt)


def test_it_is_no_duplicate_nor_too_long_before(index: Index) -> None:
    (item,) = every(index, ASKED, max_chars=10)
    assert isinstance(item, Rejection)
    assert item.reason == "too long"
