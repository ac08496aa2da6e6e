import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.evaluate.followbench import LEVELS, in_the_form_of_the_examples, rule_of

ONE: list[tuple[str, str, str, str]] = [
    ("E2E", "a b", "a b", "a b."),
    ("text_editing", "xyz", "xyz", "xyz "),
    ("CONLL2003", "['Rome', 'Rome, Paris']", "Rome, Paris", "Paris"),
    ("WIKIEVENTS", "one: a\ntwo: b", "two: b\none: a", "two: b\nthree: c"),
    ("self_made_space", "north", "It lies north of it.", "It lies south of it."),
    ("BBH_logical", "(B)", "Not (A), so (B).", "Not (B), so (A)."),
    ("BBH_time", "01/02/2024", "01/01/2024? No: 01/02/2024.", "1/2/2024"),
    ("gsm_8k", "$12", "$3 and $9 make $12.", "12"),
]
"""A source, a target, an answer that is right and one that is not."""


@pytest.mark.parametrize(("source", "target", "right", "wrong"), ONE)
def test_an_answer_is_right_or_not_at_any_level(source: str, target: str, right: str, wrong: str) -> None:
    rule = rule_of("content", source, 1)
    assert rule
    assert [rule(answer, target, level) for level in (1, LEVELS) for answer in (right, wrong)] == [True, False] * 2


LONG = " ".join(["word"] * 21)
POINTS = " ".join(f"**{number} Key:** {' '.join(['word'] * 9)}." for number in range(1, 6))

STEPS: list[tuple[str, str, int, list[str]]] = [
    ("mixed", "cnn_dailymail", 11, [
        "One. Two.",
        f"{LONG}. Two. Three.",
        "Potter acts. An actor here. A film.",
        "Potter acts. A lavish actor. His films have ended.",
        "Potter acts. An actor here. His films end.",
        "Potter acts. An actor here. His films have ended.",
    ]),
    ("mixed", "xsum", 12, [
        "It is. It was.",
        f"{LONG}.",
        "Newton Stewart is raining.",
        "An operation goes on.",
        "It is raining there.",
        "An operation is going on.",
    ]),
    ("mixed", "samsum", 13, [
        "It is. It was.",
        f"{LONG}.",
        "They do things.",
        "They do stuff and Procrastinate.",
        "They do stuff, all day.",
        "They do stuff all day.",
    ]),
    ("mixed", "gigaword", 14, [
        "two dead",
        "two dead and some hurt in a blast.",
        "Two dead and some hurt in a blast",
        "two dead and some hurt in a bus",
        "two dead and some hurt by a blast",
        "two dead and some hurt in a blast",
    ]),
    ("mixed", "arxiv", 15, [
        "We edit. It works.",
        f"{LONG}.",
        "They edit activations.",
        "We edit facts.",
        "We edit activations of a transformer.",
        "We edit activations.",
    ]),
    ("format", "koala", 22, [
        "One.\n\nTwo.",
        "One. And. More.\n\nTwo.\n\nThree.",
        "1. One.\n\n2. Two.\n\n3. Three.",
        "\n\n".join([f"{LONG}."] * 3),
    ]),
    ("format", "helpful_base", 30, [
        "No marks.",
        "**One** mark.",
        " ".join(f"**{number} Key:** one.two.{number}.three" for number in range(1, 6)),
        f"{POINTS} {LONG}.",
        POINTS.replace("word", "quick-ly", 1),
        POINTS,
    ]),
]  # fmt: skip
"""Answers of which the first meets no level, the second the first alone, and so on; the last meets all, if any can."""


@pytest.mark.parametrize(("kind", "source", "example", "answers"), STEPS, ids=lambda value: str(value)[:12])
def test_each_level_asks_for_one_thing_more(kind: str, source: str, example: int, answers: list[str]) -> None:
    rule = rule_of(kind, source, example)
    assert rule
    for meets, answer in enumerate(answers):
        levels = [level for level in range(1, LEVELS + 1) if rule(answer, "", level)]
        assert levels == list(range(1, meets + 1)), answer


@pytest.mark.parametrize(
    ("kind", "source", "example"), [("style", "oasst", 22), ("content", "quora", 30), ("format", "oasst", 1)]
)
def test_the_judge_is_asked_where_there_is_no_rule(kind: str, source: str, example: int) -> None:
    assert rule_of(kind, source, example) is None


def test_the_form_of_the_examples() -> None:
    assert rule_of("example", "xsum", 1) is in_the_form_of_the_examples  # whatever the source
    target = "{instruction}\n{{'AI assistant': '{answer}'}}"
    assert in_the_form_of_the_examples("{'AI assistant': 'A (b) c.'}", target, 1)
    assert not in_the_form_of_the_examples("{'AI assistant': 'A'} indeed", target, 1)
    assert not in_the_form_of_the_examples("{'AI assistant': 'A\nb'}", target, 1)  # an answer is in one line
    assert in_the_form_of_the_examples("[AI]\nyes", "{instruction}\n[AI]\n{answer}", 1)
    assert not in_the_form_of_the_examples("A\nyes", "{instruction}\n[AI]\n{answer}", 1)  # signs mean themselves


@settings(max_examples=40)
@given(st.sampled_from(STEPS), st.text(alphabet="abIW is.!?,\n*1-", max_size=60))
def test_a_level_that_is_met_has_all_before_it_met(which: tuple[str, str, int, list[str]], answer: str) -> None:
    kind, source, example, _ = which
    rule = rule_of(kind, source, example)
    assert rule
    met = [rule(answer, "", level) for level in range(1, LEVELS + 1)]
    assert met == sorted(met, reverse=True)


def test_what_the_authors_rule_lets_nobody_meet() -> None:
    """A paragraph's number ends in a full stop, and so is a sentence of one word."""
    rule = rule_of("format", "koala", 22)
    assert rule
    numbered = "\n\n".join(f"{number}. {LONG}." for number in (1, 2, 3))
    assert not rule(numbered, "", 4)
    assert not rule(f"{numbered}\n\nThose are suggestions", "", 5)
