import json
import random
from pathlib import Path

import pytest

from tests.method.test_contamination import AROUND, BENCHMARK, INDEX
from ultraif_ray.bench.contamination import edited, index, measure, read_all, recased, with_stock_phrases
from ultraif_ray.errors import InputError
from ultraif_ray.method.contamination import load


def written(file: Path, *prompts: str) -> str:
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(file)


def test_words_are_edited_with_the_probability_that_is_asked_for() -> None:
    text = " ".join(f"w{i}" for i in range(2000))
    made = edited(text, 0.1, ["new"], random.Random(0)).split(" ")
    assert 2000 - len(set(made) - {"new"}) == pytest.approx(2 * 200 / 3, rel=0.2)  # replaced, or left out
    assert made.count("new") == pytest.approx(2 * 200 / 3, rel=0.2)  # replaced, or put in front
    assert edited(text, 0.0, ["new"], random.Random(0)) == text
    assert recased("Write, please: a.b") == "WRITE - PLEASE - A -B"


def test_an_index_is_made_from_files(tmp_path: Path) -> None:
    file = written(tmp_path / "own.jsonl", *BENCHMARK)
    index(tmp_path / "out.npz", [f"own={file}"])
    made = load(str(tmp_path / "out.npz"))
    assert [one.prompt for one in made] == [str(number + 1) for number in range(len(BENCHMARK))]
    assert [one.grams.tolist() for one in made] == [one.grams.tolist() for one in INDEX.prompts]
    with pytest.raises(InputError, match="wants NAME=FILE"):
        read_all([file])


@pytest.mark.slow  # lm-eval is imported, which makes IFEval's phrases
def test_what_is_missed_and_hit_is_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = written(tmp_path / "own.jsonl", *BENCHMARK)
    clean = written(tmp_path / "clean.jsonl", *AROUND, "How do I repot a cactus without harm?", f"So: {BENCHMARK[7]}")
    measure([f"own={own}"], clean=[clean])
    said = " ".join(capsys.readouterr().out.split())
    assert f"1.00 {clean}:4 ~ own 8" in said.replace("\n", "")
    assert "of 80 planted are missed; of 4 clean and" in said
    (before, after), *_ = with_stock_phrases(["How do I repot a cactus without harm?"])
    assert after.startswith(before)
    assert len(after) > len(before) + 10
