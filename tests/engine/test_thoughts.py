"""Thoughts and answers in one text, as reasoning models write them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.engine.thoughts import USUAL, answer_so_far, split
from ultraif_ray.recipe import Thinking

HARMONY = Thinking(start="<|channel|>analysis<|message|>", end="<|end|><|start|>assistant<|channel|>final<|message|>")
PLAIN = st.text(st.sampled_from("ab .\n"), max_size=12)
"""A text without a tag."""


@given(thought=PLAIN, answer=PLAIN, around=st.sampled_from(["", "\n", " "]))
@pytest.mark.parametrize("thinking", [USUAL, HARMONY], ids=["usual", "harmony"])
def test_a_thought_and_its_answer_part_at_the_tags(thinking: Thinking, thought: str, answer: str, around: str) -> None:
    start, end = thinking.start.strip(), thinking.end.strip()
    parts = thought.strip(), answer.lstrip()
    assert split(f"{around}{start}{around}{thought}{end}{answer}", thinking) == parts
    assert split(f"{thought}{end}{answer}", thinking, opened=True) == parts
    assert split(f"{around}{start}{thought}", thinking) == (thought.strip(), None)
    assert split(thought, thinking, opened=True) == (thought.strip(), None)
    assert split(answer, thinking) == ("", answer)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("No rain.\n</think>\n\nYes.", ("No rain.", "Yes.")),  # a start that the model, or its template, kept to itself
        ("No rain.</think>", ("No rain.", "")),
        ("`</think>` closes a thought.", ("", "`</think>` closes a thought.")),
        ("Put it between <think> and </think>\n", ("", "Put it between <think> and </think>\n")),
        ("<think>\n\n</think>\n\nYes.", ("", "Yes.")),
        ("<think>a</think>Say </think>\nnow", ("a", "Say </think>\nnow")),
    ],
)
def test_an_end_without_a_start_ends_a_thought_where_its_line_ends(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts


def test_an_end_in_the_strings_of_a_json_reply_is_a_part_of_it() -> None:
    text = '{"a": "b</think>\n"}'
    assert split(text, is_json=True) == ("", text)
    assert split(f"<think>c</think>{text}", is_json=True) == ("c", text)


def test_of_a_text_that_is_being_written_the_answer_is_shown_and_nothing_is_taken_back() -> None:
    for whole, opened, answer in (
        ("<think>\nhm</think>\n\nhello there", False, "hello there"),
        ("hm</think>\n\nhello", True, "hello"),
        ("hello <think>", False, "hello <think>"),
        ("<b>hello", False, "<b>hello"),
        ("<think>hm", False, ""),
        (" hi", False, " hi"),
    ):
        shown = [answer_so_far(whole[:end], USUAL, opened=opened) for end in range(len(whole) + 1)]
        assert shown[-1] == answer
        assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
        assert all("hm" not in one for one in shown)
