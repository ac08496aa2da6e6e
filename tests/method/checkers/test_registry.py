"""What each checker says of real answers, and what all of them keep to."""

import re
from html import unescape
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.method.checkers.registry import CHECKERS, COMPARES, Checker, fits, holds
from ultraif_ray.records import RELATIONS, Check, CheckerName, Family

ROOT = Path(__file__).resolve().parents[3]

POEM = "Roses are red,\nviolets are blue."
LETTER = 'Dr. Lee came at 5 p.m. and left. "Stop!" he cried. Did she? No...\n\nI don\'t know—truly.'
LIST = "# Fruit\n\nBuy:\n- apples\n* pears\n1. wash\n2) peel\n\n```python\n- no item\n# no heading\n```\n"
TABLE = "See:\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |\n| 5 | 6 |\n\nDone."

COUNTED: list[tuple[str, str, list[str], int]] = [
    ("words", "", [], 0),
    ("words", POEM, [], 6),
    ("words", "It's a well-known — and 3.5% cheaper — *trick*.", [], 7),
    ("words", "今天天气好。", [], 5),
    ("words", "हिन्दी में लिखो", [], 3),
    ("sentences", LETTER, [], 5),
    ("sentences", "i am. you are! 今天好。你呢？", [], 4),
    ("sentences", "J. R. R. Tolkien, e.g., wrote, etc. Then he slept. Version 2.5 is out", [], 3),
    ("sentences", "1. One thing\n2. Another thing. And more", [], 3),
    ("sentences", "Wait... what? (Really.) No.", [], 3),
    ("paragraphs", "One.\nStill one.\n\n \nTwo.\n***\nThree.", [], 3),
    ("lines", "a\n\n  \nb\r\nc", [], 3),
    ("characters", " abc d\n", [], 5),
    ("characters", "e\u0301te\u0301", [], 3),
    ("distinct_words", "The the THE cat’s cat's", [], 2),
    ("occurrences", "Cat, category, CAT; cat-like.", ["cat"], 3),
    ("occurrences", "in  the\nend, In the End", ["in the end"], 2),
    ("occurrences", "下雨了，雨停了", ["雨"], 2),
    ("letters", "Anna, a!", ["a"], 3),
    ("letters", "Hey! Ho!", ["!"], 2),
    ("capital_words", "NASA and the EU: I AM.", [], 3),
    ("exclamation_marks", "Oh! No！", [], 2),
    ("bullet_points", LIST, [], 2),
    ("bullet_points", "---\n*bold* text\n-not an item\n  • deep", [], 1),
    ("numbered_points", LIST, [], 2),
    ("labelled_sections", "**Section 1**: a\nsection 2\nSection 2 again\nno section 3", ["SECTION"], 2),
    ("highlights", "* item with *one* and **two words**\n* * *\n2 * 3 * 4", [], 2),
    ("placeholders", "[name] [your address] [link](x) [x] [12] []", [], 2),
    ("numbers", "In 1999, 3,000.5 of 12.", [], 3),
    ("emoji", "Hi 👋🏽 👨‍👩‍👧 🇫🇷 ✅ :)", [], 4),
    ("headings", LIST + "\n## More #\n#tag", [], 2),
    ("code_blocks", LIST + "~~~\nx\n~~~\n```\nnever closed", [], 2),
    ("links", "https://a.org/x, (www.b.org) and xhttp://c", [], 2),
    ("hashtags", "#one #2 a#b #drei_ /#x", [], 2),
    ("percentages", "5% and 7.5 percent of 8 per cent", [], 3),
    ("amounts_of_money", "$5, 3 € and 20 dollars; 7 cats", [], 3),
    ("checkboxes", "- [ ] a\n- [x] b\n- [y] c\n[ ] d", [], 2),
]

SIZES: list[tuple[str, str, list[int]]] = [
    ("line_lengths", "abc\n\nab", [3, 2]),
    ("sentence_lengths", "One two. Three four five!", [2, 3]),
    ("paragraph_lengths", "Go on. Or stop.\n\nC.", [2, 1]),
    ("table_rows", TABLE, [3]),
    ("table_columns", TABLE, [2]),
    ("table_rows", "a | b\nno rule", []),
]

TRUE_OR_NOT: list[tuple[str, list[str], str, str]] = [
    ("includes", ["rain", "in the end"], "In the END, Rain.", "In the end, rainy."),
    ("avoids", ["rain"], "Rainy days", "No rain."),
    ("all_capitals", [], "WELL, 3 TIMES!", "WELL, Yes"),
    ("all_lower_case", [], "well, 3 times", "Well"),
    ("title_case", [], "The Cat and the Hat", "The cat and the Hat"),
    ("starts_with", ["Dear Sir"], '"**dear sir**, hello"', "Dear Sirs,"),
    ("ends_with", ["the end"], 'It is *The End*."', "It is the end, friend."),
    ("ends_with", ["Any questions?"], "Well. Any questions?", "Any questions? No."),
    ("ends_with_a_question", [], 'He asked: "why?"', "Why? I see."),
    ("in_quotation_marks", [], '"All of it."', '"Part" of it.'),
    ("postscript", ["P.S."], "Bye.\n\n**P.S.** More", "The P.S. is missing"),
    ("without_commas", [], "One and two", "一，二"),
    ("sorted_items", [], "Fruit:\n- apple\n- Banana\n- cherry", "- pear\n- apple"),
    ("title_in_brackets", [], "<<Rain>>\nfalls", "<< >>"),
    ("is_json", [], '```json\n{"a": [1]}\n```', '"a sentence"'),
    ("is_json", [], "[]", '{"a": 1} and more'),
    ("json_with_keys", ["a", "b"], '{"b": 1, "a": null}', '{"a": 1}'),
    ("csv_with_columns", ["ID", "City"], 'ID,City\n1,"Rome, Italy"\n', "ID,City\n1\n"),
    ("one_of", ["yes", "no"], "**Yes.**", "Yes, it is."),
    ("in_language", ["French"], "Bonjour à tous, je suis très heureux.", "Hello to all of you, I am happy."),
    ("in_language", ["Hindi"], "यह एक छोटा वाक्य है।", "26"),
    ("without_first_person", [], "You may go.", "You and I may go."),
    ("has_headings", ["Aims", "Plan B"], "## aims:\ntext\n# Plan B", "Aims\n# Plan B"),
    ("code_in", ["Python"], LIST, "```js\n1\n```"),
    ("plain_text", [], "Just words - and 2 * 3.", "Some **bold** words"),
    ("inside_tag", ["answer"], " <answer>Yes</answer>\n", "So: <answer>Yes</answer>"),
    ("acrostic", ["Rain"], "Round\nand\n\n- in\n**n**ow", "Round\nand\nin"),
    ("every_line_starts_with", ["I am"], "I am here\n- i am there", "I am here\nYou are"),
    ("every_line_ends_with", ["amen"], "Well, amen\nSo, Amen.", "Well, amen\nSo"),
    ("dialogue", ["Anna", "Ben"], "Anna: Hi\n\n**Ben:** Hi: you", "Anna: Hi\nAnna: Hello?"),
    ("in_this_order", ["flour", "sugar"], "Flour, then sugar, then flour", "Sugar, then flour"),
    ("varied_openings", [], "It rains. We wait. then it stops.", "It rains. It pours."),
    ("without_contractions", [], "The dog's bone is not here", "It’s here"),
    ("in_script", ["Cyrillic"], "Привет, 2026!", "Привет, world"),
    ("in_script", ["Latin"], "Olá, açúcar", "Ωmega"),
]  # fmt: skip


def check(name: str, texts: list[str], **more: Any) -> Check:
    return Check.model_validate({"name": name, "texts": texts, **more})


@pytest.mark.parametrize(("name", "text", "texts", "count"), COUNTED)
def test_what_is_counted(name: str, text: str, texts: list[str], count: int) -> None:
    for number in {max(0, count - 1), count, count + 1}:
        for relation, compares in COMPARES.items():
            asked = check(name, texts, relation=relation, number=number)
            assert holds(text, asked) is compares(count, number), asked.line


@pytest.mark.parametrize(("name", "text", "sizes"), SIZES)
def test_the_size_of_each_part(name: str, text: str, sizes: list[int]) -> None:
    """Without such a part no bound is kept."""
    for number in (1, 2, 3):
        for relation, compares in COMPARES.items():
            every = bool(sizes) and all(compares(size, number) for size in sizes)
            assert holds(text, check(name, [], relation=relation, number=number)) is every


@pytest.mark.parametrize(("name", "texts", "meets", "fails"), TRUE_OR_NOT)
def test_what_is_true_of_an_answer_and_what_is_not(name: str, texts: list[str], meets: str, fails: str) -> None:
    assert holds(meets, check(name, texts))
    assert not holds(fails, check(name, texts))


# ---- the table -------------------------------------------------------------------------------------------------------


def test_there_is_a_row_for_every_name_and_an_example_for_every_row() -> None:
    assert tuple(CHECKERS) == get_args(CheckerName)
    shown = {row[0] for rows in (COUNTED, SIZES, TRUE_OR_NOT) for row in rows}
    assert shown == set(CHECKERS)
    assert all(checker.when and name == checker.name for name, checker in CHECKERS.items())


def test_families_are_those_of_the_records_and_fifteen_checkers_are_of_families_of_no_benchmark() -> None:
    assert tuple(dict.fromkeys(checker.family for checker in CHECKERS.values())) == get_args(Family)
    assert not set(get_args(Family)) & set(CHECKERS)  # a recipe names either
    known = {checker.family for checker in CHECKERS.values() if checker.benchmark}
    assert sum(checker.family not in known for checker in CHECKERS.values()) >= 15


def test_the_documents_table_is_the_registry() -> None:
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| (?:`(.+)`)? ?\|$", text, re.MULTILINE)
    assert [(name, family, unescape(when), benchmark) for name, family, when, benchmark in rows] == [
        (checker.name, checker.family, checker.when, checker.benchmark) for checker in CHECKERS.values()
    ]


# ---- what all keep to ------------------------------------------------------------------------------------------------

ONE_TEXT = {"in_language": "French", "in_script": "Latin", "letters": "a"}


def some_check(checker: Checker, number: int, relation: str, texts: list[str]) -> Check:
    """A check that fits."""
    least, most = checker.texts
    given_texts = [ONE_TEXT.get(checker.name, text) for text in (texts * 2)[: max(least, min(most, len(texts)))]]
    return check(
        checker.name, given_texts if most else [], relation=relation, number=number if checker.number else None
    )


PIECES = st.sampled_from(
    ["- ", "1. ", "* ", "**", "\n", "\n\n", "```", "|", "---|---", "# ", "[", "]", "<<", ">>", "#a", "$5", "{", '"a":',
     "雨", "}", ",", ".", "...", "? ", "! ", "'", "’", "e\u0301", "👨‍👩‍👧", "\ud800", "\x00", "\u2028", "Word",
     " of ", "İ", "ß", "٣"]
)  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(PIECES | st.text(max_size=3), max_size=40).map("".join)
WORDS = st.lists(st.text(min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=3)


@settings(max_examples=20)
@given(text=TEXTS, number=st.integers(0, 50), texts=WORDS)
def test_none_raises_and_the_relations_are_consistent_and_monotone(text: str, number: int, texts: list[str]) -> None:
    for checker in CHECKERS.values():
        of = {relation: some_check(checker, number, relation, texts) for relation in RELATIONS}
        assert all(map(fits, of.values()))
        said = {relation: holds(text, one) for relation, one in of.items()}
        if not checker.number:
            assert len(set(said.values())) == 1
            continue
        assert said["exactly"] is (said["at least"] and said["at most"])
        if checker.name in COUNTS:
            assert said["more than"] is not said["at most"]
            assert said["fewer than"] is not said["at least"]
        more = some_check(checker, number + 1, "at least", texts)
        assert said["more than"] is holds(text, more)
        assert said["at least"] or not holds(text, more)  # whoever has more has enough
        assert holds(text, some_check(checker, number + 1, "at most", texts)) or not said["at most"]


COUNTS = {row[0] for row in COUNTED}
"""Those that count over the whole answer: of these one of two opposite relations always holds."""


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_means_what_it_says(relation: str) -> None:
    three = [holds("one two three", check("words", [], relation=relation, number=n)) for n in (2, 3, 4)]
    assert (
        three
        == {
            "at least": [True, True, False],
            "at most": [False, True, True],
            "exactly": [False, True, False],
            "more than": [True, False, False],
            "fewer than": [False, False, True],
        }[relation]
    )


@pytest.mark.parametrize(
    "unfit",
    [
        {"name": "words"},
        {"name": "words", "number": 3, "texts": ["a"]},
        {"name": "includes"},
        {"name": "includes", "texts": [" "]},
        {"name": "starts_with", "texts": ["a", "b"]},
        {"name": "without_commas", "number": 0},
        {"name": "letters", "number": 1, "texts": ["ab"]},
        {"name": "in_language", "texts": ["Klingon"]},
        {"name": "in_script", "texts": ["Runes"]},
        {"name": "one_of", "texts": ["yes"]},
    ],
)
def test_no_answer_meets_a_check_that_does_not_fit(unfit: dict[str, Any]) -> None:
    asked = Check.model_validate(unfit)
    assert not fits(asked)
    assert not holds("a one yes", asked)


HOSTILE = (
    "a",
    "*",
    "**a",
    "#",
    "- ",
    "[",
    "<<",
    "```",
    ". ",
    "\n",
    "| ",
    "$1",
    "1,",
    "[a",
    "'",
    '{"a":',
    "雨",
    "\u0301",
    "I am ",
)


def ask_all(text: str) -> None:
    for checker in CHECKERS.values():
        holds(text, some_check(checker, 3, "at most", ["a", "b"]))


@pytest.mark.parametrize("piece", ["[", '{"a":', "*", "- "])
def test_a_deep_answer_is_read(piece: str) -> None:
    ask_all(piece * 5_000)


@pytest.mark.long
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_long_hostile_answer_is_read_in_linear_time(piece: str) -> None:
    """One that takes quadratic time would take hours here."""
    ask_all(piece * (1_000_000 // len(piece)) + "x")
