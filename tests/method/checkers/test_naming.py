"""What a model may name, and which of it stands."""

import json
from typing import Any

import pytest
from hypothesis import given
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
    assert check["properties"]["name"]["enum"] == ["links", "hashtags"]
    assert check["properties"]["relation"]["enum"] == list(RELATIONS)
    assert not {"maxLength", "minLength", "pattern"} & set(json.dumps(check).split('"'))


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
        ("in 50 words", 5, set()),
        ("no more", 0, set()),
    ],
)
def test_a_number_and_its_relation_are_read_from_the_constraint(
    constraint: str, number: int, relations: set[str]
) -> None:
    stand = {r for r in RELATIONS if says_the_same(Check(name="words", relation=r, number=number), constraint)}
    assert stand == relations


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
