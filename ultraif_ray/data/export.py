"""Judged rows → training sets. Here, and only here, one prompt becomes several examples.

Three sets, each with a train and a held-out split by prompt id, so that no prompt stands on both sides:

    sft        the composed instruction and the first response that passed
    dpo        the composed instruction, the first that passed and the first complete one that failed
    composer   each decomposed constraint, turned round: simplified query → original query and question
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.data.card import card
from ultraif_ray.method.prompts import composer_answer, composer_request
from ultraif_ray.recipe import Export, Recipe
from ultraif_ray.records import Constraint, Instruction, Message, Response, Row, Turn, as_pairs
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

SETS = ("sft", "dpo", "composer")
SPLITS = ("train", "held_out")
ROWS_PER_GROUP = 1024
"""Examples of one Parquet row group."""

Example = dict[str, Any]


def export(recipe: Recipe, folder: RunFolder, source: str, target: str, names: tuple[str, ...]) -> Entry:
    """Write sets in one pass over the rows of a step, in flat memory; a set without an example leaves no folder.

    Args:
        recipe: the run's recipe.
        folder: the run's folder.
        source: the step whose rows are read.
        target: where in the folder the sets go, each into a folder of its name.
        names: which of SETS.

    Returns:
        The step's account: rows by the sets they went to, and the examples of each.
    """
    outcomes: Counter[str] = Counter()
    shown: dict[str, Example] = {}
    with ExitStack() as stack:
        files = {
            (name, split): stack.enter_context(_SetFile(folder, recipe.export, folder.at(target, name), name, split))
            for name in names
            for split in SPLITS
        }
        for batch in folder.read_tables(source):
            for record in batch.to_pylist():
                row = Row.model_validate(record)
                made = {name: list(examples(row, name, recipe.export)) for name in names}
                split = "held_out" if held_out(row.id, recipe.export.held_out) else "train"
                for name, found in made.items():
                    files[name, split].add(found)
                    if found:
                        shown.setdefault(name, found[0])
                outcomes["+".join(name for name in names if made[name]) or "nothing to export"] += 1
        counts = {name: {split: files[name, split].count for split in SPLITS} for name in names}
    for name in names:
        if not any(counts[name].values()):
            with suppress(FileNotFoundError):  # object stores have no empty folders
                folder.fs.rm(folder.at(target, name), recursive=True)
            continue
        text = card(name, recipe, ledger.read(folder), counts[name], folder.fingerprint_of(source), shown.get(name))
        with folder.fs.open(folder.at(target, name, "README.md"), "w", encoding="utf-8") as file:
            file.write(text)
    return Entry(input=folder.count(source), outcomes=dict(outcomes), examples=counts)


def held_out(prompt_id: int, share: float) -> bool:
    """Whether a prompt is held out: by its id alone, so the same in every run and every set."""
    return (prompt_id % 10_000) < share * 10_000


def examples(row: Row, name: str, settings: Export) -> Iterator[Example]:
    """The examples of one set that a row gives; none from a row that failed in synthesis."""
    if name == "composer":
        for constraint in row.constraints:
            yield _composer_example(row, constraint, settings)
        return
    if row.outcome == "failed":
        return
    for instruction in row.instructions:
        chosen, rejected = instruction.chosen, instruction.rejected
        if name == "sft":
            target = chosen or (instruction.responses[-1] if settings.keep_unsatisfied else None)
            if target is not None and target.text:
                yield _sft_example(row, instruction, target, settings)
        elif chosen is not None and rejected is not None:
            yield _dpo_example(row, instruction, chosen, rejected, settings)


# ---- layouts ---------------------------------------------------------------------------------------------------------


def _sft_example(row: Row, instruction: Instruction, target: Response, settings: Export) -> Example:
    if settings.layout == "reference":
        return {
            "instruction": instruction.query,
            "output": target.text,
            "history": as_pairs(instruction.history),
        }
    return {
        "prompt": _messages(instruction.history, instruction.query, settings),
        "completion": _answer(target.text),
        "id": row.id,
    }


def _dpo_example(row: Row, instruction: Instruction, chosen: Response, rejected: Response, settings: Export) -> Example:
    if settings.layout == "reference":
        return {
            "prompt": instruction.query,
            "chosen": chosen.text,
            "rejected": rejected.text,
            "history": as_pairs(instruction.history),
        }
    return {
        "prompt": _messages(instruction.history, instruction.query, settings),
        "chosen": _answer(chosen.text),
        "rejected": _answer(rejected.text),
        "id": row.id,
    }


def _composer_example(row: Row, constraint: Constraint, settings: Export) -> Example:
    request = composer_request(row.history, constraint.simplified_query)
    answer = composer_answer(row.query, constraint.question)
    if settings.layout == "reference":
        return {"instruction": request, "output": answer, "history": []}
    # The released composer is asked without a system prompt, whatever the other sets have.
    return {"prompt": [{"role": "user", "content": request}], "completion": _answer(answer), "id": row.id}


def _messages(history: list[Turn], query: str, settings: Export) -> list[Message]:
    turns = [{"role": turn.role, "content": turn.content} for turn in history]
    if settings.system_prompt and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": settings.system_prompt})
    return [*turns, {"role": "user", "content": query}]


def _answer(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


# ---- files -----------------------------------------------------------------------------------------------------------

_CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_HISTORY = pa.list_(pa.list_(pa.string()))
_COLUMNS: dict[tuple[str, str], dict[str, pa.DataType]] = {
    ("sft", "trl"): {"prompt": _CHAT, "completion": _CHAT, "id": pa.int64()},
    ("dpo", "trl"): {"prompt": _CHAT, "chosen": _CHAT, "rejected": _CHAT, "id": pa.int64()},
    ("composer", "trl"): {"prompt": _CHAT, "completion": _CHAT, "id": pa.int64()},
    ("sft", "reference"): {"instruction": pa.string(), "output": pa.string(), "history": _HISTORY},
    ("dpo", "reference"): {
        "prompt": pa.string(),
        "chosen": pa.string(),
        "rejected": pa.string(),
        "history": _HISTORY,
    },
    ("composer", "reference"): {"instruction": pa.string(), "output": pa.string(), "history": _HISTORY},
}


def schema_of(name: str, layout: str) -> pa.Schema:
    """The columns of a set's Parquet files."""
    return pa.schema(_COLUMNS[name, layout])


class _SetFile:
    """One split of one set, in every format the recipe asks for."""

    def __init__(self, folder: RunFolder, settings: Export, place: str, name: str, split: str):
        self._schema = schema_of(name, settings.layout)
        self._folder, self._place = folder, place
        self._split, self._formats = split, settings.files
        self._waiting: list[Example] = []
        self.count = 0

    def __enter__(self) -> "_SetFile":
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

    def add(self, found: list[Example]) -> None:
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
