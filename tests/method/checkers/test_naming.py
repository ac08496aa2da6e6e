"""What a model may name, and which of it stands."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.scripted import client_of, recipe
from ultraif_ray.method.checkers.naming import SAYS_OTHERWISE, UNKNOWN, enabled, listed, named, says_the_same, schema
from ultraif_ray.method.checkers.registry import CHECKERS, fits
from ultraif_ray.records import RELATIONS, Check

ALL = enabled("all")


def name(reply: Any, constraint: str, checkers: Any = ALL) -> tuple[Check | None, list[str]]:
    client = client_of(recipe())
    check = named(reply, constraint, checkers, "composer", client)
    return check, [dropped.kind for dropped in client.dropped]


def test_a_recipe_turns_on_all_none_families_or_single_checkers() -> None:
    assert enabled("none") == ()
    assert [checker.name for checker in ALL] == list(CHECKERS)
    assert [checker.name for checker in enabled(("web", "words"))] == ["words", "links", "hashtags"]


def test_the_schema_has_the_names_that_are_on_and_no_code() -> None:
    check, null = schema(enabled(("web",)))["anyOf"]
    assert null == {"type": "null"}
    assert check == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": ["links", "hashtags"]},
            "relation": {"type": "string", "enum": list(RELATIONS)},
            "number": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "texts": {"type": "array", "items": {"type": "string"}, "maxItems": 20},
        },
        "required": ["name", "relation", "number", "texts"],
        "additionalProperties": False,
    }


def test_a_model_is_told_what_each_checks_and_which_arguments_it_has() -> None:
    assert listed(enabled(("words", "occurrences", "includes", "is_json"))).split("\n") == [
        "- words (number): words of the whole answer",
        "- includes (texts): it has each of these words or phrases",
        "- occurrences (number, one text): how often it has this word or phrase",
        "- is_json: the whole of it is JSON",
    ]


def test_a_check_that_says_what_its_constraint_says_stands_without_what_it_does_not_use() -> None:
    reply = {"name": "words", "relation": "at most", "number": 50, "texts": []}
    assert name(reply, "in at most fifty words") == (Check(name="words", relation="at most", number=50), [])
    reply = {"name": "avoids", "relation": "at most", "number": 0, "texts": ["Rain"]}
    assert name(reply, "do not say 'rain'") == (Check(name="avoids", texts=["Rain"]), [])
    assert name(None, "be kind") == (None, [])
    assert name(reply, "do not say 'rain'", ()) == (None, [])  # none is on


@pytest.mark.parametrize(
    ("reply", "constraint", "kind"),
    [
        ({"name": "words", "relation": "at most", "number": 60, "texts": []}, "in 50 words", SAYS_OTHERWISE),
        ({"name": "words", "relation": "at least", "number": 50, "texts": []}, "at most 50 words", SAYS_OTHERWISE),
        ({"name": "avoids", "texts": ["snow"]}, "do not say rain", SAYS_OTHERWISE),
        ({"name": "words", "number": None}, "in 50 words", UNKNOWN),
        ({"name": "words", "number": -1}, "in 50 words", UNKNOWN),
        ({"name": "words", "number": 10**30}, f"in {10**30} words", UNKNOWN),
        ({"name": "eval", "texts": ["1"]}, "1", UNKNOWN),
        ({"name": "in_language", "texts": ["Klingon"]}, "in Klingon", UNKNOWN),
        ("words", "in 50 words", UNKNOWN),
        ([], "in 50 words", UNKNOWN),
    ],
)
def test_another_is_dropped_and_counted_under_a_fixed_phrase(reply: Any, constraint: str, kind: str) -> None:
    assert name(reply, constraint) == (None, [kind])


def test_one_that_is_not_on_is_dropped() -> None:
    reply = {"name": "words", "relation": "exactly", "number": 5, "texts": []}
    assert name(reply, "in 5 words", enabled(("web",))) == (None, [UNKNOWN])


@pytest.mark.parametrize(
    ("constraint", "number", "relations"),
    [
        ("in exactly three lines", 3, {"exactly"}),
        ("in 3 lines", 3, set(RELATIONS)),
        ("twenty-five words or fewer", 25, {"at most"}),
        ("no more than 1,000 words", 1000, {"at most"}),
        ("at least one hundred and fifty words", 150, {"at least"}),
        ("under two thousand three hundred and four words", 2304, {"fewer than"}),
        ("5 bullet points at most", 5, {"at most"}),
        ("more than a dozen", 12, {"more than"}),
        ("with no commas", 0, set(RELATIONS)),
        ("mindestens ٣ Sätze", 3, set(RELATIONS)),
        ("between 100 and 200 words", 100, set()),
        ("100-200 words", 100, set()),
        ("two or three lines", 3, set()),
        ("about 50 words", 50, set()),
        ("between one and 200 words", 200, set()),
        ("from 100 to 200 words", 200, set()),
        ("use one, and add two or three", 1, set(RELATIONS)),
        ("in 50 words", 5, set()),
        ("no more", 0, set()),
        ("no fewer", 0, set()),
        ("no less", 0, set()),
        ("no longer", 0, set()),
        ("no, more", 0, set()),
        ("say no to more", 0, set(RELATIONS)),
        ("999999999 words", 999_999_999, set(RELATIONS)),
        ("1000000000 words", 1_000_000_000, set()),
        ("no more than a dozen", 12, {"at most"}),
        ("five bullet points or more", 5, {"at least"}),
        ("five very short bullet points or more", 5, set(RELATIONS)),
        ("the maximum is five", 5, set(RELATIONS)),
    ],
)
def test_a_number_and_its_relation_are_read_from_the_constraint(
    constraint: str, number: int, relations: set[str]
) -> None:
    stand = {r for r in RELATIONS if says_the_same(Check(name="words", relation=r, number=number), constraint)}
    assert stand == relations


UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def spelled(number: int, hyphen: str, link: str) -> str:
    """In English words: `twenty-five` or `twenty five`, `one hundred and five` or `one hundred five`."""
    for power, word in ((1000, "thousand"), (100, "hundred")):
        if number >= power:
            many, rest = divmod(number, power)
            behind = f"{link if rest < 100 else ' '}{spelled(rest, hyphen, link)}" if rest else ""
            return f"{spelled(many, hyphen, link)} {word}{behind}"
    if number < 20:
        return UNITS[number]
    return TENS[number // 10] + (hyphen + UNITS[number % 10] if number % 10 else "")


@given(number=st.integers(0, 999_999), hyphen=st.sampled_from("- "), link=st.sampled_from([" ", " and "]))
@example(number=119, hyphen="-", link=" and ")
@example(number=100_100, hyphen="-", link=" and ")
def test_numbers_are_read_in_words(number: int, hyphen: str, link: str) -> None:
    said = f"in exactly {spelled(number, hyphen, link)} words"
    for other, stands in ((number, True), (number + 1, False), (number % 1000 + 1000 * (number < 1000), False)):
        if stands or other != number:
            assert says_the_same(Check(name="words", relation="exactly", number=other), said) is stands, (said, other)


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("one two", set()),
        ("twenty ten", set()),
        ("twenty twenty", set()),
        ("ninety nine", {99}),
        ("five and six", set()),
        ("one hundred one hundred", set()),
        ("thirty, zero", set()),
        ("two hundred twenty eleven", set()),
        ("and five", {5}),
        ("hundred", {100}),
        ("thousand", {1000}),
        ("two hundred and three hundred", set()),
        ("one thousand and two thousand", set()),
        ("one thousand and two hundred", {1200}),
        ("two dozen", set()),
        ("twenties", set()),
    ],
)
def test_words_make_one_number_only_where_english_does_and_neighbours_are_a_range(said: str, numbers: set[int]) -> None:
    found = {n for n in range(3000) if says_the_same(Check(name="words", relation="exactly", number=n), said)}
    assert found == numbers


@given(
    reply=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))
    | st.fixed_dictionaries(
        {"name": st.sampled_from(list(CHECKERS))},
        optional={
            "relation": st.sampled_from(RELATIONS),
            "number": st.none() | st.integers(),
            "texts": st.lists(st.text(max_size=5), max_size=3),
        },
    ),
    constraint=st.text(max_size=30) | st.sampled_from(["at most 5 'a'", "hundred " * 40, "9" * 5000]),
)
def test_whatever_is_named_nothing_is_raised_and_what_stands_fits(reply: Any, constraint: str) -> None:
    check, dropped = name(reply, constraint)
    assert check is None or (fits(check) and not dropped)
    assert check or reply is None or dropped
