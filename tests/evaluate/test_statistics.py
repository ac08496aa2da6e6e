import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.evaluate.statistics import Score, compare, estimate, estimates_of, mcnemar, scores_of


def scores(*met: float, of: float = 1.0, cluster: str = "", part: str = "") -> list[Score]:
    return [Score(f"{cluster}{part}{number}", got, of, cluster, part) for number, got in enumerate(met)]


SHARES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=2, max_size=30)


@settings(max_examples=10)
@given(SHARES, st.integers(0, 3))
def test_an_interval_lies_within_what_prompts_scored(given_shares: list[tuple[int, int]], seed: int) -> None:
    made = [Score(str(number), float(min(got, of)), float(of)) for number, (got, of) in enumerate(given_shares)]
    found = estimate(made, seed)
    shares = [score.got / score.of for score in made]
    assert found.value == pytest.approx(sum(score.got for score in made) / sum(score.of for score in made))
    assert found.low is not None
    assert found.high is not None
    assert min(shares) - 1e-9 <= found.low <= found.high <= max(shares) + 1e-9
    assert found == estimate(made, seed)
    assert found.prompts == len(made)


def test_the_interval_is_the_one_that_theory_gives() -> None:
    found = estimate(scores(*[1.0] * 120, *[0.0] * 280))
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert (found.low, found.high) == (pytest.approx(0.3 - spread, abs=0.006), pytest.approx(0.3 + spread, abs=0.006))


def test_prompts_that_hang_together_are_drawn_together() -> None:
    alone = [score for number in range(40) for score in scores(*[float(number % 2)] * 5, part="", cluster="")]
    apart = [Score(f"{number}", score.got) for number, score in enumerate(alone)]
    together = [Score(f"{number}", score.got, cluster=str(number // 5)) for number, score in enumerate(alone)]
    wide, narrow = (estimate(some) for some in (together, apart))
    assert wide.value == narrow.value == 0.5
    assert None not in (wide.low, wide.high, narrow.low, narrow.high)
    widths = [(one.high or 0) - (one.low or 0) for one in (wide, narrow)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(5), rel=0.12)


def test_a_mean_of_kinds_weighs_each_kind_alike() -> None:
    found = estimate(scores(1.0, part="few") + scores(*[0.0] * 9, part="many"))
    assert (found.value, found.prompts) == (0.5, 10)


def test_ways_to_count_the_same_prompts_are_drawn_at_once() -> None:
    met = [float(random.Random(number).random() < 0.5) for number in range(200)]
    once = [Score(str(number), one) for number, one in enumerate(met)]
    twice = [Score(str(number), one, part=part) for part in "ab" for number, one in enumerate(met)]
    opposite = [
        Score(str(number), abs(one - (part == "b")), part=part) for part in "ab" for number, one in enumerate(met)
    ]
    assert estimate(twice) == estimate(once)  # no surer for having been counted twice
    balanced = estimate(opposite)
    assert (balanced.value, balanced.low, balanced.high) == (pytest.approx(0.5),) * 3


def test_one_cluster_has_no_interval() -> None:
    for some in (scores(1.0), scores(1.0, 0.0, cluster="all")):
        assert (estimate(some).low, estimate(some).high) == (None, None)


# ---- two models ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_tail_of_fair_coins(first: int, second: int) -> None:
    tail = sum(math.comb(first + second, one) for one in range(min(first, second) + 1)) / 2 ** (first + second)
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(first, second) == mcnemar(second, first)


def test_two_models_are_compared_prompt_by_prompt() -> None:
    first, second = scores(*[1.0] * 10, *[0.0] * 90), scores(*[0.0] * 2, *[1.0] * 28, *[0.0] * 70)
    found = compare(first, second)
    assert (found.only_first, found.only_second, found.prompts) == (2, 20, 100)
    assert found.difference == pytest.approx(0.18)
    assert found.p_value == mcnemar(2, 20)
    assert found.low is not None
    assert found.high is not None
    assert 0.05 < found.low < 0.18 < found.high < 0.3
    back = compare(second, first)
    assert (back.difference, back.p_value) == (-found.difference, found.p_value)


@settings(max_examples=10)
@given(SHARES)
def test_a_model_does_not_differ_from_itself(given_shares: list[tuple[int, int]]) -> None:
    made = [Score(str(number), float(min(got, of)), float(of)) for number, (got, of) in enumerate(given_shares)]
    found = compare(made, made)
    assert (found.difference, found.low, found.high, found.only_first, found.only_second) == (0.0, 0.0, 0.0, 0, 0)
    assert found.p_value in (1.0, None)


def test_a_pair_is_surer_than_two_models_apart() -> None:
    hard = [float(random.Random(number).random() < 0.5) for number in range(300)]
    first = scores(*hard)
    second = scores(*[1.0 if number % 30 == 0 else one for number, one in enumerate(hard)])
    found, apart = compare(first, second), estimate(second)
    assert (found.high or 0) - (found.low or 0) < ((apart.high or 0) - (apart.low or 0)) / 2


def test_mcnemar_is_for_prompts_that_are_right_or_wrong_by_themselves() -> None:
    assert compare(scores(0.5, 1.0), scores(1.0, 1.0)).p_value is None
    both = [Score("a", 1.0, part=part) for part in "ab"]
    assert compare(both, both).p_value is None  # one prompt, counted twice
    assert compare(scores(1.0, 0.0, cluster="both"), scores(1.0, 0.0, cluster="both")).p_value is None
    assert compare(scores(0.0, 2.0, of=2.0), scores(2.0, 2.0, of=2.0)).p_value == 1.0


def test_prompts_that_one_model_has_not_are_left_out() -> None:
    found = compare(scores(1.0, 1.0, 1.0), scores(0.0, 0.0))
    assert (found.prompts, found.difference) == (2, -1.0)
    with pytest.raises(ValueError, match="no prompt in common"):
        compare([Score("a", 1.0)], [Score("b", 1.0)])


# ---- from lm-eval's samples ------------------------------------------------------------------------------------------


def test_lm_evals_samples_become_scores() -> None:
    made: list[dict[str, Any]] = [
        {"doc_id": 0, "doc_hash": "abcdefghij", "metrics": ["acc", "inst", "bits_per_byte"],
         "acc": True, "inst": [True, False], "bits_per_byte": [-3.5, 9]},
        {"doc_id": 1, "doc_hash": "bcdefghijk", "metrics": ["acc", "inst", "bits_per_byte"],
         "acc": False, "inst": [True], "bits_per_byte": [-1.5, 7]},
        {"doc_id": 2, "doc_hash": "cdefghijkl", "metrics": ["unscored"], "unscored": "why"},
    ]  # fmt: skip
    made = [sample | {"filter": "none"} for sample in made] + [made[0] | {"filter": "strict", "acc": False}]
    assert scores_of(made, "acc,none") == [Score("0-abcdefgh", 1.0), Score("1-bcdefghi", 0.0)]
    assert scores_of(made, "inst,none") == [Score("0-abcdefgh", 1.0, 2.0), Score("1-bcdefghi", 1.0, 1.0)]
    found = {key: one.value for key, one in estimates_of(made).items()}
    assert found["acc,none"] == 0.5
    assert found["acc,strict"] == 0.0
    assert found["inst,none"] == pytest.approx(2 / 3)
    assert found["bits_per_byte,none"] == pytest.approx((3.5 + 1.5) / (9 + 7) / math.log(2))
    assert not [key for key in found if key.startswith("unscored")]
