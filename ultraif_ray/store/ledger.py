"""The ledger: per step how many rows came in, where each ended, and the tokens by role.

Counted from the files that were written, never from what the workers said, and checked: outcomes sum to the input, and
no id stands twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from ultraif_ray.engine.control import holds_control
from ultraif_ray.errors import RunError
from ultraif_ray.records import Constraint, Instruction, Response
from ultraif_ray.store.difficulty import Counting, Difficulty
from ultraif_ray.store.folder import RunFolder

LEDGER = "ledger.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Tokens(_Model):
    """What one role's requests cost, over all rows of a step."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    """Prompt tokens that the engine's prefix cache held already."""
    generated: int = 0


class Retried(_Model):
    """What rows cost before `ultraif retry` did them again; these tokens stand in no row now."""

    attempts: int
    generated: int


class Training(_Model):
    """How a training went."""

    loss: list[float]
    """One value for each time that the trainer logged it."""
    held_out_loss: list[float]
    """One value for each evaluation, the first of them before training; empty without held-out examples."""
    evaluated: int = 0
    """Held-out pairs that a trained composer was asked."""
    valid_json: float | None = None
    """Fraction of these that it answered with valid JSON."""
    usable: float | None = None
    """Fraction of these whose answer the composer's step would accept."""
    usable_prompted: float | None = None
    """The same for the model that it started from, prompted."""
    takes_over: bool | None = None
    """Whether a trained composer composes from here on, or the prompted one stays."""


class Example(_Model):
    """Something that a filter turned away, and why."""

    source: str
    seen: str
    """How it began."""
    kind: str = ""
    """Of what kind: for `contaminated` the benchmark."""
    like: str = ""
    """What it is like: for `contaminated` the id of the benchmark's prompt."""
    value: float | None = None
    """How much, as the threshold is: for `contaminated` the share of that prompt."""


EXAMPLES = 3
"""How much of what a filter turned away stands in the ledger."""


class Filtered(_Model):
    """What one filter turned away, or masked."""

    threshold: float | None = None
    """From where on; None where there is none to set."""
    count: int
    examples: list[Example] = []
    """The first few."""

    def plus(self, example: Example) -> "Filtered":
        """The same with one more."""
        examples = [*self.examples, example] if len(self.examples) < EXAMPLES else self.examples
        return self.model_copy(update={"count": self.count + 1, "examples": examples})


class Entry(_Model):
    """The account of one step."""

    input: int
    """Rows (for a training: examples) that came in."""
    outcomes: dict[str, int]
    """Rows by the one outcome that each ended with; they sum to `input`."""
    failures: dict[str, int] = {}
    """Failures by role and kind, most frequent first."""
    dropped: dict[str, int] = {}
    """Replies and parts of replies that were left out while the row went on, by role and kind, most frequent first."""
    composed_in_part: int = 0
    """Rows that went on with fewer constraints than they drew, since a later round of composing failed."""
    filters: dict[str, Filtered] = {}
    """What each filter that is on turned away, by its name. Of ingest prompts, whose outcome is of the same name, but
    for those that were masked; of synthesis responses that are no answers."""
    control_tokens: int = 0
    """Rows in whose texts something stands that looks like a control token of a chat model (for a training: a control
    token of its own model). Models read it as text."""
    tokens: dict[str, Tokens] = {}
    """By role."""
    retried: Retried | None = None
    difficulty: Difficulty | None = None
    """How often responses passed, where any was judged."""
    examples: dict[str, dict[str, int]] = {}
    """Examples by training set and split."""
    training: Training | None = None


def read(folder: RunFolder) -> dict[str, Entry]:
    """The entries of a run by step, in the order of its steps.

    Raises:
        RunError: the ledger is not one that this version wrote.
    """
    try:
        return {step: Entry.model_validate(entry) for step, entry in folder.read_json(LEDGER).items()}
    except ValueError as error:
        raise RunError(f"{folder.uri(LEDGER)}: not a ledger of this version ({error}); move it away") from None


def enter(folder: RunFolder, step: str, entry: Entry, order: Sequence[str] = ()) -> None:
    """Check a step's counts and write them to `RUN/ledger.json`.

    Args:
        folder: the run's folder.
        step: the step's name.
        entry: its account.
        order: the order in which entries are kept; one that is not in it comes last.

    Raises:
        RunError: the outcomes do not sum to the input.
    """
    entry = entry.model_copy(update={"outcomes": dict(sorted(entry.outcomes.items()))})
    entries = read(folder) | {step: entry}
    place = {name: i for i, name in enumerate(order)}
    _write(folder, dict(sorted(entries.items(), key=lambda item: place.get(item[0], len(place)))))
    check(step, entry)


def remove(folder: RunFolder, steps: Iterable[str]) -> None:
    """Take out the entries of steps whose output was deleted."""
    entries = read(folder)
    if gone := entries.keys() & set(steps):
        _write(folder, {step: entry for step, entry in entries.items() if step not in gone})


def _write(folder: RunFolder, entries: dict[str, Entry]) -> None:
    folder.write_json({step: entry.model_dump(exclude_defaults=True) for step, entry in entries.items()}, LEDGER)


def check(step: str, entry: Entry) -> None:
    """Raises RunError unless every input row has exactly one outcome."""
    if "" in entry.outcomes:
        raise RunError(f"ledger of {step}: {entry.outcomes['']} rows have no outcome")
    if sum(entry.outcomes.values()) != entry.input:
        raise RunError(
            f"ledger of {step}: {entry.input} rows came in, but outcomes sum to {sum(entry.outcomes.values())} "
            f"({entry.outcomes}); run the same command again to finish the missing rows"
        )


def count_rows(folder: RunFolder, step: str, input_rows: int, outcome_column: str, roles: tuple[str, ...]) -> Entry:
    """Count a step's rows by outcome and its tokens by role, in flat memory but for 8 bytes per id.

    Args:
        folder: the run's folder.
        step: the step whose rows are counted.
        input_rows: how many rows came in.
        outcome_column: `decomposed` or `outcome`.
        roles: whose failures, dropped replies and tokens are counted.

    Raises:
        RunError: an id stands in the output more than once.
    """
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    in_part = hostile = 0
    filters = _of_responses(folder, step) if outcome_column == "outcome" else {}
    tokens: dict[str, Counter[str]] = {role: Counter() for role in roles}
    difficulty = Counting()
    ids: list[np.ndarray] = []
    columns = ["id", "source", outcome_column, "failures", "dropped", "usage", "rounds", "instructions", "constraints"]
    for batch in folder.read_tables(step, columns):
        ids.append(batch.column("id").to_numpy())
        for row in batch.to_pylist():
            outcomes[row[outcome_column]] += 1
            reasons.update(_kinds(row["failures"], roles))
            dropped.update(_kinds(row["dropped"], roles))
            if outcome_column == "outcome":
                instructions = [Instruction.model_validate(made) for made in row["instructions"]]
                deepest = max((made.level for made in instructions), default=row["rounds"])
                in_part += deepest < row["rounds"]
                hostile += any(map(holds_control, _made(instructions)))
                difficulty.add(instructions, [Constraint.model_validate(found) for found in row["constraints"]])
                for response in (one for made in instructions for one in made.responses):
                    if name := _no_answer(response):
                        example = Example(source=row["source"], seen=response.text[:200])
                        filters[name] = filters.get(name, Filtered(count=0)).plus(example)
            for usage in row["usage"]:
                if usage["role"] in tokens:
                    tokens[usage["role"]].update({name: usage[name] for name in Tokens.model_fields})
    every = np.concatenate(ids) if ids else np.array([], dtype=np.int64)
    if doubled := len(every) - len(np.unique(every)):
        raise RunError(f"ledger of {step}: {doubled} ids stand in {folder.uri(step, 'rows')} more than once")
    return Entry(
        input=input_rows,
        outcomes=dict(outcomes),
        failures=dict(reasons.most_common()),
        dropped=dict(dropped.most_common()),
        composed_in_part=in_part,
        filters=filters,
        control_tokens=hostile,
        tokens={role: Tokens.model_validate(counts) for role, counts in tokens.items()},
        retried=_retried(folder, step),
        difficulty=difficulty.found,
    )


def _of_responses(folder: RunFolder, step: str) -> dict[str, Filtered]:
    """The filters of responses that are on in a step, before anything is counted."""
    settings = folder.settings(step).get("synthesize", {})
    found = {"cut off": Filtered(count=0), "empty": Filtered(count=0)}
    if settings.get("repetitive"):
        found["repetitive"] = Filtered(threshold=settings["repetitive"], count=0)
    return found | ({"refusal": Filtered(count=0)} if settings.get("refusals") == "drop" else {})


def _no_answer(response: Response) -> str:
    """Which filter a response did not pass; empty where it is an answer."""
    if response.finish != "stop":
        return "cut off" if response.finish == "length" else response.finish
    return "" if response.text else "empty"


def _made(instructions: list[Instruction]) -> Iterator[str]:
    """The texts of a row that models wrote and others read."""
    for made in instructions:
        yield from (added.query for added in made.added)
        yield from (response.text for response in made.responses)


def _kinds(failures: list[dict[str, str]], roles: tuple[str, ...]) -> Iterable[str]:
    return (f"{failure['stage']}: {failure['kind']}" for failure in failures if failure["stage"] in roles)


def _retried(folder: RunFolder, step: str) -> Retried | None:
    rows = generated = 0
    for path in folder.retried(step):
        with folder.fs.open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["usage"]):
                rows += batch.num_rows
                generated += sum(usage["generated"] for row in batch.column("usage").to_pylist() for usage in row)
    return Retried(attempts=rows, generated=generated) if rows else None
