"""Answers that exist already."""

from pathlib import Path

import pytest

from tests.evaluate.benchmarks import written
from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.given import Given, answers_in_order, read_answers
from ultraif_ray.records import Asked

ROWS = [Asked(id=n, query=f"Write a poem with {n} lines about the sea and the wind.") for n in (1, 2)]


def test_a_record_may_call_its_answer_several_things(tmp_path: Path) -> None:
    records = [{"response": "a", "text": "no"}, {"output": "b"}, {"answer": "c", "prompt": "p"}, {"completion": ""}]
    found = read_answers(written(tmp_path / "a.jsonl", records))
    assert found == [Given("a", ""), Given("b", ""), Given("c", "p"), Given("", "")]
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [one.text for one in read_answers(str(tmp_path / "a.txt"))] == ["one", "two"]


def test_a_record_without_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="record 2 has no answer: give it as one of response, "):
        read_answers(written(tmp_path / "a.jsonl", [{"response": "a"}, {"response": None}]))


def test_they_are_taken_in_order_and_held_against_the_prompts_that_they_name() -> None:
    told = [Given("a", ""), Given("b", ROWS[1].query.replace(" about", "\n about") + " More."), Given("c", "")]
    answered = answers_in_order(told)(ROWS)
    assert [row.response.text for row in answered if row.response] == ["a", "b"]
    with pytest.raises(InputError, match=r"there are 1 answers to 2 prompts"):
        answers_in_order(told[:1])(ROWS)
    with pytest.raises(InputError, match=r"answer 1 is to 'Write a poem with 2 lines"):
        answers_in_order([told[1], told[0]])(ROWS)
