"""What several models scored, side by side: a table with intervals, the differences from the first, and a plot.

All of it is read from samples in lm-eval's form, by model and benchmark, so that results of other days can stand beside
those of today.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.statistics import Comparison, Estimate, Sample, Score, compare, estimates_of, scores_of

Results = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Samples by model, then by benchmark. The order of the models is that of the table; the first is what others are held
against.
"""

NO_SHARES = {"csl", "loglikelihood", "bits_per_byte"}
"""Metrics that are no share of anything, and so not given in percent."""

LOWER_IS_BETTER = {"bits_per_byte"}

IN_PLOT = {
    "ifeval": ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"),
    "ifbench": ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"),
    "followbench": ("hsr", "ssr"),
    "followbench_rules": ("hsr",),
    "infobench": ("drfr",),
    "complexbench": ("drfr",),
    "livebench_if": ("score",),
    "multi_if": ("turn_1", "turn_2", "turn_3"),
}
"""The metrics of a benchmark that its authors report as its figures; of others the plot has all shares."""


@dataclass(frozen=True)
class Line:
    """One metric of one benchmark: what each model scored, where it was measured, and what each but the first scored
    less the first.
    """

    benchmark: str
    metric: str
    read_by: str
    """The filter that read the answers; `none` for most."""
    estimates: dict[str, Estimate]
    differences: dict[str, Comparison]

    @property
    def name(self) -> str:
        """The metric, to be read."""
        return self.metric if self.read_by == "none" else f"{self.metric} ({self.read_by})"

    @property
    def is_share(self) -> bool:
        """Whether it is given in percent."""
        return self.metric not in NO_SHARES


@dataclass(frozen=True)
class SideBySide:
    """Several models, in order, and all that was measured of them."""

    models: list[str]
    lines: list[Line]


def side_by_side(results: Results) -> SideBySide:
    """Work out all figures, intervals and differences.

    Raises:
        InputError: two models answered other prompts of a benchmark.
    """
    lines = []
    for benchmark in dict.fromkeys(name for benchmarks in results.values() for name in benchmarks):
        samples = {model: found[benchmark] for model, found in results.items() if benchmark in found}
        estimates = {model: estimates_of(some) for model, some in samples.items()}
        for key in dict.fromkeys(key for found in estimates.values() for key in found):
            metric, _, read_by = key.rpartition(",")
            measured = {model: found[key] for model, found in estimates.items() if key in found}
            scores = {model: scores_of(samples[model], key) for model in measured}
            differences = _less_the_first(benchmark, next(iter(results)), scores)
            lines.append(Line(benchmark, metric, read_by, measured, differences))
    return SideBySide(list(results), lines)


def _less_the_first(benchmark: str, first: str, scores: Mapping[str, list[Score]]) -> dict[str, Comparison]:
    if first not in scores:
        return {}
    try:
        return {model: compare(scores[first], found) for model, found in scores.items() if model != first}
    except ValueError as error:
        raise InputError(f"{benchmark}: it was measured on other data than that of {first}: {error}") from None


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(found: SideBySide) -> str:
    """A Markdown table: a row for each metric, a column for each model, 95 % intervals in brackets; shares in %."""
    rows = [
        [one.benchmark, one.name, _prompts(one), *(_cell(one, one.estimates.get(model)) for model in found.models)]
        for one in found.lines
    ]
    return _markdown(["benchmark", "metric", "prompts", *found.models], rows)


def _prompts(line: Line) -> str:
    """How many prompts; where models answered different numbers, from the fewest to the most."""
    counts = sorted({one.prompts for one in line.estimates.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _cell(line: Line, found: Estimate | None) -> str:
    return f"{_figure(found.value, line)}{_interval(found, line)}" if found else "–"


def _interval(found: Estimate | Comparison, line: Line, sign: str = "") -> str:
    if found.low is None or found.high is None:
        return ""
    return f" [{_figure(found.low, line, sign)}, {_figure(found.high, line, sign)}]"


def _figure(value: float, line: Line, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if line.is_share else f"{value:{sign}.3g}"


def differences(found: SideBySide) -> str:
    """A Markdown table of each further model less the first on the prompts that both answered: the difference with its
    95 % interval, how many prompts one of the two alone did better, and the p-value of McNemar's exact test where it
    applies (see `Comparison`). The p-values are those of single tests: of many, some are small by chance.
    """
    rows = [
        [
            one.benchmark,
            one.name,
            model,
            f"{_figure(less.difference, one, '+')}{_interval(less, one, '+')}",
            " : ".join(map(str, _better_and_worse(one, less))),
            "" if less.p_value is None else f"{less.p_value:.2g}",
        ]
        for one in found.lines
        for model, less in one.differences.items()
    ]
    return _markdown(["benchmark", "metric", "model", f"less {found.models[0]}", "better : worse", "p"], rows)


def _better_and_worse(line: Line, less: Comparison) -> tuple[int, int]:
    ahead, behind = less.only_second, less.only_first
    return (behind, ahead) if line.metric in LOWER_IS_BETTER else (ahead, behind)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    ruled = [["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in [head, *ruled]) + "\n"


# ---- plot ------------------------------------------------------------------------------------------------------------


def plot(found: SideBySide, file: str | Path) -> None:
    """Draw the shares that benchmarks are known by, with their 95 % intervals, model by model.

    Args:
        found: the figures.
        file: where to, by its name an SVG, which holds no script, or a PNG.

    Raises:
        InputError: there is no share to draw.
    """
    import altair as alt

    drawn = [one for one in found.lines if one.is_share and one.metric in IN_PLOT.get(one.benchmark, (one.metric,))]
    if not drawn:
        raise InputError("none of these results is a share, so that there is nothing to plot")
    ends = [row["high"] for row in _rows(drawn)]
    scale = alt.Scale(domain=[0, max(10.0, 10 * math.ceil(max(ends) / 10))])  # the same for all, to be compared
    colour = alt.Color(
        "model:N",
        sort=found.models,
        scale=alt.Scale(scheme="tableau10"),
        title=None,
        legend=alt.Legend(orient="top", columns=4),
    )
    height = alt.Step(12 * len(found.models) + 10, **{"for": "position"})
    parts = []
    for benchmark, lines in groupby(drawn, lambda one: one.benchmark):
        measured = list(lines)
        down = alt.Y("metric:N", sort=[one.name for one in measured], title=None)
        beside = alt.YOffset("model:N", sort=found.models)
        base = alt.Chart(alt.Data(values=_rows(measured))).encode(y=down, yOffset=beside, color=colour)
        title = "%, with 95 % interval" if measured[-1] is drawn[-1] else None
        bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
        points = base.mark_point(filled=True, size=50, opacity=1).encode(x=alt.X("value:Q", title=title, scale=scale))
        parts.append((bars + points).properties(title=benchmark, width=420, height=height))
    whole = alt.vconcat(*parts, spacing=6).resolve_scale(color="shared")
    whole.configure_title(anchor="start", frame="group", fontSize=12).save(str(file))


def _rows(lines: list[Line]) -> list[dict[str, Any]]:
    """A row for each point, in percent."""
    return [
        {
            "metric": line.name,
            "model": model,
            "value": 100 * one.value,
            "low": 100 * (one.value if one.low is None else one.low),
            "high": 100 * (one.value if one.high is None else one.high),
        }
        for line in lines
        for model, one in line.estimates.items()
    ]
