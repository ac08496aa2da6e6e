"""Which examples of a set stay: those that meet its conditions (`export.where`), and of these at most so many with the
same category, level or source (`export.caps`), in a given ratio (`export.weights`).

Which ones stay within caps and weights depends on the rows alone, not on the order in which they were written: those
with the smallest keys.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from math import floor

import numpy as np

from ultraif_ray.data.readers import note
from ultraif_ray.recipe import CapField, Export, Where

Group = tuple[CapField, str | int]
"""A field and the value that some examples share."""


@dataclass(frozen=True)
class Traits:
    """What can be said of an example, for conditions, caps and weights.

    Attributes:
        set: which set it is of.
        key: a number of its own, evenly spread over 63 bits.
        source: the file of its prompt.
        categories: of its constraints.
        checkers: that check its constraints.
        level: how many constraints were added; None in the composer's set.
        pass_rate: the share of the judged responses that passed; None where none was judged.
        samples: how many responses were judged.
    """

    set: str
    key: int
    source: str
    categories: tuple[str, ...]
    checkers: tuple[str, ...] = ()
    level: int | None = None
    pass_rate: float | None = None
    samples: int = 0


# ---- conditions ------------------------------------------------------------------------------------------------------


def is_selected(traits: Traits, where: Where) -> bool:
    """Whether an example meets every condition. In the composer's set, which has neither responses nor levels, those on
    them are not asked.
    """
    if traits.level is not None:
        for asked, value in ((where.pass_rate, traits.pass_rate), (where.samples, traits.samples),
                             (where.level, traits.level)):  # fmt: skip
            if asked and (value is None or not asked.holds(value)):
                return False
    return (
        (not where.category or not set(where.category).isdisjoint(traits.categories))
        and (not where.checker or not set(where.checker).isdisjoint(traits.checkers))
        and (not where.source or any(is_named(traits.source, name) for name in where.source))
    )


@cache
def is_named(source: str, name: str) -> bool:
    """Whether a file of prompts is meant by a name: its path or URI, the last parts of it, its folder, or a glob."""
    name = name.removeprefix("./").rstrip("/")
    patterns = (name, f"*/{name}", f"{name}/*", f"*/{name}/*")
    return source == name or any(fnmatchcase(source, pattern) for pattern in patterns)


# ---- caps and weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """The largest key that each group of a set takes; a group that is not here takes all."""

    keys: dict[tuple[str, Group], int]
    settings: Export

    def admit(self, traits: Traits) -> bool:
        """Whether an example is within the bounds of all groups that it is of."""
        groups = groups_of(traits, self.settings) if self.keys else ()
        return all(traits.key <= self.keys.get((traits.set, group), traits.key) for group in groups)


def bounds(examples: Iterable[Traits], settings: Export) -> Bounds:
    """Find the bounds that hold caps and weights, with 8 bytes of memory an example and field that has any.

    Args:
        examples: every one that could stay.
        settings: `caps` by field the most examples of one value, `smallest` for as many as the rarest value has;
            `weights` by field and value.
    """
    bound = {field for field, weights in settings.weights if weights} | set(settings.caps)
    keys: dict[tuple[str, CapField], dict[str | int, array[int]]] = defaultdict(lambda: defaultdict(lambda: array("q")))
    for traits in examples:
        for field, value in groups_of(traits, settings):
            if field in bound:
                keys[traits.set, field][value].append(traits.key)
    _note_what_nothing_is_of(keys, settings)
    found = {}
    for (name, field), values in keys.items():
        for value, most in _most({value: len(members) for value, members in values.items()}, field, settings).items():
            if most < len(members := values[value]):
                found[name, (field, value)] = int(np.partition(members, most - 1)[most - 1]) if most else -1
    return Bounds(found, settings)


def groups_of(traits: Traits, settings: Export) -> tuple[Group, ...]:
    """What an example shares with others. Files of prompts that one weight names are one source."""
    names = (name for name in settings.weights.source if is_named(traits.source, name))
    levels: tuple[Group, ...] = () if traits.level is None else (("level", traits.level),)
    categories: tuple[Group, ...] = tuple(("category", category) for category in traits.categories)
    return (*categories, *levels, ("source", next(names, traits.source)))


def _most(sizes: dict[str | int, int], field: CapField, settings: Export) -> dict[str | int, int]:
    """How many examples of each value may stay, of so many."""
    cap = settings.caps.get(field)
    cap = min(sizes.values()) if cap == "smallest" else cap
    most = {value: size if cap is None else min(size, int(cap)) for value, size in sizes.items()}
    weights: dict[str | int, float] = {
        value: weight for value, weight in getattr(settings.weights, field).items() if value in sizes
    }
    scale = min((most[value] / weight for value, weight in weights.items() if weight), default=0.0)
    return most | {value: floor(scale * weight + 1e-9) for value, weight in weights.items()}  # a quotient's error aside


def _note_what_nothing_is_of(keys: dict[tuple[str, CapField], dict[str | int, "array[int]"]], settings: Export) -> None:
    for field, weights in settings.weights:
        there = {value for (_, of), values in keys.items() if of == field for value in values}
        absent = [value for value in weights if value not in there]
        if absent and there:
            note(
                f"export.weights.{field}: no example is of {', '.join(map(repr, absent))}; there are "
                f"{', '.join(sorted(map(str, there))[:10])}"
            )
