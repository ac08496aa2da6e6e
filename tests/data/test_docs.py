"""docs/data.md says what filters find: its examples are put through them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scripted import recipe
from ultraif_ray.data.duplicates import bands_for
from ultraif_ray.data.ingest import Rejection, funnel, to_prompts
from ultraif_ray.data.stats import HELD
from ultraif_ray.method.answers import no_answer
from ultraif_ray.method.contamination import SHIPPED, Index, Rule, known
from ultraif_ray.recipe import Decontaminate, Ingest, Synthesize, Where
from ultraif_ray.records import Prompt
from ultraif_ray.steps.ingest import filters_of

PAGE = Path("docs/data.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without backticks."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line[1:-1].split("|")] for line in lines]


@pytest.mark.parametrize("row", rows("Prompts"), ids=lambda row: row[3][:20])
def test_an_example_of_a_prompt_is_turned_away_by_its_filter_alone(row: list[str]) -> None:
    name, setting, _, example, kind = row[:5]
    records = [json.loads(example)] if example.startswith("{") else [{"prompt": one} for one in example.split(" ~ ")]

    def last(**options: Any) -> Prompt | Rejection:
        settings = Ingest.model_validate({"asks_nothing": "keep"} | options)
        items = (item for record in records for item in to_prompts(record, "f:1", settings))
        return [item for item, _ in funnel(items, settings)][-1]

    item = last(**yaml.safe_load(setting))
    assert isinstance(item, Rejection)
    assert (item.reason, item.kind) == (name, kind)
    assert isinstance(last(), Rejection) == (name == "duplicate")  # which is always on


def test_how_much_of_a_prompt_two_texts_hold() -> None:
    asked, near, far = re.findall(r'"((?:Describe|Please) [^"]*)"', " ".join(PAGE.split()))[:3]
    index = Index([known("own", "1", asked)], Rule(share=0.01))
    shares = [found.share for found in map(index.find, (near, far)) if found]
    assert [round(100 * share) for share in shares] == [60, 30]


@pytest.mark.parametrize("row", [row for row in rows("Responses") if "always" not in row[1]], ids=lambda row: row[0])
def test_an_example_of_a_response_is_no_answer(row: list[str]) -> None:
    name, setting, _, example = row
    text = example.replace("…", "") * (8 if name == "repetitive" else 1)
    assert no_answer(text, Synthesize.model_validate(yaml.safe_load(setting))) == name
    assert no_answer(text, Synthesize()) == ""


def test_the_page_names_every_filter_and_its_figures_are_those_of_the_code() -> None:
    options = {"languages": ["en"], "near_duplicates": 0.8, "toxic": "drop", "keys": "drop", "private": "mask"}
    every = filters_of(recipe(ingest=options))
    assert set(every) - {"contaminated"} == {row[0] for row in rows("Prompts")}
    assert every["contaminated"] == Decontaminate().share == 0.45
    assert bands_for(0.8) == (9, 12)
    found = {similarity: 1 - (1 - similarity**12) ** 9 for similarity in (0.5, 0.7, 0.8, 0.9)}
    assert {similarity: round(100 * chance, 1 if chance < 0.01 else None) for similarity, chance in found.items()} == {
        0.5: 0.2, 0.7: 12, 0.8: 47, 0.9: 95,
    }  # fmt: skip
    assert [round(100 * (runs - 3) / (runs + 3)) for runs in (18, 48)] == [71, 88]  # of 20 and of 50 words
    assert "leaves 71 % of its runs, one in fifty 88 %" in " ".join(PAGE.split())
    assert f"({round(SHIPPED.stat().st_size / 1000, -1):.0f} KB)" in PAGE


def test_the_page_names_every_column_that_export_selects_by() -> None:
    columns = {row[0]: yaml.safe_load(row[2]) for row in rows("Difficulty and balance")}
    assert set(columns) == set(Where.model_fields)
    assert all(getattr(Where.model_validate({name: value}), name) for name, value in columns.items())


def test_the_page_says_above_how_many_prompts_copies_are_estimated() -> None:
    assert f"above {HELD:,} different prompts" in " ".join(PAGE.split())


def test_the_recipes_on_the_page_are_valid() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        recipe(**yaml.safe_load(block))
