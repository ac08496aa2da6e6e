"""Values of a JSON text, wherever the pieces end in which it is read."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.data.values import Broken, read_values

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def in_pieces(text: str, size: int) -> Callable[[int], str]:
    """A reader that gives less than it is asked for, as one of a network may."""
    pieces = iter([text[i : i + size] for i in range(0, len(text), size)])
    return lambda _: next(pieces, "")


def read(text: str, size: int) -> list[Any]:
    return list(read_values(in_pieces(text, size), lambda _: False))


@given(st.lists(json_values, max_size=4), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_an_array_is_read_as_json_reads_it(values: list[Any], size: int, ascii_only: bool, indent: int | None) -> None:
    assert read(json.dumps(values, ensure_ascii=ascii_only, indent=indent), size) == values


@given(st.lists(json_values, max_size=4), st.integers(1, 40), st.sampled_from(["\n", " ", ",\n", "\n\ufeff"]))
def test_values_one_after_another_are_read_with_the_items_of_arrays(values: list[Any], size: int, between: str) -> None:
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    assert read(between.join(json.dumps(value) for value in values), size) == items


@given(st.lists(json_values, min_size=1, max_size=3), st.integers(1, 40), st.data())
def test_an_array_that_is_cut_anywhere_gives_what_is_whole_and_says_so(
    values: list[Any], size: int, data: st.DataObject
) -> None:
    text = json.dumps(values)
    end = data.draw(st.integers(1, len(text) - 1))
    found: list[Any] = []
    with pytest.raises(Broken) as caught:
        found.extend(read_values(in_pieces(text[:end], size), lambda _: False))
    assert caught.value.cut
    assert found[:-1] == values[: len(found)][:-1]  # the last one may be a number that was longer


@pytest.mark.parametrize("text", ["[1, ]", "[1 2]", '[{"a" 1}]', '["a\nb"]', "[nul]", "[}", "]", "x", "[" * 100_000])
@pytest.mark.parametrize("size", [1, 100])
def test_damage_is_told_from_a_cut(text: str, size: int) -> None:
    with pytest.raises(Broken) as caught:
        read(text, size)
    assert not caught.value.cut
