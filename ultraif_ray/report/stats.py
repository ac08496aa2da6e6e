"""What a data set holds, in one screen."""

import posixpath
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ultraif_ray.data.stats import Copied, Drawn, Stats
from ultraif_ray.report.show import console, percent, rates_in_words

_MOST = 6
"""Values of one kind that are named."""
_LANGUAGE = {"": "not told"}


def print_stats(found: Stats) -> None:
    """Print what was counted."""
    out = console()
    out.print(f"{found.of}: {found.records:,} records", style="bold")
    _print_lengths(out, found)
    table = Table.grid("", "", padding=(0, 2, 0, 0))
    for label, value in _lines(found).items():
        if value:
            table.add_row(Text(label, style="dim"), value)
    out.print(table, "")
    if found.drawn:
        out.print(f"{len(found.drawn)} at random", style="bold")
    for one in found.drawn:
        _print_drawn(out, one, _folder(found))


def _lines(found: Stats) -> dict[str, str]:
    difficulty, folder = found.difficulty, _folder(found)
    files = {source.removeprefix(folder): n for source, n in found.sources.items()}
    return {
        "records": _shares(found.kinds),
        "not readable": _counts(found.unreadable),
        "  the first": found.first_unreadable,
        "files": _shares(files) if len(files) > 1 else "",
        "human turns": _shares(found.turns, most=9),
        "languages": _shares({_LANGUAGE.get(code, code): n for code, n in found.languages.items()}, most=12),
        "categories": _shares(found.categories),
        "levels": _shares(found.levels, most=9),
        "checkers": _shares(found.checkers),
        "pass rate": _shares(found.pass_rates),
        "passed, by level": rates_in_words(difficulty.levels) if difficulty else "",
        "met, by category": rates_in_words(difficulty.categories) if difficulty else "",
        "met, by checker": rates_in_words(difficulty.checkers) if difficulty else "",
        "exact copies": "; ".join(
            _copies(what, copied)
            for what, copied in (("prompts", found.same_prompt), ("answers", found.same_answer))
            if copied
        ),
    }


def _print_lengths(out: Console, found: Stats) -> None:
    names = ("5 %", "25 %", "median", "75 %", "95 %", "longest")
    table = Table("characters", "texts", *names, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for part, one in found.lengths.items():
        figures = (one.count, one.p5, one.p25, one.median, one.p75, one.p95, one.longest)
        table.add_row(part, *(f"{figure:,}" for figure in figures))
    out.print(table)


def _shares(counts: Mapping[Any, int], most: int = _MOST) -> str:
    """Counts by value, each with its share; those behind the first few in one."""
    total = sum(counts.values())
    named = [f"{value}: {n:,} ({percent(n, total)})" for value, n in islice(counts.items(), most)]
    rest = list(counts.values())[most:]
    return ", ".join([*named, *([f"{len(rest)} more: {sum(rest):,} ({percent(sum(rest), total)})"] if rest else [])])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in counts.items())


def _folder(found: Stats) -> str:
    """The folder that all files are in; of them only the rest is shown."""
    start = posixpath.commonprefix([*found.sources, *(one.where for one in found.drawn)])
    folder = start[: start.rfind("/") + 1]
    return "" if folder == "/" else folder


def _copies(what: str, found: Copied) -> str:
    about = "" if found.exact else "about "
    share = f" ({percent(found.count, found.of)})" if found.count else ""
    return f"{about}{found.count:,} of {found.of:,} {what}{share}"


def _print_drawn(out: Console, one: Drawn, folder: str) -> None:
    """A line for what was asked, and one for each answer."""
    _print_line(out, one.where.removeprefix(folder), one.query, "bold")
    for name, text in one.answers.items():
        _print_line(out, f"  {name}", text)


def _print_line(out: Console, label: str, text: str, style: str = "") -> None:
    line = Text(f"{label}: ", style="dim").append(Text(" ".join(text.split()), style=style))
    out.print(line, no_wrap=True, overflow="ellipsis", crop=False)
