"""How sure a figure is: intervals by bootstrap over prompts, and whether two models differ."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Draws of a bootstrap."""

LEVEL = 0.95
"""What an interval holds."""


Sample = dict[str, Any]
"""A prompt and how a model did, as lm-eval's sample files have it."""


@dataclass(frozen=True)
class Score:
    """What one prompt scored in a metric: `got` of `of`, such as 2 of 3 instructions, or 1 of 1.

    `prompt` tells prompts apart. Prompts of one `cluster` hang together (the levels of one instruction) and are drawn
    together; each is its own where empty. A metric that is a mean of several has a score in each `part`: of the prompts
    of one kind, or of all prompts in one way to count.
    """

    prompt: str
    got: float
    of: float = 1.0
    cluster: str = ""
    part: str = ""


@dataclass(frozen=True)
class Estimate:
    """A metric's value, with the 95 % interval, over so many prompts; no interval where one cluster is all there is."""

    value: float
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True)
class Comparison:
    """The second model less the first on the same prompts, with the 95 % interval of the difference.

    `p_value` is McNemar's exact test, two-sided, of prompts that are right or wrong, each by itself: None where they
    score in between, or hang together in clusters, which the test does not know of. `only_first` and
    `only_second` are how many prompts one of the two alone got right, or did better.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    only_first: int
    only_second: int
    prompts: int


def estimate(scores: Sequence[Score], seed: int = 0) -> Estimate:
    """The value of a metric: of each part, all that was got of all that there was; of these, the mean. The interval is
    the middle 95 % of the values that a bootstrap over clusters gives, drawn within each kind of prompt.

    Args:
        scores: one for each prompt, at least one.
        seed: of the bootstrap.
    """
    return Estimate(*_bootstrap([scores], seed), len({score.prompt for score in scores}))


def compare(first: Sequence[Score], second: Sequence[Score], seed: int = 0) -> Comparison:
    """Hold two models against each other on the prompts that both answered.

    Args:
        first: the scores of the one that the other is held against.
        second: those of the other, in the same metric of the same benchmark.
        seed: of the bootstrap, which draws the same clusters for both.

    Raises:
        ValueError: they have no prompt in common.
    """
    others = {(score.prompt, score.part): score for score in second}
    pairs = [(one, others[one.prompt, one.part]) for one in first if (one.prompt, one.part) in others]
    if not pairs:
        raise ValueError("the two models have no prompt in common, so that nothing can be compared")
    difference, low, high = _bootstrap([[one for one, _ in pairs], [other for _, other in pairs]], seed)
    ahead: dict[str, float] = defaultdict(float)
    for one, other in pairs:
        ahead[one.prompt] += other.got / other.of - one.got / one.of
    only_first, only_second = sum(lead < 0 for lead in ahead.values()), sum(lead > 0 for lead in ahead.values())
    right_or_wrong = all(one.got in (0, one.of) for pair in pairs for one in pair)
    clusters = {one.cluster or one.prompt for one, _ in pairs}
    p_value = mcnemar(only_first, only_second) if right_or_wrong and len(clusters) == len(pairs) else None
    return Comparison(difference, low, high, p_value, only_first, only_second, len(ahead))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test, two-sided: how likely prompts that one of two models alone got right are split so unevenly,
    or more, where neither is better.
    """
    from scipy.stats import binomtest

    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def estimates_of(samples: Sequence[Sample], seed: int = 0) -> dict[str, Estimate]:
    """All metrics of a benchmark's samples that are figures, each with its interval, by lm-eval's keys: the metric and
    the filter that read the answer, such as `exact_match,strict-match`.
    """
    keys = dict.fromkeys(f"{metric},{sample['filter']}" for sample in samples for metric in sample["metrics"])
    scores = {key: scores_of(samples, key) for key in keys}
    return {key: estimate(some, seed) for key, some in scores.items() if some}


def scores_of(samples: Sequence[Sample], key: str) -> list[Score]:
    """What each prompt scored, read from samples as lm-eval's files have them: in a metric that is one figure, or yes
    or no for each of the prompt's instructions, or the log-probability of a text and its bytes; or that is spelt out
    under `scores`, as in `judged.score`. A prompt that lacks the metric, since it could not be scored, is left out.
    """
    metric, _, read_by = key.rpartition(",")
    return [score for sample in samples if sample["filter"] == read_by for score in _scores_in(sample, metric)]


def _scores_in(sample: Sample, metric: str) -> list[Score]:
    if metric in sample.get("scores", ()):
        return [Score(**score) for score in sample["scores"][metric]]
    found = sample.get(metric)
    # Of other data, prompts with the same number are others.
    prompt = f"{sample['doc_id']}-{sample.get('doc_hash', '')[:8]}"
    if isinstance(found, int | float):
        return [Score(prompt, float(found))]
    if isinstance(found, list | tuple) and metric == "bits_per_byte":
        return [Score(prompt, -found[0] / math.log(2), found[1])]
    if isinstance(found, list) and found and all(isinstance(one, bool) for one in found):
        return [Score(prompt, float(sum(found)), float(len(found)))]
    return []


# ---- the bootstrap ---------------------------------------------------------------------------------------------------

Floats = NDArray[np.float64]

_AT_ONCE = 500
"""Resamples that are held in memory at once."""


def _bootstrap(models: Sequence[Sequence[Score]], seed: int) -> tuple[float, float | None, float | None]:
    """The value of one model, or the second's less the first's, with its percentile interval."""
    from scipy.stats import bootstrap

    rng, value, draws, drawn = np.random.default_rng(seed), 0.0, np.zeros(RESAMPLES), False
    sums = [_sums(scores) for scores in models]
    signs = [1.0] if len(models) == 1 else [-1.0, 1.0]

    def total(*columns: Floats, axis: int = -1) -> Floats:
        """Over parts and models; the columns are what each cluster got and of how much, in turn."""
        shares = [np.sum(got, axis) / np.sum(of, axis) for got, of in zip(columns[::2], columns[1::2], strict=True)]
        return np.sum([sign * share for sign, share in zip(cycle(signs), shares, strict=False)], axis=0)

    for parts in _with_the_same_clusters(sums[0]):
        columns = [
            np.array(column) for part in parts for one in sums for column in zip(*one[part].values(), strict=True)
        ]
        here = float(total(*columns))
        value, draws = value + here, draws + here
        if len(columns[0]) > 1:
            result = bootstrap(
                columns, total, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=_AT_ONCE,
                method="percentile", confidence_level=LEVEL, rng=rng,
            )  # fmt: skip
            draws, drawn = draws - here + result.bootstrap_distribution, True
    low, high = np.quantile(draws / len(sums[0]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value / len(sums[0]), float(low) if drawn else None, float(high) if drawn else None


def _sums(scores: Sequence[Score]) -> dict[str, dict[str, tuple[float, float]]]:
    """By part and cluster: what was got, and of how much."""
    sums: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for score in scores:
        name = score.cluster or score.prompt
        got, of = sums[score.part].get(name, (0.0, 0.0))
        sums[score.part][name] = got + score.got, of + score.of
    return sums


def _with_the_same_clusters(sums: Mapping[str, Mapping[str, Any]]) -> Iterable[list[str]]:
    """The parts, together those that count the same clusters, which are drawn once for all of them."""
    together: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for part, clusters in sums.items():
        together[tuple(clusters)].append(part)
    return together.values()
