"""Training sets that exist already → the layout that export writes, so that a training reads either the same.

A record is a conversation and its answer, or two answers. Its texts stay as they are; it ends as an example, or as a
rejection that is counted. Accepted, whatever the set is called there:

    composer, sft   `prompt` and `completion` (TRL), `instruction` and `output` (the authors' files), or a chat whose
                    last turn is the answer
    dpo             `prompt`, `chosen` and `rejected` (TRL, the authors' files), or two chats that differ in the last
                    turn

A prompt is a text or a list of messages. A `history` goes before it: messages, [question, answer] pairs, or a flat list
of texts or of `value`s in which the human and the model take turns.
"""

import json
import posixpath
import re
from collections import Counter
from contextlib import ExitStack
from typing import IO, Any

from ultraif_ray.data.export import SPLITS, Columns, SetFile, held_out
from ultraif_ray.data.ingest import Rejection, check_first_record, in_order, shorten
from ultraif_ray.data.readers import Fault, Record, Source, find_sources, note, read_records
from ultraif_ray.data.shapes import BadTurns, NoShape, messages_in, turn_of, turns_of
from ultraif_ray.errors import InputError
from ultraif_ray.method.prompts import query_of_composer_request
from ultraif_ray.recipe import Export
from ultraif_ray.records import Turn, conversation_id, prompt_id
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

REJECTED = "rejected.jsonl"
"""Where the records stand that gave no example: `source`, `reason`, `seen`."""

_WANTED = {
    "composer": "`prompt`+`completion` or `instruction`+`output`, in the form of the released composer",
    "sft": "`prompt`+`completion` or `instruction`+`output` (and `history`), `messages` or `conversations`",
    "dpo": "`prompt`+`chosen`+`rejected` (and `history`)",
}
_HELD_OUT = re.compile(r"(held_out|test|validation|valid|eval|dev)([-_.]|$)")
"""How the name of a file begins that is a held-out split."""


def find_files(specs: tuple[str, ...], encoding: str = "") -> list[Source]:
    """The files of a set. Of one that is there as Parquet and in another format, as export writes it, Parquet alone.

    Args:
        specs: their names.
        encoding: of files without a byte-order mark; UTF-8 where empty.

    Raises:
        InputError: nothing there, or of a kind that is not accepted.
    """
    found = find_sources(specs, encoding)
    parquet = {source.path.removesuffix(".parquet") for source in found if source.kind == ".parquet"}
    twice = [s for s in found if s.kind != ".parquet" and s.path.removesuffix(s.kind) in parquet]
    if twice:
        note(f"{', '.join(specs)}: {len(twice)} of these are there as Parquet too, which is read in their place")
    return [source for source in found if source not in twice]


def check_set(name: str, sources: list[Source]) -> None:
    """Look at the first record of every file, so that what is no such set is refused before anything runs.

    Raises:
        InputError: naming the file, the line, what was seen and what is accepted.
    """
    if all(is_held_out(source) for source in sources):
        raise InputError(
            f"{sources[0].path}: a held-out split by its name, and no file to train on: add one, or rename this"
        )
    for source in sources:
        check_first_record(source, lambda record: _conversation(record, name), f"Accepted for {name}: {_WANTED[name]}")


def is_held_out(source: Source) -> bool:
    """Whether a file is a held-out split, by its name."""
    return _HELD_OUT.match(posixpath.basename(source.path).lower()) is not None


def read_set(name: str, sources: list[Source], folder: RunFolder, target: str, share: float) -> Entry:
    """Write a set as export would, in one pass over its files and in flat memory.

    Args:
        name: `composer`, `sft` or `dpo`.
        sources: its files.
        folder: the run's folder.
        target: where in the folder the set goes, in a folder of its name.
        share: of the conversations, for the held-out split; no matter where a file is one by its name.

    Returns:
        The account: records by what became of them, and the examples of each split.

    Raises:
        InputError: a file cannot be read, or nothing in them can be trained on.
    """
    split_already = any(is_held_out(source) for source in sources)
    settings = Export(files=("parquet",))
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {
            split: stack.enter_context(SetFile(folder, settings, folder.at(target, name), name, split))
            for split in SPLITS
        }
        rejected: IO[str] | None = None
        for source in sources:
            for number, record in read_records(source):
                item = to_example(record, name, f"{source.path}:{number}")
                if isinstance(item, Rejection):
                    rejected = rejected or stack.enter_context(
                        folder.fs.open(folder.at(target, REJECTED), "w", encoding="utf-8")
                    )
                    line = {"source": item.source, "reason": item.reason, "seen": item.seen}
                    rejected.write(json.dumps(line, ensure_ascii=False) + "\n")
                    outcomes[item.reason] += 1
                    continue
                aside = is_held_out(source) if split_already else held_out(_conversation_of(item), share)
                files["held_out" if aside else "train"].add([item])
                outcomes["accepted"] += 1
        counts = {split: files[split].count for split in SPLITS}
    if not counts["train"]:
        raise InputError(_nothing(name, outcomes, counts["held_out"], folder.uri(target, REJECTED), split_already))
    return Entry(input=outcomes.total(), outcomes=dict(outcomes), examples={name: counts})


def _conversation_of(example: Columns) -> int:
    return conversation_id(example["id"], [Turn.model_validate(message) for message in example["prompt"][:-1]])


def _nothing(name: str, outcomes: Counter[str], aside: int, rejected: str, split_already: bool) -> str:
    if not aside:
        reasons = ", ".join(f"{n} {reason}" for reason, n in outcomes.most_common())
        return f"no example for {name} in these files: {reasons}. They stand in {rejected}. Accepted: {_WANTED[name]}"
    advice = "add examples to the other files" if split_already else "lower export.held_out, or add examples"
    return f"all {aside} examples for {name} are held out, and none is left to train on: {advice}"


# ---- one record ------------------------------------------------------------------------------------------------------


def to_example(record: Record, name: str, where: str) -> Columns | Rejection:
    """One record as an example of a set in TRL's conversational layout, or why not.

    Args:
        record: as it was read.
        name: `composer`, `sft` or `dpo`.
        where: its file and line.
    """
    if isinstance(record, Fault):
        return Rejection(where, record.reason, record.seen[:200])
    try:
        turns, answers = _conversation(record, name)
        prompt = in_order(turns, _storable)
    except (NoShape, BadTurns) as error:
        return Rejection(where, str(error).split(":")[0], shorten(record))
    answers = {column: _storable(text) for column, text in answers.items()}
    if not all(answers.values()):
        return Rejection(where, "no answer", shorten(record))
    if not any(turn.role == "user" for turn in prompt):
        return Rejection(where, "no human turn", shorten(record))
    if prompt[-1].role != "user":
        return Rejection(where, "answered already", shorten(record))
    if name == "composer" and not _is_request(prompt[-1].content):
        return Rejection(where, "not what a composer is asked", shorten(record))
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    said = {column: [{"role": "assistant", "content": text}] for column, text in answers.items()}
    return {"prompt": messages, **said, "id": prompt_id(prompt[-1].content, prompt[:-1])}


_ANSWERS = ("completion", "output", "response", "answer")


def parts_of(record: Record) -> tuple[list[Turn], dict[str, str]]:
    """What a record says that is a prompt, an example of any set, or a conversation: what was asked, as it stands, and
    the answers, of which a prompt has none: `answer`, or `chosen` and `rejected`.

    Raises:
        NoShape: the record is none of these.
        BadTurns: it is one, but a turn cannot be used.
    """
    if isinstance(record, dict) and {"chosen", "rejected"} <= record.keys():
        return _pair(record)
    turns = turns_of(record)
    if turns and turns[-1].role == "assistant":
        return turns[:-1], {"answer": turns[-1].content}
    values = (record.get(field) for field in _ANSWERS) if isinstance(record, dict) else ()
    said = next((value for value in values if isinstance(value, str | list) and value), "")
    answer = "\n\n".join(turn.content for turn in _answer(said)) if said else ""
    return turns, {"answer": answer} if answer else {}


def _conversation(record: Record, name: str) -> tuple[list[Turn], dict[str, str]]:
    """What was asked, and the answer under each of the set's columns."""
    if not isinstance(record, dict):
        raise NoShape(f"not a record: {type(record).__name__}")
    if name == "dpo":
        return _pair(record)
    for field in ("completion", "output"):
        if field in record:
            turns = [*turns_of(record), *_answer(record[field])]
            break
    else:
        turns = turns_of(record)
        if len(turns) == 1 and turns[0].role == "user":
            raise NoShape(f"no field of answers: has {_fields(record)}")
    before, answer = _split(turns)
    return before, {"completion": answer}


def _pair(record: dict[str, Any]) -> tuple[list[Turn], dict[str, str]]:
    """Two answers to one prompt, which may stand in both of them instead of apart."""
    if not {"chosen", "rejected"} <= record.keys():
        raise NoShape(f"no fields `chosen` and `rejected`: has {_fields(record)}")
    sides = {column: _answer(record[column]) for column in ("chosen", "rejected")}
    whole = any(turn.role == "user" for turns in sides.values() for turn in turns)
    asked = [] if whole else turns_of(record)
    (before, chosen), (other, rejected) = (_split([*asked, *turns]) for turns in sides.values())
    if before != other:
        raise BadTurns("two prompts: chosen and rejected do not answer the same")
    return before, {"chosen": chosen, "rejected": rejected}


def _answer(answer: Any) -> list[Turn]:
    if (messages := messages_in(answer)) is not None:
        return [turn_of(message) for message in messages]
    if answer is not None and not isinstance(answer, str):
        raise BadTurns(f"broken answer: {type(answer).__name__}")
    return [Turn(role="assistant", content=answer or "")]


def _split(turns: list[Turn]) -> tuple[list[Turn], str]:
    """A conversation without its last turn, and that turn, which is the answer."""
    if not turns or turns[-1].role != "assistant":
        raise BadTurns("no answer")
    return turns[:-1], turns[-1].content


def _storable(text: str) -> str:
    """A text as it is, but for halves of surrogates, which UTF-8 cannot hold; empty where it is blank."""
    return text.encode("utf-8", "replace").decode() if text.strip() else ""


def _is_request(text: str) -> bool:
    try:
        return bool(query_of_composer_request(text))
    except IndexError:
        return False


def _fields(record: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, record))[:12]) or "nothing"
