"""Judged rows → training sets. Here, and only here, one prompt becomes several examples.

Four sets, each with a train and a held-out split by conversation, so that none stands on both sides:

    sft        the composed instruction and the first response that passed
    dpo        the composed instruction, the first that passed and the first complete one that failed, or those with
               the best and the worst score
    rl         the composed instruction and what checks an answer, for training with a reward
    composer   each decomposed constraint, turned round: simplified query → original query and question
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.data.caps import Group, Traits, bounds, groups_of, is_selected
from ultraif_ray.data.card import card
from ultraif_ray.method.prompts import composer_answer, composer_request
from ultraif_ray.recipe import Export, Recipe
from ultraif_ray.records import (
    AddedConstraint,
    Check,
    Constraint,
    Instruction,
    Message,
    Response,
    Row,
    Turn,
    arrow_schema,
    as_sharegpt,
)
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

SETS = ("sft", "dpo", "rl", "composer")
SPLITS = ("train", "held_out")
ROWS_PER_GROUP = 1024
"""Examples of one Parquet row group."""

Columns = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One example of a set: what is written of it, and what can be said of it."""

    columns: Columns
    traits: Traits


def export(
    recipe: Recipe, folder: RunFolder, source: str, target: str, names: tuple[str, ...], behind: dict[str, Entry]
) -> Entry:
    """Write sets in one pass over the rows of a step, two where there are caps or weights; a set without an example
    leaves no folder.

    Args:
        recipe: the run's recipe.
        folder: the run's folder.
        source: the step whose rows are read.
        target: where in the folder the sets go, each into a folder of its name.
        names: which of SETS.
        behind: the ledger's entries of the steps that the sets are made from, for their cards.

    Returns:
        The step's account: rows by the sets they went to, and the examples of each.
    """
    outcomes: Counter[str] = Counter()
    shown: dict[str, Columns] = {}
    kinds: dict[str, Counter[Group]] = {name: Counter() for name in names}
    rows = _Rows(folder, source)
    settings = recipe.export
    balanced = settings.caps or any(weights for _, weights in settings.weights)
    within = bounds(
        (one.traits for row in rows for name in names for one in _selected(row, name, settings)) if balanced else (),
        settings,
    )
    with ExitStack() as stack:
        files = {
            (name, split): stack.enter_context(SetFile(folder, recipe.export, folder.at(target, name), name, split))
            for name in names
            for split in SPLITS
        }
        for row in rows:
            found = {name: list(_selected(row, name, settings)) for name in names}
            stay = {name: [one for one in found[name] if within.admit(one.traits)] for name in names}
            made = {name: [one.columns for one in stay[name]] for name in names}
            split = "held_out" if held_out(row.conversation, settings.held_out) else "train"
            for name in names:
                files[name, split].add(made[name])
                if made[name]:
                    shown.setdefault(name, made[name][0])
                kinds[name].update(group for one in stay[name] for group in groups_of(one.traits, settings))
            outcomes["+".join(name for name in names if made[name]) or _why_not(row, found, settings)] += 1
        counts = {name: {split: files[name, split].count for split in SPLITS} for name in names}
    for name in names:
        if not any(counts[name].values()):
            with suppress(FileNotFoundError):  # object stores have no empty folders
                folder.fs.rm(folder.at(target, name), recursive=True)
            continue
        difficulty = behind[source].difficulty if source in behind else None
        made_by = folder.fingerprint_of(source)
        text = card(name, recipe, behind, counts[name], made_by, shown.get(name), kinds[name], difficulty)
        with folder.fs.open(folder.at(target, name, "README.md"), "w", encoding="utf-8") as file:
            file.write(text)
    return Entry(input=folder.count(source), outcomes=dict(outcomes), examples=counts)


class _Rows:
    """The rows of a step, each time from the files."""

    def __init__(self, folder: RunFolder, step: str):
        self._folder, self._step = folder, step

    def __iter__(self) -> Iterator[Row]:
        for batch in self._folder.read_tables(self._step):
            yield from map(Row.model_validate, batch.to_pylist())


def _selected(row: Row, name: str, settings: Export) -> Iterator[Example]:
    """The examples of one set that a row gives and that meet the conditions."""
    return (one for one in examples(row, name, settings) if is_selected(one.traits, settings.where))


def _why_not(row: Row, found: dict[str, list[Example]], settings: Export) -> str:
    """Why a row gives no example to any set."""
    if any(found.values()):
        return "over a cap"
    gives = any(True for name in found for _ in examples(row, name, settings))
    return "not selected" if gives else "nothing to export"


def held_out(conversation: int, share: float) -> bool:
    """Whether a conversation's prompts are held out: by its hash alone, so the same in every run and every set."""
    return (conversation % 10_000) < share * 10_000


def examples(row: Row, name: str, settings: Export) -> Iterator[Example]:
    """The examples of one set that a row gives; none from a row that failed in synthesis."""
    if name == "composer":
        for number, constraint in enumerate(row.constraints):
            yield Example(_composer_example(row, constraint, settings), _traits(row, name, number, [constraint]))
        return
    if row.outcome == "failed":
        return
    for number, instruction in enumerate(row.instructions):
        columns = _columns(row, name, instruction, settings)
        if columns is not None:
            traits = _traits(row, name, number, instruction.added)
            level, rate, samples = instruction.level, instruction.pass_rate, len(instruction.judged)
            yield Example(columns, replace(traits, level=level, pass_rate=rate, samples=samples))


def _traits(row: Row, name: str, number: int, constraints: Sequence[Constraint | AddedConstraint]) -> Traits:
    return Traits(
        set=name,
        key=(row.id + number * 0x9E3779B97F4A7C15) % 2**63,  # ids are hashes; the golden ratio keeps several apart
        source=row.file,
        categories=tuple(sorted({one.category for one in constraints if one.category})),
        checkers=tuple(sorted({one.check.name for one in constraints if one.check})),
    )


def _columns(row: Row, name: str, instruction: Instruction, settings: Export) -> Columns | None:
    """What is written of an instruction in a set; None where it gives no example."""
    chosen, rejected = instruction.chosen, instruction.rejected
    if name == "rl":
        return _rl_example(row, instruction, settings) if instruction.questions else None
    if name == "sft":
        target = chosen or (instruction.responses[-1] if settings.keep_unsatisfied else None)
        return _sft_example(row, instruction, target, settings) if target and target.text else None
    if settings.pair == "widest":
        chosen, rejected = instruction.widest
    return _dpo_example(row, instruction, chosen, rejected, settings) if chosen and rejected else None


# ---- layouts ---------------------------------------------------------------------------------------------------------


def _sft_example(row: Row, instruction: Instruction, target: Response, settings: Export) -> Columns:
    if settings.layout == "reference":
        history, query = _reference_turns(instruction)
        return {"instruction": query, "output": target.text, "history": history}
    return {
        "prompt": _messages(instruction.history, instruction.query, settings),
        "completion": _answer(target.text),
        "id": row.id,
        **_provenance(instruction),
        "verdicts": _verdicts(target),
    }


def _dpo_example(row: Row, instruction: Instruction, chosen: Response, rejected: Response, settings: Export) -> Columns:
    if settings.layout == "reference":
        history, query = _reference_turns(instruction)
        return {"prompt": query, "chosen": chosen.text, "rejected": rejected.text, "history": history}
    return {
        "prompt": _messages(instruction.history, instruction.query, settings),
        "chosen": _answer(chosen.text),
        "rejected": _answer(rejected.text),
        "id": row.id,
        **_provenance(instruction),
        "verdicts": _verdicts(chosen),
        "rejected_verdicts": _verdicts(rejected),
    }


def _rl_example(row: Row, instruction: Instruction, settings: Export) -> Columns:
    checks = _provenance(instruction)
    if settings.layout == "reference":
        history, query = _reference_turns(instruction)
        return {"prompt": query, "history": history, **checks}
    return {"prompt": _messages(instruction.history, instruction.query, settings), "id": row.id, **checks}


def _provenance(instruction: Instruction) -> Columns:
    """What was asked of an answer beside the prompt, and how many met it; trainers pass over it."""
    return {
        "questions": instruction.questions,
        "checks": [one.check and one.check.model_dump() for one in instruction.added for _ in one.questions],
        "constraints": [{"category": one.category, "text": one.text} for one in instruction.added],
        "level": instruction.level,
        "pass_rate": instruction.pass_rate,
        "samples": len(instruction.judged),
    }


def _verdicts(response: Response) -> list[Columns]:
    return [verdict.model_dump(include={"question", "by", "answer", "p_yes"}) for verdict in response.verdicts]


def _composer_example(row: Row, constraint: Constraint, settings: Export) -> Columns:
    request = composer_request(row.history, constraint.simplified_query)
    answer = composer_answer(row.query, constraint.question)
    if settings.layout == "reference":
        return {"instruction": request, "output": answer, "history": []}
    # The released composer is asked without a system prompt, whatever the other sets have.
    return {
        "prompt": [{"role": "user", "content": request}],
        "completion": _answer(answer),
        "id": row.id,
        "start": {
            "query": constraint.simplified_query,
            "history": [{"role": turn.role, "content": turn.content} for turn in row.history],
        },
    }


def _reference_turns(instruction: Instruction) -> tuple[list[dict[str, str]], str]:
    """History and query as the authors' trainers read them: human and model by turns, in pairs, the human first. There
    is no place for a system message, so an opening one stands before what the human says first.
    """
    turns = [*instruction.history, Turn(role="user", content=instruction.query)]
    if turns[0].role == "system":
        turns[:2] = [Turn(role="user", content=f"{turns[0].content}\n\n{turns[1].content}")]
    return as_sharegpt(turns[:-1]), turns[-1].content


def _messages(history: list[Turn], query: str, settings: Export) -> list[Message]:
    turns = [{"role": turn.role, "content": turn.content} for turn in history]
    if settings.system_prompt and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": settings.system_prompt})
    return [*turns, {"role": "user", "content": query}]


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


# ---- files -----------------------------------------------------------------------------------------------------------

_CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_HISTORY = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
_TEXTS = pa.list_(pa.string())
_PROVENANCE = {
    "questions": _TEXTS,
    "checks": pa.list_(pa.struct(list(arrow_schema(Check)))),
    "constraints": pa.list_(pa.struct([("category", pa.string()), ("text", pa.string())])),
    "level": pa.int64(),
    "pass_rate": pa.float64(),
    "samples": pa.int64(),
}
_VERDICTS = pa.list_(
    pa.struct([("question", pa.string()), ("by", pa.string()), ("answer", pa.string()), ("p_yes", pa.float64())])
)
_COLUMNS: dict[tuple[str, str], dict[str, pa.DataType]] = {
    ("sft", "trl"): {"prompt": _CHAT, "completion": _CHAT, "id": pa.int64(), **_PROVENANCE, "verdicts": _VERDICTS},
    ("dpo", "trl"): {
        "prompt": _CHAT,
        "chosen": _CHAT,
        "rejected": _CHAT,
        "id": pa.int64(),
        **_PROVENANCE,
        "verdicts": _VERDICTS,
        "rejected_verdicts": _VERDICTS,
    },
    ("rl", "trl"): {"prompt": _CHAT, "id": pa.int64(), **_PROVENANCE},
    ("composer", "trl"): {
        "prompt": _CHAT,
        "completion": _CHAT,
        "id": pa.int64(),
        "start": pa.struct([("query", pa.string()), ("history", _CHAT)]),
    },
    ("sft", "reference"): {"instruction": pa.string(), "output": pa.string(), "history": _HISTORY},
    ("dpo", "reference"): {
        "prompt": pa.string(),
        "chosen": pa.string(),
        "rejected": pa.string(),
        "history": _HISTORY,
    },
    ("rl", "reference"): {"prompt": pa.string(), "history": _HISTORY, **_PROVENANCE},
    ("composer", "reference"): {"instruction": pa.string(), "output": pa.string(), "history": _HISTORY},
}


def schema_of(name: str, layout: str) -> pa.Schema:
    """The columns of a set's Parquet files."""
    return pa.schema(_COLUMNS[name, layout])


class SetFile:
    """One split of one set, in every format the recipe asks for."""

    def __init__(self, folder: RunFolder, settings: Export, place: str, name: str, split: str):
        self._schema = schema_of(name, settings.layout)
        self._folder, self._place = folder, place
        self._split, self._formats = split, settings.files
        self._waiting: list[Columns] = []
        self.count = 0

    def __enter__(self) -> "SetFile":
        self._open = ExitStack()
        self._jsonl: IO[str] | None = None
        self._parquet: Any = None
        self._folder.fs.makedirs(self._place, exist_ok=True)
        stem = f"{self._place}/{self._split}"
        if "jsonl" in self._formats:
            self._jsonl = self._open.enter_context(self._folder.fs.open(f"{stem}.jsonl", "w", encoding="utf-8"))
        if "parquet" in self._formats:
            raw = self._open.enter_context(self._folder.fs.open(f"{stem}.parquet", "wb"))
            self._parquet = self._open.enter_context(pq.ParquetWriter(raw, self._schema))
        return self

    def add(self, found: list[Columns]) -> None:
        """Write examples."""
        self.count += len(found)
        if self._jsonl:
            self._jsonl.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in found)
        self._waiting += found
        if len(self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._parquet and self._waiting:
            self._parquet.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []

    def __exit__(self, *exc: Any) -> None:
        self._flush()
        self._open.__exit__(*exc)
        if not self.count:  # `datasets` refuses to load a file without rows
            for suffix in self._formats:
                self._folder.fs.rm(f"{self._place}/{self._split}.{suffix}")
