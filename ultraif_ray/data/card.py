"""The dataset card: a README with the YAML header that `datasets` and the Hub read."""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import yaml

from ultraif_ray import __version__
from ultraif_ray.data.caps import Group
from ultraif_ray.printable import printable
from ultraif_ray.recipe import BENCHMARKS, Recipe
from ultraif_ray.store.difficulty import Difficulty, Rate
from ultraif_ray.store.ledger import Entry, Tokens

_ABOUT = {
    "sft": "Composed instructions, each with the first sampled response that met every question.",
    "dpo": "Composed instructions, each with the first response that met every question and the first complete one "
    "that {who} said no to.",
    "rl": "Composed instructions with {checks} an answer, for training with a reward.",
    "composer": "For training an UltraComposer: a request without one of its constraints, and the request with it, "
    "beside the question that checks it.",
}


def card(
    name: str,
    recipe: Recipe,
    ledger: dict[str, Entry],
    counts: dict[str, int],
    fingerprint: str,
    example: dict[str, Any] | None,
    kinds: Mapping[Group, int] = MappingProxyType({}),
    difficulty: Difficulty | None = None,
) -> str:
    """The card of one set.

    The config's description is new each time: `datasets` keeps what it has read under the folder's last name and
    the card's configs, and would otherwise give the rows of another run whose folder is called `sft` too.

    Args:
        name: `sft`, `dpo`, `rl` or `composer`.
        recipe: the run's recipe.
        ledger: the run's ledger, for the funnel and the tokens.
        counts: examples per split.
        fingerprint: of the settings that made the rows.
        example: one example, or None where the set is empty.
        kinds: examples by category, level and source.
        difficulty: how often the responses of the step passed that the rows are from.
    """
    suffix = "parquet" if "parquet" in recipe.export.files else "jsonl"
    splits = [{"split": split, "path": f"{split}.{suffix}"} for split, n in counts.items() if n]
    header = {
        "pretty_name": f"{recipe.name} ({name})",
        "task_categories": ["text-generation"],
        "tags": ["instruction-following", "ultraif", "synthetic"],
        "configs": [{"config_name": "default", "description": f"{recipe.name} {uuid4().hex}", "data_files": splits}],
    }
    models = {role: recipe.pools[settings.pool].model for role, settings in recipe.roles}
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {recipe.name}: {name}",
        f"{_about(name, recipe)} Made by ultraif-ray {__version__} with the method of UltraIF (arXiv 2502.04153).",
        "| split | examples |\n| --- | --- |\n" + "\n".join(f"| {split} | {n} |" for split, n in counts.items()),
        *_balance(kinds),
        *(_difficulty(difficulty) if difficulty and name != "composer" else ()),
        "## Sources\n\n" + _sources(recipe),
        "The prompts keep the licence of their source.",
        *_kept_out(recipe),
        "## Models\n\n" + "\n".join(f"- {role}: {_code(model)}" for role, model in models.items()),
        f"Fingerprint of the settings that made its rows: `{fingerprint}`",
        "## Funnel\n\n" + _funnel(ledger),
        "## Tokens\n\n" + _tokens(ledger),
    ]
    if example is not None:
        parts.append(f"## An example\n\n{_fenced(json.dumps(example, indent=2, ensure_ascii=False))}")
    return "\n\n".join(parts) + "\n"


def model_card(recipe: Recipe, ledger: dict[str, Entry], shown: dict[str, Any], measured: str = "") -> str:
    """The card of the model that a run ends with.

    Args:
        recipe: the run's recipe.
        ledger: the run's ledger, for the funnel and the losses.
        shown: one prompt with the answers before and after; or empty.
        measured: the table of benchmarks; or empty.
    """
    assert recipe.policy  # noqa: S101 - there is no model without one
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["instruction-following", "ultraif", "trl"],
        **({"base_model": recipe.policy.model} if "/" in recipe.policy.model.strip("./") else {}),
    }
    rounds = len(recipe.sets.dpo) if recipe.sets else recipe.align.iterations
    sft = [] if recipe.sets and not recipe.sets.sft else ["SFT"]
    course = ", then ".join([*sft, *([f"{rounds} round(s) of DPO"] if rounds else [])])
    lora = "LoRA, merged into the weights" if recipe.policy.lora is not None else "full fine-tuning"
    models = {role: _code(recipe.pools[settings.pool].model) for role, settings in recipe.roles}
    lines = ["| step | examples | loss | held-out loss |", "| --- | --- | --- | --- |"]
    for step, entry in ledger.items():
        if report := entry.training:
            spans = [f"{x[0]:g} → {x[-1]:g}" if x else "–" for x in (report.loss, report.held_out_loss)]
            lines.append(f"| {step} | {entry.outcomes.get('trained on', 0)} | {spans[0]} | {spans[1]} |")
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {recipe.name}",
        f"{_code(recipe.policy.model)} trained to follow complex instructions: {course} ({lora}). "
        f"Made by ultraif-ray {__version__} with the method of UltraIF (arXiv 2502.04153).",
        "## Training\n\n" + "\n".join(lines),
        "## Data\n\n" + ("Sets that existed already" if recipe.sets else "Made by "
        + ", ".join(f"{role} {model}" for role, model in models.items()) + " out of") + "\n\n" + _sources(recipe),
        *_kept_out(recipe),
        _funnel(ledger),
    ]  # fmt: skip
    if measured:
        parts.insert(4, f"## Benchmarks\n\nBefore training (`start`) and after each one.\n\n{measured.strip()}")
    if shown:
        text = _fenced(json.dumps(shown, indent=2, ensure_ascii=False))
        parts.append(f"## The same instruction, before and after\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _sources(recipe: Recipe) -> str:
    """Where the prompts, or the sets, come from; of a local file its name alone, since cards are published."""
    files = recipe.sets.files if recipe.sets else recipe.prompts
    return "\n".join(f"- {_public(file)}" for file in files)


def _kept_out(recipe: Recipe) -> Iterator[str]:
    """Which benchmarks the prompts, and what was composed of them, were held against."""
    names = [*recipe.decontaminate.shipped, *(n for n in recipe.decontaminate.against if n not in BENCHMARKS)]
    if names and not recipe.sets:
        yield f"Kept out, of prompts and of what was composed of them: prompts of {', '.join(map(_code, names))}."


def _public(file: str) -> str:
    return _code(posixpath.basename(file) if file.startswith("/") else file)


def _about(name: str, recipe: Recipe) -> str:
    code = recipe.synthesize.checkers != "none"
    who = "code or the judge" if code else "the judge"
    checks = "the yes/no questions and the checks by code of" if code else "the yes/no questions that check"
    about = _ABOUT[name].format(who=who, checks=checks)
    contrast = {
        "sft": "Composed instructions, answered once and not judged.",
        "dpo": "Composed instructions; chosen answers the whole instruction, rejected the same one without its last "
        "constraint. No judge was asked.",
    }
    if recipe.synthesize.pairs == "contrast" and name in contrast:
        return contrast[name]
    if name == "sft" and recipe.export.keep_unsatisfied:
        return f"{about} Where none did, the last one stands in its place."
    if name == "dpo" and recipe.export.pair == "widest":
        return (
            "Composed instructions; of the sampled responses, the one that met every question with the highest score, "
            f"and the complete one with the lowest that {who} said no to."
        )
    return about


def _funnel(ledger: dict[str, Entry]) -> str:
    lines = ["| step | in | outcomes |", "| --- | --- | --- |"]
    for step, entry in ledger.items():
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in entry.outcomes.items())
        lines.append(f"| {step} | {entry.input} | {outcomes} |")
    return "\n".join(lines)


_MOST = 20
"""Sources that are listed."""


def _balance(kinds: Mapping[Group, int]) -> Iterator[str]:
    """How many examples there are of each kind; one that has constraints of several categories counts for each."""
    if not kinds:
        return
    lines = [f"| {field} | {value} | {n} |" for (field, value), n in sorted(kinds.items()) if field != "source"]
    sources = Counter({value: n for (field, value), n in kinds.items() if field == "source"}).most_common()
    lines += [f"| source | {_public(str(source)).replace('|', ' ')} | {n} |" for source, n in sources[:_MOST]]
    if rest := sources[_MOST:]:
        lines.append(f"| source | {len(rest)} more | {sum(n for _, n in rest)} |")
    yield "## What is in it\n\n" + "\n".join(["| by | | examples |", "| --- | --- | --- |", *lines])


def _difficulty(found: Difficulty) -> Iterator[str]:
    """How often the responses of the run passed, kept here or not."""
    rates: dict[str, Mapping[Any, Rate]] = {
        "level": found.levels,
        "category": found.categories,
        "checker": found.checkers,
    }
    lines = [
        f"| {of} | {value} | {rate.of} | {rate.share:.0%} |"
        for of, values in rates.items()
        for value, rate in values.items()
    ]
    yield (
        "## Difficulty\n\nOf all responses that were judged, also those that are not in this set: by level (how many "
        "constraints were added) those that met every question; by category and checker of a constraint, of those with "
        "a verdict on it, those that met it."
    )
    yield "\n".join(["| by | | responses | passed |", "| --- | --- | --- | --- |", *lines])
    yield (
        f"Instructions of which no response passed: {found.none_passed}; some: {found.some_passed}; all: "
        f"{found.all_passed}. Their `pass_rate` is 0, between, and 1."
    )


def _tokens(ledger: dict[str, Entry]) -> str:
    lines = [
        "| step | role | requests | prompt | of these cached | generated |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for step, entry in ledger.items():
        for role, tokens in entry.tokens.items():
            lines.append(
                f"| {step} | {role} | " + " | ".join(str(getattr(tokens, k)) for k in Tokens.model_fields) + " |"
            )
    return "\n".join(lines)


# ---- texts that are data: nothing in them is Markdown or HTML --------------------------------------------------------


def _fenced(text: str) -> str:
    """A code block of JSON whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}json\n{printable(text)}\n{fence}"


def _code(text: str) -> str:
    """A name as code in a line of text."""
    text = " ".join(printable(text).split())
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
