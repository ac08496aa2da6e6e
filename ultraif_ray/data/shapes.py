"""From a record of any accepted shape to its turns, as they stand there.

A conversation is a list of messages, of [question, answer] pairs, or of texts in which the human and the assistant take
turns. CSV holds a list as the text of it, JSON or Python's, and some writers of Parquet as a struct of lists; both are
read as the list. Of several fields that could hold the prompt, the first that holds something counts.
"""

import ast
import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from ultraif_ray.data.readers import Record
from ultraif_ray.records import Turn

SHAPES = (
    "ShareGPT `conversations`, OpenAI `messages`, WildChat `conversation`, UltraChat `data`, arena `conversation_a`, "
    "OASST trees, or plain `prompt`, `instruction`+`input` or `context`, `query` (and `history`, `system_prompt`)"
)
_SPEAKERS = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "bing": "assistant", "bard": "assistant", "ai": "assistant", "chatbot": "assistant", "claude": "assistant",
    "gemini": "assistant", "gpt-4": "assistant", "gpt4": "assistant", "llm": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
_CHAT_FIELDS = ("conversations", "messages", "conversation", "turns", "data", "conversation_a")
_PLAIN_FIELDS = ("prompt", "instruction", "query", "question")
_BESIDE = ("input", "context", "passage")
"""What a question may be about, in a field of its own."""
_TEXT_FIELDS = ("value", "content", "text", "message")
_NOT_SAID = ("thinking", "redacted_thinking", "reasoning")
"""Parts of a message that were not said to the other side."""


class NoShape(ValueError):
    """The record has none of the accepted shapes."""


class BadTurns(ValueError):
    """The record has an accepted shape, but its turns cannot be used."""


def turns_of(record: Record) -> list[Turn]:
    """The turns of a record of any accepted shape, as they stand: system message, history, and what was asked.

    Raises:
        NoShape: the record has none of these shapes.
        BadTurns: it has one, but a turn cannot be used.
    """
    if isinstance(record, str):
        return [Turn(role="user", content=record)]
    if not isinstance(record, dict):
        raise NoShape(f"not a record: {type(record).__name__}")
    chats, plain = _chats(record), [field for field in _PLAIN_FIELDS if field in record]
    asked = next((turns for turns in chats if turns), None)
    if asked is None:
        if field := next((field for field in plain if holds_something(record[field])), ""):
            asked = _asked_plainly(record, field)
        elif chats:
            asked = []
        elif plain or any(field in record and not holds_something(record[field]) for field in _CHAT_FIELDS):
            raise BadTurns("empty")
        else:
            raise NoShape(f"no field of prompts: has {', '.join(sorted(map(str, record))[:12]) or 'nothing'}")
    said = [*history_of(record.get("history")), *asked]
    return [*(turn for turn in _system(record) if turn not in said[:1]), *said]  # some say it in both places


def _chats(record: dict[str, Any]) -> list[list[Turn]]:
    """The conversations in a record's fields, up to the first one that is not empty."""
    first = _CHAT_FIELDS if str(record.get("winner")) != "model_b" else ("conversation_b", *_CHAT_FIELDS)
    found: list[list[Turn]] = []
    for field in first:
        if (said := list_in(record.get(field))) is None:
            if str(record.get(field)).lstrip().startswith("["):
                raise BadTurns("broken turn: no list of messages")
            continue
        if field == "data" and not all(isinstance(one, str) or _speaker(one) for one in said):
            continue  # any file may call its content so
        if field == "turns" and any(isinstance(one, str) for one in said):
            raise BadTurns("broken turn: texts without a speaker")  # of MT-bench, all the human's
        found.append(_conversation(said))
        if said:
            break
    return found


def _asked_plainly(record: dict[str, Any], field: str) -> list[Turn]:
    value = record[field]
    if isinstance(value, dict) and _speaker(value):
        return list(_best_path(value))
    if (messages := messages_in(value)) is not None:  # TRL's conversational prompt
        return [turn_of(message) for message in messages]
    if said := _arena(record, value):
        return _conversation(said)
    text = _text(value)
    for name in _BESIDE:
        beside = record.get(name)
        if isinstance(beside, list) and all(isinstance(one, str) for one in beside):
            beside = "\n\n".join(beside)
        if not holds_something(beside):
            continue
        if not isinstance(beside, str):
            raise BadTurns(f"broken {name}: {type(beside).__name__}")
        if beside not in text:  # else the prompt was made of both
            text = f"{text}\n\n{beside}"
    return [Turn(role="user", content=text)]


def _arena(record: dict[str, Any], asked: Any) -> list[str]:
    """What was asked in an arena, and what the better model said, in turn; empty where the record is of none."""
    said, won = list_in(asked), str(record.get("winner_model_b")) in ("1", "1.0", "True")
    answers = list_in(record.get("response_b" if won else "response_a"))
    if not said or answers is None or not all(isinstance(one, str) for one in said):
        return []
    return [one or "" for pair in zip_longest(said, answers[: len(said)]) for one in pair]


def _best_path(message: dict[str, Any]) -> Iterator[Turn]:
    """Of a tree of messages (OASST) the conversation of the answers that were ranked best."""
    node: Any = message
    while isinstance(node, dict):
        yield turn_of(node)
        replies = [one for one in node.get("replies") or () if isinstance(one, dict)]
        node = min(replies, key=_rank, default=None)


def _rank(reply: dict[str, Any]) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


def _system(record: dict[str, Any]) -> list[Turn]:
    texts = (record.get(field) for field in ("system_prompt", "system"))
    said = dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip())
    return [Turn(role="system", content=text) for text in said]


# ---- lists in any form -----------------------------------------------------------------------------------------------


def holds_something(value: Any) -> bool:
    """Whether a field holds anything: no null, no NaN, which stands for it in tables, and nothing blank or empty."""
    if isinstance(value, str | bytes):
        return bool(value.strip())
    return value not in (None, [], {}) and value == value


def messages_in(value: Any) -> list[Any] | None:
    """The messages of a list, or of a text that holds one of messages alone. None for all else."""
    if isinstance(value, list):
        return None if value and all(isinstance(one, str) for one in value) else value
    messages = list_in(value)
    return messages if messages and all(_speaker(one) for one in messages) else None


def list_in(value: Any) -> list[Any] | None:
    """A list, or what holds one: its text, as JSON or as Python prints it, or a struct of lists. None for all else.

    Raises:
        BadTurns: the struct has more speakers than texts, or fewer.
    """
    if isinstance(value, bytes):
        value = _text(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _parsed(value)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        if {"from", "role"} & value.keys():
            raise BadTurns("broken turn: not as many speakers as texts")
    return value if isinstance(value, list) else None


def _parsed(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, of signs that it would not write itself
            return parse(text)
    return None


def _conversation(said: list[Any]) -> list[Turn]:
    """The turns of a list in any of its forms."""
    turns: list[Turn] = []
    unnamed = 0
    for one in said:
        if isinstance(one, list):
            if len(one) != 2 or not all(isinstance(text, str | None) for text in one):
                raise BadTurns("broken turn: no pair of question and answer")
            turns += [Turn(role="user", content=one[0] or ""), Turn(role="assistant", content=one[1] or "")]
        elif isinstance(one, str):
            turns.append(Turn(role="assistant" if unnamed % 2 else "user", content=one))
            unnamed += 1
        else:
            turns.append(turn_of(one))
    return turns


def history_of(history: Any) -> list[Turn]:
    """The turns of a `history` in any of its forms: messages, pairs, or a flat list of texts or of `value`s.

    Raises:
        BadTurns: it has none of them.
    """
    if not holds_something(history):
        return []
    if (said := list_in(history)) is None:
        raise BadTurns(f"broken history: {type(history).__name__}")
    try:
        # In the authors' files a turn is an object with a text alone.
        flat = [_text_of(one) if isinstance(one, dict) and not _speaker(one) else one for one in said]
        turns = _conversation(flat)
    except BadTurns as error:
        raise BadTurns(f"broken history: {error}") from None
    if sum(isinstance(one, str) for one in flat) % 2:
        raise BadTurns("broken history: an odd number of turns without a speaker")
    return turns


# ---- a message -------------------------------------------------------------------------------------------------------


def turn_of(message: Any) -> Turn:
    """One message, in the spelling of any accepted shape.

    Raises:
        BadTurns: it has no speaker or no text.
    """
    if not isinstance(message, dict):
        raise BadTurns("broken turn: not an object")
    speaker = _speaker(message) or ("user" if "content" in message and not {"from", "role"} & message.keys() else "")
    if not speaker:
        raise BadTurns("broken turn: no speaker or no text")
    role = _SPEAKERS.get(speaker.strip().casefold())
    if role is None:
        raise BadTurns(f"unknown speaker: {speaker[:40]}")
    return Turn(role=role, content=_text_of(message))


def _speaker(message: Any) -> str:
    """Who says a message; empty where it is none, or does not say."""
    said = (message.get(field) for field in ("from", "role")) if isinstance(message, dict) else ()
    return next((one for one in said if isinstance(one, str)), "")


def _text_of(message: dict[str, Any]) -> str:
    fields = [field for field in (*_TEXT_FIELDS, "parts") if field in message]
    value = next((message[field] for field in fields if message[field] is not None), None)
    if not fields:
        raise BadTurns("broken turn: no speaker or no text")
    return _text(value)


def _text(value: Any) -> str:
    """The text of a message: of one in parts (OpenAI's), its parts a line apart, as vLLM reads them.

    Raises:
        BadTurns: there is something else in it, such as an image.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadTurns("not UTF-8") from None
    if not isinstance(value, list):
        raise BadTurns(f"broken turn: no text but {type(value).__name__}")
    return "\n".join(_text_of_part(part) for part in value if not _is_not_said(part))


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    text = part.get("text", part.get("content", part.get("value"))) if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise BadTurns(f"not text alone: {kind!s:.40}")
    return text


def _is_not_said(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _NOT_SAID
