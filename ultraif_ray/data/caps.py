"""Caps: at most so many examples of a set with the same category, level or source.

Which ones stay depends on the rows alone, not on the order in which they were written: those with the smallest keys.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ultraif_ray.recipe import CapField

Group = tuple[CapField, str]
"""A field and the value that some examples share."""


@dataclass(frozen=True)
class Place:
    """Where an example stands: `key` is a number of its own, evenly spread over 63 bits."""

    set: str
    key: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Bounds:
    """The largest key that each group of a set takes; a group that is not here takes all."""

    keys: dict[tuple[str, Group], int]

    def admit(self, place: Place) -> bool:
        """Whether an example is within the caps of all groups that it is of."""
        return all(place.key <= self.keys.get((place.set, group), place.key) for group in place.groups)


def bounds(places: Iterable[Place], caps: dict[CapField, int | str]) -> Bounds:
    """Find the bounds that hold the caps, with 8 bytes of memory an example and capped field.

    Args:
        places: of every example.
        caps: by field the most examples of one value; `smallest` for as many as the rarest value has.
    """
    keys: dict[tuple[str, Group], array[int]] = defaultdict(lambda: array("q"))
    for place in places:
        for group in place.groups:
            if group[0] in caps:
                keys[place.set, group].append(place.key)
    rarest: dict[tuple[str, CapField], int] = {}
    for (name, (field, _)), members in keys.items():
        rarest[name, field] = min(len(members), rarest.get((name, field), len(members)))
    found = {}
    for (name, group), members in keys.items():
        cap = caps[group[0]]
        if isinstance(cap, str):
            cap = rarest[name, group[0]]
        if len(members) > cap:
            found[name, group] = int(np.partition(np.asarray(members), cap - 1)[cap - 1])
    return Bounds(found)
