"""A check as models name it: the schema of the reply, the words that list what can be named, and whether what was named
says what its constraint says.

A model names a row of the registry and its arguments; it writes no code. A check of which a number, a word or the
relation does not stand in the constraint is dropped: the question stays, and the judge answers it.
"""

import re
from typing import Any, Literal

from pydantic import ValidationError

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method.checkers.parts import folded
from ultraif_ray.method.checkers.registry import CHECKERS, Checker, fits
from ultraif_ray.method.texts import words
from ultraif_ray.records import RELATIONS, Check, CheckerName, Failure, Family, Relation, Role

UNKNOWN = "no such check"
"""Why a check is dropped that names no checker that is on, or does not have the arguments that it uses."""

SAYS_OTHERWISE = "the check says what its constraint does not"
"""Why a check is dropped that has a number, a word or a relation that does not stand in the constraint."""


def enabled(setting: Literal["none", "all"] | tuple[Family | CheckerName, ...]) -> tuple[Checker, ...]:
    """The checkers that a recipe turns on (`synthesize.checkers`): by name, or all of a family."""
    if setting == "none":
        return ()
    return tuple(one for one in CHECKERS.values() if setting == "all" or {one.name, one.family} & set(setting))


def schema(checkers: tuple[Checker, ...]) -> dict[str, Any]:
    """The JSON Schema of a check that may be named, or null."""
    properties = {
        "name": {"type": "string", "enum": [checker.name for checker in checkers]},
        "relation": {"type": "string", "enum": list(RELATIONS)},
        "number": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "texts": {"type": "array", "items": {"type": "string"}, "maxItems": 20},
    }
    check = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"anyOf": [check, {"type": "null"}]}


def listed(checkers: tuple[Checker, ...]) -> str:
    """A line for each checker, with the arguments that it uses, as a model is told."""
    return "\n".join(f"- {checker.name}{_arguments(checker)}: {checker.when}" for checker in checkers)


def _arguments(checker: Checker) -> str:
    texts = {0: [], 1: ["one text"]}.get(checker.texts[1], ["texts"])
    used = (["number"] if checker.number else []) + texts
    return f" ({', '.join(used)})" if used else ""


def named(reply: Any, constraint: str, checkers: tuple[Checker, ...], role: Role, client: RoleClient) -> Check | None:
    """The check that a reply names for a constraint, if it stands; None where it names none, or one that is dropped,
    which is noted in `client.dropped`.

    Args:
        reply: what stands under `check` in the reply, of any shape.
        constraint: the constraint's text.
        checkers: those that are on.
        role: who replied.
        client: where it is noted.
    """
    if reply is None or not checkers:
        return None
    check = _read(reply, checkers)
    if check and says_the_same(check, constraint):
        return check
    kind = SAYS_OTHERWISE if check else UNKNOWN
    client.dropped.append(Failure(stage=role, kind=kind, reason=kind, raw=f"{reply} for: {constraint}"))
    return None


def _read(reply: Any, checkers: tuple[Checker, ...]) -> Check | None:
    """A check with the arguments that its checker uses alone; None where it is none that is on."""
    try:
        check = Check.model_validate(reply)
    except ValidationError:
        return None
    if check.name not in {checker.name for checker in checkers}:
        return None
    checker = CHECKERS[check.name]
    if not checker.number:
        check = Check(name=check.name, texts=check.texts)
    if not checker.texts[1]:
        check = check.model_copy(update={"texts": []})
    return check if fits(check) else None


def says_the_same(check: Check, constraint: str) -> bool:
    """Whether the number and the texts of a check stand in its constraint (in digits or English words, whatever their
    case) and its relation is the one that the words around the number say, where they say any.
    """
    whole = folded(constraint)
    if not all(folded(text) in whole for text in check.texts):
        return False
    if check.number is None:
        return True
    return any(
        number == check.number and relation in (None, check.relation) for number, relation in _numbers(constraint)
    )


# ---- numbers, and what is said of them ---------------------------------------------------------------------------

_LONGEST = 12
"""Words of a number at most."""

_UNITS = words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
_ALONE = {"zero": 0, "no": 0, "none": 0, "single": 1, "once": 1, "twice": 2, "pair": 2, "thrice": 3, "dozen": 12}
"""Words that make no number with others."""

_VALUES = {
    **{word: value for value, word in enumerate(_UNITS, start=1)},
    **{word: value for value, word in zip(range(20, 100, 10), _TENS, strict=True)},
    **_ALONE,
}
_POWERS = {"hundred": 100, "thousand": 1000}

_ENDS = rf"\b(?! (?:{'|'.join(_POWERS)})\b)"
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?: (?:{'|'.join(_UNITS[:9])})\b)?|(?:{'|'.join(_UNITS)})\b)"
_BELOW_1000 = rf"(?:(?:{_BELOW_100} )?hundred\b(?: (?:and )?{_BELOW_100}(?! hundred\b))?|{_BELOW_100})"
_IN_WORDS = re.compile(
    rf"(?:{_BELOW_1000} )?thousand\b(?: (?:and )?{_BELOW_1000}{_ENDS})?|{_BELOW_1000}|(?:{'|'.join(_ALONE)})\b"
)
"""A number in English words. What follows "and" is a part of it only below the last power: "one thousand and two" is
one number, "one thousand and two thousand" are two.
"""

_BEFORE: tuple[tuple[str, Relation], ...] = (
    ("no more than", "at most"), ("not more than", "at most"), ("at most", "at most"), ("up to", "at most"),
    ("maximum of", "at most"), ("maximum", "at most"), ("max", "at most"), ("no fewer than", "at least"),
    ("no less than", "at least"), ("not less than", "at least"), ("at least", "at least"),
    ("minimum of", "at least"), ("minimum", "at least"), ("min", "at least"),
    ("more than", "more than"), ("over", "more than"), ("above", "more than"), ("fewer than", "fewer than"),
    ("less than", "fewer than"), ("under", "fewer than"), ("below", "fewer than"), ("exactly", "exactly"),
    ("precisely", "exactly"),
)  # fmt: skip
"""What stands before a number; of two that fit, the first."""

_BEHIND: tuple[tuple[str, Relation], ...] = (
    ("or more", "at least"), ("at least", "at least"), ("minimum", "at least"), ("or fewer", "at most"),
    ("or less", "at most"), ("at most", "at most"), ("maximum", "at most"), ("max", "at most"),
)  # fmt: skip
"""What stands behind a number, at once or behind the word that is counted."""


_GROUPING = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

_NOT_THE_NUMBER = ("between", "from", "about", "around", "roughly", "approximately", "nearly", "almost")
"""What stands before a number that is not itself the bound."""


def _numbers(text: str) -> list[tuple[int, Relation | None]]:
    """The numbers of a text that bound something, each with the relation that the words around it say, if they say any.
    Of a range, or with "about", none does.
    """
    said = words(_GROUPING.sub("", text))
    found: list[tuple[int, Relation | None]] = []
    at, range_until = 0, -1
    while at < len(said):
        value, end = _number_at(said, at)
        if value is None:
            at += 1
            continue
        before = (" " + " ".join(said[max(0, at - 4) : at])).removesuffix(" a")
        behind = [" ".join(said[end + skipped :][:2]) + " " for skipped in range(3)]
        in_range = at <= range_until
        range_until = end + (said[end : end + 1] in (["to"], ["or"], ["and"]))
        begins_range = range_until < len(said) and _number_at(said, range_until)[0] is not None
        relation = next((what for phrase, what in _BEFORE if before.endswith(f" {phrase}")), None) or next(
            (what for phrase, what in _BEHIND if any(words.startswith(f"{phrase} ") for words in behind)), None
        )
        if not in_range and not begins_range and not before.endswith(_NOT_THE_NUMBER):
            found.append((value, relation))
        at = end
    return found


def _number_at(said: list[str], at: int) -> tuple[int | None, int]:
    """The number that begins at a word, in digits or in English words, and the word behind it."""
    if said[at].isdecimal():
        return (int(said[at]) if len(said[at]) < 10 else None), at + 1
    if said[at] == "no" and said[at + 1 : at + 2] in (["more"], ["fewer"], ["less"], ["longer"]):
        return None, at
    found = _IN_WORDS.match(" ".join(said[at : at + _LONGEST]))
    if not found:
        return None, at
    total, current = 0, 0
    for word in (number := found.group().split()):
        if word in _POWERS:
            current = (current or 1) * _POWERS[word]
            if word == "thousand":
                total, current = current, 0
        else:
            current += _VALUES.get(word, 0)  # "and" adds nothing
    return total + current, at + len(number)
