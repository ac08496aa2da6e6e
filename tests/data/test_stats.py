"""What a data set holds: the right counts, whatever shape its records have, in flat memory."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.benchmarks import written
from ultraif_ray.data.ingest import Rejection
from ultraif_ray.data.readers import find_sources
from ultraif_ray.data.stats import KINDS, OTHERS, Copies, Percentiles, Seen, see_record, seen_in_files, stats_of, tally
from ultraif_ray.records import content_hash

ASKED, ANSWERED = {"role": "user", "content": "Name a sea."}, {"role": "assistant", "content": "The Baltic."}
EARLIER = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("record", "kind", "turns", "answers"),
    [
        ("Name a sea.", "prompt", 1, {}),
        ({"prompt": "Name a sea."}, "prompt", 1, {}),
        ({"query": "Name a sea.", "history": [["Hi.", "Hello."]]}, "prompt", 2, {}),
        ({"messages": [*EARLIER, ASKED, ANSWERED]}, "prompt and answer", 2, {"answer": "The Baltic."}),
        ({"conversations": [{"from": "human", "value": "Name a sea."}]}, "prompt", 1, {}),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, "prompt and answer", 1, {"answer": "The Baltic."}),
        ({"instruction": "Name a sea.", "output": "A"}, "prompt and answer", 1, {"answer": "A"}),
        ({"prompt": "Name a sea.", "response": "A"}, "prompt and answer", 1, {"answer": "A"}),
        ({"question": "Name a sea.", "answer": "A"}, "prompt and answer", 1, {"answer": "A"}),
        ({"question": "Name a sea.", "answer": {"a": 1}}, "prompt", 1, {}),
        ({"prompt": [*EARLIER, ASKED], "chosen": [ANSWERED], "rejected": "A"}, "pair", 2,
         {"chosen": "The Baltic.", "rejected": "A"}),
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, {"role": "assistant", "content": "A"}]}, "pair", 1,
         {"chosen": "The Baltic.", "rejected": "A"}),
    ],
)  # fmt: skip
def test_a_record_of_any_shape_is_what_was_asked_and_what_was_answered(
    record: Any, kind: str, turns: int, answers: dict[str, str]
) -> None:
    seen = see_record(record, "a.jsonl:1", "a.jsonl")
    assert isinstance(seen, Seen)
    assert (seen.kind, seen.query) == (kind, "Name a sea.")
    assert 1 + sum(turn.role == "user" for turn in seen.history) == turns
    assert {name: texts[0] for name, texts in seen.answers.items()} == answers


def test_what_a_set_says_beside_its_records_is_counted_too(tmp_path: Path) -> None:
    ours = {"prompt": "Name a sea.", "completion": "The Baltic.", "level": 2, "pass_rate": 0.25,
            "constraints": [{"category": "format", "text": "t"}, {"category": "", "text": "t"}],
            "checks": [{"name": "words", "number": 3}, None]}  # fmt: skip
    theirs = {"prompt": "Nenne mir bitte ein Meer.", "category": "geo", "instruction_id_list": ["a:b", "c:d"]}
    records: list[dict[str, Any]] = [
        ours,
        ours | {"level": 1, "pass_rate": 0.0},
        ours | {"pass_rate": 1, "level": None},
        theirs,
        {"x": 1},
    ]
    place = written(tmp_path / "some.jsonl", records)
    with Path(place).open("a") as file:
        file.write("{broken\n")
    found = stats_of(seen_in_files(find_sources([place])))
    assert found.records == 6
    assert found.kinds == {"prompt and answer": 3, "prompt": 1}
    assert found.unreadable == {"no field of prompts": 1, "broken JSON": 1}
    assert found.first_unreadable == f"{place}:5: no field of prompts: {{'x': 1}}"
    assert (found.levels, found.pass_rates) == ({1: 1, 2: 1}, {"0": 1, "between": 1, "1": 1})
    assert found.categories == {"format": 3, "geo": 1, "a:b": 1, "c:d": 1}
    assert found.checkers == {"words": 3}
    assert found.languages == {"": 3, "de": 1}  # three words are too few to tell
    assert found.sources == {place: 4}
    assert found.same_prompt
    assert (found.same_prompt.count, found.same_prompt.of, found.same_prompt.exact) == (2, 4, True)
    assert found.same_answer
    assert (found.same_answer.count, found.same_answer.of) == (2, 3)
    assert (found.lengths["prompt"].longest, found.lengths["answer"].count) == (25, 3)
    assert found.lengths["whole"].median == len("Name a sea.The Baltic.")
    assert found.difficulty is None


def test_the_same_words_after_another_history_are_no_copy() -> None:
    seen = [see_record({"messages": [*before, ASKED]}, "f:1", "f") for before in ([], EARLIER, EARLIER)]
    copied = stats_of(seen).same_prompt
    assert copied
    assert (copied.count, copied.of) == (1, 3)


def test_no_record_is_no_error() -> None:
    found = stats_of([])
    assert (found.records, found.kinds, found.same_prompt, found.drawn) == (0, {}, None, [])
    only = stats_of([Rejection("f:1", "empty", "{}")])
    assert (only.records, only.unreadable) == (1, {"empty": 1})


def test_each_record_is_drawn_as_often_as_another() -> None:
    seen = [Seen(where=str(n), kind="prompt", query="?") for n in range(12)]
    drawn = [stats_of(seen, rows=4, seed=seed).drawn for seed in range(400)]
    assert {len({one.where for one in some}) for some in drawn} == {4}
    times = Counter(one.where for some in drawn for one in some)
    assert all(abs(times[str(n)] - 400 / 3) < 4 * math.sqrt(400 / 3 * 2 / 3) for n in range(12))
    first = Counter(some[0].where for some in drawn)
    assert all(abs(first[str(n)] - 400 / 12) < 4 * math.sqrt(400 / 12) for n in range(12))
    assert len(stats_of(seen, rows=20).drawn) == 12


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=80))
def test_percentiles_are_those_of_nearest_rank_to_three_digits(lengths: list[int]) -> None:
    counted = Percentiles()
    for length in lengths:
        counted.add(length)
    found = counted.found
    assert (found.count, found.longest) == (len(lengths), max(lengths))
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))
    wanted = np.percentile(lengths, [5, 25, 50, 75, 95], method="inverted_cdf")
    for value, right in zip((found.p5, found.p25, found.median, found.p75, found.p95), wanted, strict=True):
        assert value == pytest.approx(right, rel=0.0051)
        assert value == right or right > 999


@given(st.lists(st.integers(0, 20), max_size=60))
def test_copies_are_counted_exactly_while_all_are_held(texts: list[int]) -> None:
    copies = Copies()
    for text in texts:
        copies.add(content_hash(text))
    found = copies.found
    if texts:
        assert found
        assert (found.count, found.of, found.exact) == (len(texts) - len(set(texts)), len(texts), True)
    else:
        assert found is None


def test_above_what_is_held_copies_are_estimated_from_a_share_of_all_hashes() -> None:
    copies = Copies(held=1000)
    for number in [*range(20_000), *range(0, 20_000, 4)]:
        copies.add(content_hash(number))
    found = copies.found
    assert found
    assert (found.of, found.exact) == (25_000, False)
    assert found.count == pytest.approx(5_000, rel=0.25)


def test_kinds_without_end_are_counted_as_others() -> None:
    counts: Counter[Any] = Counter()
    for number in range(2 * KINDS):
        tally(counts, number % (KINDS + 500))
    assert len(counts) == KINDS + 1
    assert counts.total() == 2 * KINDS
    assert (counts[0], counts[OTHERS]) == (2, 500)
