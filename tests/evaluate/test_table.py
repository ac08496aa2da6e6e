import re
from pathlib import Path
from typing import Any

import pytest

from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.table import differences, plot, side_by_side, table


def samples(*right: bool, metric: str = "acc", read_by: str = "none", data: str = "data") -> list[dict[str, Any]]:
    return [
        {"doc_id": number, "doc_hash": data, "filter": read_by, "metrics": [metric], metric: one}
        for number, one in enumerate(right)
    ]


START = {
    "maths": samples(True, False, False, False, read_by="strict"),
    "words": samples(*[True] * 5, *[False] * 15) + samples(*[-2.5, -3.5] * 10, metric="loglikelihood"),  # type: ignore[arg-type]
}
TRAINED = {
    "words": samples(*[False] * 2, *[True] * 13, *[False] * 5),
    "judged": [
        {"doc_id": number, "filter": "none", "metrics": ["hsr", "ssr_level_1"], "ssr_level_1": 0.5,
         "scores": {"hsr": [{"prompt": str(number), "got": 1.0, "of": 1.0, "cluster": "one|path", "part": ""}]}}
        for number in range(5)
    ],
}  # fmt: skip
FOUND = side_by_side({"start": START, "a|b": TRAINED})


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_a_row_for_each_metric_and_a_column_for_each_model() -> None:
    head, rule, *rows = cells(table(FOUND))
    assert head == ["benchmark", "metric", "prompts", "start", "a&#124;b"]
    assert set(rule) == {"---"}
    assert [row[:3] for row in rows] == [
        ["maths", "acc (strict)", "4"], ["words", "acc", "20"], ["words", "loglikelihood", "20"],
        ["judged", "hsr", "5"], ["judged", "ssr_level_1", "5"],
    ]  # fmt: skip
    assert re.fullmatch(r"25\.0 \[\d+\.\d, \d+\.\d\]", rows[1][3])  # a share, in percent
    assert re.fullmatch(r"-3 \[-3\.\d+, -2\.\d+\]", rows[2][3])  # no share
    assert [rows[0][4], rows[2][4], rows[3][3]] == ["–"] * 3  # not measured
    assert rows[3][4] == "100.0"  # one cluster alone has no interval


def test_differences_are_from_the_first_where_both_were_measured() -> None:
    _, _, *rows = cells(differences(FOUND))
    ((benchmark, metric, model, difference, better, p),) = rows
    assert (benchmark, metric, model, better, p) == ("words", "acc", "a&#124;b", "10 : 2", "0.039")
    assert re.fullmatch(r"\+40\.0 \[\+\d+\.\d, \+\d+\.\d\]", difference)


def test_other_data_are_not_compared() -> None:
    with pytest.raises(InputError, match="words: it was measured on other data than that of start"):
        side_by_side({"start": START, "other": {"words": samples(True, data="other")}})


def test_prompts_that_not_all_answered_are_said() -> None:
    found = side_by_side({"start": {"words": samples(True, False, True)}, "less": {"words": samples(True, False)}})
    assert cells(table(found))[2][2] == "2 to 3"


def test_the_plot_is_a_picture_without_a_script(tmp_path: Path) -> None:
    plot(FOUND, file := tmp_path / "plot.svg")
    drawn = file.read_text()
    assert drawn.startswith("<svg")
    assert "<script" not in drawn
    for text in ("maths", "words", "judged", "acc (strict)", "hsr", "ssr_level_1", "start", "a|b"):
        assert f">{text}<" in drawn, text
    assert "loglikelihood" not in drawn
    points = re.findall(r'aria-label="[^"]*: ([\d.]+); metric: ([^;"]+); model: ([^;"]+)"', drawn)
    assert points == [
        ("25", "acc (strict)", "start"), ("25", "acc", "start"), ("65", "acc", "a|b"), ("100", "hsr", "a|b"),
        ("50", "ssr_level_1", "a|b"),
    ]  # fmt: skip


def test_where_nothing_is_a_share_there_is_no_plot(tmp_path: Path) -> None:
    found = side_by_side({"start": {"words": samples(True, metric="loglikelihood")}})
    with pytest.raises(InputError, match="nothing to plot"):
        plot(found, tmp_path / "plot.svg")


def test_fewer_bits_are_better() -> None:
    def samples(logprob: float) -> list[dict[str, Any]]:
        found = {"filter": "none", "metrics": ["bits_per_byte"], "bits_per_byte": [logprob, 10]}
        return [{"doc_id": number, **found} for number in range(3)]

    found = side_by_side({"a": {"gsm8k_solutions": samples(-20.0)}, "b": {"gsm8k_solutions": samples(-10.0)}})
    assert "| 3 : 0 |" in differences(found)
