import string
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.data.duplicates import MOST, Duplicates, Seen, band_keys, bands_for
from ultraif_ray.records import Prompt, Turn, prompt_id

LONG = "Plan a walk of two hours along the harbour of a small town, with a stop at each of its three bridges and a map."


def prompt(query: str, *before: str) -> Prompt:
    history = [Turn(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(before)]
    return Prompt(id=prompt_id(query, history), query=query, history=history)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=12), st.sampled_from([1, 4, 1000]))
def test_a_key_is_new_once(batches: list[list[int]], full: int) -> None:
    seen, before = Seen(full=full), set[int]()
    for batch in batches:
        fresh = seen.add(np.array(batch, dtype=np.int64))
        expected = []
        for key in batch:
            expected.append(key not in before)
            before.add(key)
        assert fresh.tolist() == expected


def test_full_arrays_lie_in_files_and_are_looked_up_there(tmp_path: Path) -> None:
    seen = Seen(tmp_path, full=100)
    keys = np.random.default_rng(0).permutation(1000)
    for start in range(0, 1000, 50):
        assert seen.add(keys[start : start + 50]).all()
    files = list(tmp_path.glob("*.npy"))
    assert sum(len(np.load(file)) for file in files) >= 900  # less than one array's keys are left in memory
    assert len(files) >= 5
    assert not seen.add(keys).any()


@pytest.fixture
def near() -> Iterator[Duplicates]:
    with closing(Duplicates(similarity=0.7)) as duplicates:
        yield duplicates


def test_what_is_written_almost_alike_is_a_near_duplicate_of_the_first(near: Duplicates) -> None:
    found = near.find([prompt(LONG), prompt(LONG), prompt(LONG.upper() + "!"), prompt("Describe fog in a harbour.")])
    assert found == ["", "duplicate", "near duplicate", ""]
    assert near.find([prompt(LONG.replace("and a map", "and one map")), prompt("A list of bridges, please")]) == [
        "near duplicate", "",
    ]  # fmt: skip


def test_a_follow_up_is_near_to_those_alone_that_follow_the_same_turn(near: Duplicates) -> None:
    again = "And now the same in French, please, with the names of all bridges left as they are."
    first = near.find([prompt(again, LONG, "a"), prompt(again, "Describe fog.", "b"), prompt(again)])
    assert first == ["", "", ""]
    assert near.find([prompt(again.upper(), LONG, "another answer")]) == ["near duplicate"]


def test_without_a_similarity_only_the_exact_ones_are_found() -> None:
    with closing(Duplicates()) as exact:
        assert exact.find([prompt(LONG), prompt(LONG.upper()), prompt(LONG)]) == ["", "", "duplicate"]


def test_short_texts_and_texts_without_words_are_told_apart(near: Duplicates) -> None:
    texts = ["a", "b", "a b", "?", "!", "?!"]
    assert near.find([prompt(text) for text in texts]) == [""] * len(texts)


def test_of_pairs_of_the_similarity_that_is_asked_for_half_are_found() -> None:
    bands, rows = bands_for(0.8)
    assert bands * rows <= MOST
    chance = [1 - (1 - similarity**rows) ** bands for similarity in (0.5, 0.8, 0.95)]
    assert chance == pytest.approx([0.002, 0.473, 0.999], abs=0.001)
    words = [f"{a}{b}" for a in string.ascii_lowercase for b in string.ascii_lowercase]
    draw = np.random.default_rng(0)
    hits = {0.5: 0, 0.8: 0, 0.95: 0}
    for similarity in hits:
        pairs = []
        for _ in range(100):
            both = draw.permutation(words)[:100]
            own = round(100 * (1 - similarity) / (1 + similarity))  # of 100 runs in each, so many only there
            pairs += [prompt(" ".join(both)), prompt(" ".join([*both[: 100 - own], *(f"x{i}" for i in range(own))]))]
        keys = band_keys(pairs, bands, rows)
        hits[similarity] = int((keys[::2] == keys[1::2]).any(axis=1).sum())
    assert hits[0.5] < 5
    assert hits[0.8] == pytest.approx(100 * 0.473, abs=20)
    assert hits[0.95] > 90
