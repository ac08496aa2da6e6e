"""A run in words: its end, its rows, one journey whole."""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from statistics import fmean
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ultraif_ray.api import Rows, Run, steps_with_rows
from ultraif_ray.data.ingest import funnel, read_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.engine.opening import open_engines
from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method.journey import STAGES, run_journey
from ultraif_ray.printable import printable
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Check, Failure, Prompt, Row
from ultraif_ray.steps.evaluate import Evaluation
from ultraif_ray.steps.ingest import Ingest
from ultraif_ray.store.difficulty import Rate
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, Tokens, read

_LONGEST = 1200
"""Characters of a text that are shown."""

ENDS = {"stop": "failed", "length": "cut off"}
"""What a response that did not pass is called, by its `finish`; a refusal or a repetitive one by that name."""


class PlainConsole(Console):
    """Rich's console for texts that are data: nothing in one reaches the terminal as a control sequence. Styles do."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`: all that is printed comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console() -> Console:
    """Standard output; long lines are left to the terminal where there is none to measure."""
    width = None if sys.stdout.isatty() else 110
    return PlainConsole(width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


# ---- the end of a command --------------------------------------------------------------------------------------------


def print_end(folder: RunFolder, until: str) -> None:
    """The funnel, tokens by role, where things are, and one journey.

    Args:
        folder: the run's folder.
        until: the step that the command ended with; empty for the whole run.
    """
    out = console()
    ledger = read(folder)
    _print_funnel(out, ledger)
    _print_tokens(out, ledger)
    _print_training(out, ledger)
    if not until and folder.state(Evaluation.kind) == "done":
        out.print("Benchmarks", style="bold")
        text = folder.fs.cat_file(folder.at(Evaluation.kind, "table.md")).decode("utf-8")
        out.print(text, soft_wrap=True)
    made = {step: entry for step, entry in ledger.items() if until in ("", step)}
    if _print_sets(out, folder, made) and (row := _best(folder)):
        out.print("One journey, whole", style="bold")
        print_row(out, row)
    if until:
        out.print(f"{until}: done, in {folder.uri(until)}" if folder.state(until) else f"done, in {folder}")
    if shown := folder.read_json("model", "before_and_after.json") if not until else {}:
        out.print("The same instruction before and after training", style="bold")
        for turn in shown["prompt"]:
            _text(out, turn["role"], turn["content"], "bold")
        _text(out, "before", shown.get("before", "(a base model without a chat template cannot be asked)"), "yellow")
        _text(out, "after", shown["after"], "green")
        out.print(f"\nmodel: {folder.uri('model')}")


def _print_sets(out: Console, folder: RunFolder, ledger: dict[str, Entry]) -> bool:
    """The training sets of these steps; whether there are any."""
    table = Table("set", "train", "held out", "where", title="Training sets", title_justify="left", box=None)
    for step, entry in ledger.items():
        for name, counts in entry.examples.items():
            where = folder.uri(step, name) if any(counts.values()) else "nothing to write"
            table.add_row(name, str(counts["train"]), str(counts["held_out"]), where)
    if table.row_count:
        out.print(table, "")
    return bool(table.row_count)


def _print_funnel(out: Console, ledger: dict[str, Entry]) -> None:
    table = Table("step", "in", "outcomes", title="Funnel", title_justify="left", box=None)
    for step, entry in ledger.items():
        table.add_row(step, str(entry.input), ", ".join(f"{n} {name}" for name, n in entry.outcomes.items()))
        for reason, n in entry.failures.items():
            table.add_row("", "", Text(f"  {n} failed: {reason}", style="dim"))
        if entry.composed_in_part:
            table.add_row("", "", Text(f"  {entry.composed_in_part} composed in part", style="dim"))
        if entry.control_tokens:
            table.add_row("", "", Text(f"  {entry.control_tokens} hold control tokens, read as text", style="dim"))
        for reason, n in entry.dropped.items():
            table.add_row("", "", Text(f"  {n} dropped: {reason}", style="dim"))
        if entry.difficulty:
            passed = rates_in_words(entry.difficulty.levels)
            table.add_row("", "", Text(f"  responses that passed, by number of constraints: {passed}", style="dim"))
    out.print(table, "")


def rates_in_words(rates: Mapping[Any, Rate]) -> str:
    """Rates by what they are of, in a line."""
    return ", ".join(f"{value}: {percent(rate.passed, rate.of)} of {rate.of:,}" for value, rate in rates.items())


def percent(count: int, of: int) -> str:
    """A share, so that only what is none says 0 % and only what is all says 100 %."""
    share = 100 * count / of
    return "<1 %" if 0 < share < 1 else ">99 %" if 99 < share < 100 else f"{share:.0f} %"


def _print_tokens(out: Console, ledger: dict[str, Entry]) -> None:
    table = Table(
        "step",
        "role",
        "requests",
        "prompt",
        "of these cached",
        "generated",
        title="Tokens",
        title_justify="left",
        box=None,
    )
    for step, entry in ledger.items():
        for role, tokens in entry.tokens.items():
            table.add_row(step, role, *(f"{getattr(tokens, key):,}" for key in Tokens.model_fields))
    if table.row_count:
        out.print(table, "")


def _print_training(out: Console, ledger: dict[str, Entry]) -> None:
    table = Table(
        "step", "examples", "loss, first to last", "held-out loss", title="Training", title_justify="left", box=None
    )
    notes = []
    for step, entry in ledger.items():
        if report := entry.training:
            loss, losses = report.loss, report.held_out_loss
            held_out = f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "no held-out examples"
            examples = str(entry.outcomes.get("trained on", 0))
            course = f"{loss[0]:.3f} {curve(loss, 24)} {loss[-1]:.3f}" if loss else "none was logged"
            table.add_row(step, examples, course, held_out)
            if report.evaluated:
                notes.append(
                    f"{step}: of {report.evaluated} held-out pairs, {report.valid_json:.0%} were answered with valid "
                    f"JSON, {report.usable:.0%} with what could be used ({report.usable_prompted:.0%} by the model it "
                    "started from, prompted)"
                )
            if report.takes_over is False:
                notes.append(f"{step}: the prompted composer stays")
    if table.row_count:
        out.print(table, *notes, "", sep="\n")


def curve(values: list[float], width: int = 40) -> str:
    """Numbers as one line of blocks, each the mean of its share of them."""
    width = min(width, len(values))
    means = [fmean(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (one - low) / (high - low))] if high > low else "▄" for one in means)


LOOKED_AT = 2_000
"""Rows among which the one to show is chosen: a large run has enough of them at its beginning."""


def _best(folder: RunFolder) -> Row | None:
    """The row that shows most: a paired one with constraints if there is one."""
    ranked = ("unsatisfied", "satisfied", "paired")
    best, best_rank = None, (-2, 0)
    for row in islice(Rows(folder, next(iter(steps_with_rows(folder)), Ingest.kind)), LOOKED_AT):
        rank = (ranked.index(row.outcome) if row.outcome in ranked else -1, len(row.constraints))
        if rank > best_rank:
            best, best_rank = row, rank
            if rank >= (2, 2):
                break
    return best


# ---- rows ------------------------------------------------------------------------------------------------------------


def print_rows(run: str, outcome: str | None, rows: int, skip: int, step: str = "") -> None:
    """Print rows of a step of a run, by default of the furthest before the DPO rounds.

    Raises:
        RunError: there is no such run, or no such step in it.
    """
    opened = Run(run)
    if not step and not steps_with_rows(opened.folder):
        print_end(opened.folder, "")  # a run on sets that existed already has no rows
        return
    found_rows = opened.rows(outcome, step)
    out = console()
    found = 0
    for row in found_rows:
        found += 1
        if skip < found <= skip + rows:
            print_row(out, row)
    shown = max(0, min(found - skip, rows))
    which = f" that ended as {outcome}" if outcome else ""
    out.print(f"{shown} of {found} rows{which} in {found_rows.folder.uri(found_rows.step)}")
    if found > skip + shown:
        out.print(f"more: --skip {skip + shown}")


def print_row(out: Console, row: Row) -> None:
    """One row, step by step, readable."""
    out.rule(f"{row.id}  {row.source}", align="left", style="dim")
    for turn in row.history:
        _text(out, f"{turn.role}, before", turn.content, "dim")
    _text(out, "prompt", row.query, "bold")
    for c in row.constraints:
        _text(out, f"constraint, {c.category}", c.text, "cyan")
        _text(out, "  without it", c.simplified_query)
        _text(out, "  question", c.question)
        _print_check(out, c.check)
    for instruction in row.instructions:
        _text(out, f"composed, {instruction.level} added", instruction.query, "bold")
        for added in instruction.added:
            for question in added.questions:
                _text(out, "  question", question, "cyan")
            _print_check(out, added.check)
        for i, response in enumerate(instruction.responses):
            mark = "passed" if response.passed else ENDS.get(response.finish, response.finish)
            _text(out, f"response {i + 1}, {mark}", response.text, "green" if response.passed else "red")
            for v in response.verdicts:
                sure = "" if v.p_yes is None else f" (p yes {v.p_yes:.2f})"
                label = "  verdict" if v.by == "judge" else f"  verdict, by {v.by}"
                _text(out, label, f"{v.answer}{sure}: {v.question} {v.explanation}".strip(), "dim")
    for dropped in row.dropped:
        _print_failure(out, f"{dropped.stage} dropped", dropped)
    for failure in row.failures:
        _print_failure(out, f"{failure.stage} failed", failure)
    _text(out, "outcome", ", ".join(end for end in (row.decomposed, row.outcome) if end) or "accepted", "bold")
    out.print()


def _print_check(out: Console, check: Check | None) -> None:
    if check:
        _text(out, "  check", check.line, "cyan")


def _print_failure(out: Console, label: str, failure: Failure) -> None:
    said = failure.kind if failure.reason == failure.kind else f"{failure.kind}: {failure.reason}"
    _text(out, label, said, "red")
    if failure.raw:
        _text(out, "  on the reply", failure.raw, "dim")


def _text(out: Console, label: str, text: str, style: str = "") -> None:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"
    line = Text(f"{label}: ", style="dim")
    line.append(Text(shown, style=style))
    out.print(line)


# ---- preview ---------------------------------------------------------------------------------------------------------


def preview_rows(recipe: Recipe, count: int) -> None:
    """Take the first few prompts through the whole journey without Ray, and print each."""
    prompts: list[Prompt] = []
    sources = find_sources(recipe.prompts, recipe.ingest.encoding or "")
    for item, _ in funnel(read_prompts(sources, recipe.ingest), recipe.ingest):
        if isinstance(item, Prompt):
            prompts.append(item)
        if len(prompts) >= count:
            break
    out = console()
    for row in asyncio.run(_run_all(recipe, prompts)):
        print_row(out, row)


async def _run_all(recipe: Recipe, prompts: list[Prompt]) -> list[Row]:
    pools = tuple(dict.fromkeys(settings.pool for _, settings in recipe.roles))
    engines = await open_engines(recipe, pools, STAGES)
    try:
        rows = [Row.model_validate(prompt.model_dump()) for prompt in prompts]
        return await asyncio.gather(*(run_journey(row, STAGES, RoleClient(recipe, engines), recipe) for row in rows))
    finally:
        for engine in engines.values():
            await engine.close()
