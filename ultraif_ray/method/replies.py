"""Ask a role for JSON until the reply can be used, and judge whether two texts are about the same thing."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.records import Message, Role

Parsed = TypeVar("Parsed", bound=BaseModel)
Used = TypeVar("Used")

MAX_QUESTION = 300
"""Characters of a question at most; a longer one asks more than one thing or runs on."""

RETRY_TEMPERATURE = 0.7
"""A second try at temperature 0 would give the same reply, so tries after the first are at least this warm."""

QUESTION_PATTERN = r"(Does|Do|Did|Is|Are|Was|Were|Has|Have|Can|Could|Will|Would|Should) [^\"\\\x00-\x1f?]{8,}\?"
"""A yes/no question in English, whatever the language of the prompt: it opens with an auxiliary verb and asks once.

No upper bound: xgrammar 0.2.8 fails to compile long bounded repetitions; `max_tokens` is the bound."""


async def ask_for_json(
    client: RoleClient,
    role: Role,
    messages: list[Message],
    query: str,
    schema: dict[str, Any],
    reply_model: type[Parsed],
    use: Callable[[Parsed, str], Used],
    attempts: int,
) -> Used:
    """Sample `role` until `use` accepts the parsed reply, at most `attempts` times.

    Args:
        client: whom to ask.
        role: which role.
        messages: the conversation so far.
        query: the query that it is about.
        schema: what constrained decoding holds the reply to.
        reply_model: what the reply is parsed into; never evaluated, only validated.
        use: turns the parsed reply (and its raw text) into what the step wants, or raises UnusableReply.
        attempts: samples at most.

    Raises:
        UnusableReply: the last one, when none could be used.
    """
    last: UnusableReply | None = None
    for attempt in range(attempts):
        warmer = max(client.temperature(role), RETRY_TEMPERATURE) if attempt else None
        completion = (await client.ask(role, messages, query, schema=schema, temperature=warmer))[0]
        try:
            if completion.finish == "length":
                raise UnusableReply(role, "cut off by max_tokens", completion.text)
            try:
                parsed = reply_model.model_validate_json(completion.text)
            except ValidationError as error:
                fault = error.errors()[0]
                reason = "not JSON" if fault["type"] == "json_invalid" else "JSON of another shape"
                raise UnusableReply(role, reason, completion.text) from None
            return use(parsed, completion.text)
        except UnusableReply as unusable:
            last = unusable
    assert last is not None  # noqa: S101 - attempts is at least 1 by the recipe
    raise last


_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")


def words(text: str) -> list[str]:
    """Lower-case words; in scripts written without spaces (Chinese, Japanese) and in Korean, single characters."""
    return [word.casefold() for word in _WORD.findall(text)]


def overlap(part: str, whole: str) -> float:
    """Share of the different words of `part` that stand in `whole` too, in [0, 1]; 0 for a text without words."""
    inner = set(words(part))
    return len(inner & set(words(whole))) / len(inner) if inner else 0.0


_ENGLISH = frozenset(
    ("the", "to", "of", "and", "is", "are", "for", "with", "how", "what", "my", "you", "that", "this", "can", "write")
)


def is_english(text: str) -> bool:
    """Whether a text surely is English: two different ones of its commonest words stand in it."""
    return len(_ENGLISH & set(words(text))) >= 2


def asks_about(question: str, subject: str) -> bool:
    """Whether a question shares a word with its subject. Words count as the same from their first four letters on, so
    that `rhyme` meets `rhymes`; the commonest words do not count.
    """

    def stems(text: str) -> set[str]:
        return {word[:4] for word in words(text) if word not in _ENGLISH}

    return bool(stems(question) & stems(subject))


_LOOP = re.compile(r"(.{2,60}?)\1{7,}", re.DOTALL)


def loops(text: str) -> bool:
    """Whether a text got stuck: some piece of it stands there eight times in a row."""
    return _LOOP.search(text) is not None


def string_limit(characters: int) -> int:
    """The bound to put on a string in a schema: the next power of two, since each different grammar costs a second
    of compilation.
    """
    return 1 << max(8, (characters - 1).bit_length())
