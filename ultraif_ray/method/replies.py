"""Ask a role for JSON until the reply can be used."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.records import Failure, Message, Role

Parsed = TypeVar("Parsed", bound=BaseModel)
Used = TypeVar("Used")

RETRY_TEMPERATURE = 0.7
"""A second try at temperature 0 would give the same reply, so tries after the first are at least this warm."""


async def ask_for_json(
    client: RoleClient,
    role: Role,
    messages: list[Message],
    query: str,
    schema: dict[str, Any],
    reply_model: type[Parsed],
    use: Callable[[Parsed, str], Awaitable[Used]],
    attempts: int,
    *,
    copies: int = 0,
    rescue: Callable[[str], Parsed | None] = lambda text: None,
) -> Used:
    """Sample `role` until `use` accepts the parsed reply, at most `attempts` times. What was no use is noted in
    `client.dropped`, but for the last reply where all were.

    Args:
        client: whom to ask.
        role: which role.
        messages: the conversation so far.
        query: the query that it is about.
        schema: what constrained decoding holds the reply to.
        reply_model: what the reply is parsed into; never evaluated, only validated.
        use: turns the parsed reply (and its raw text) into what the step wants, or raises UnusableReply.
        attempts: samples at most.
        copies: how often the reply holds the query again, at most: the role's `max_tokens` is for the rest of it.
        rescue: makes a reply of what stood whole before the text was cut off; None where nothing did.

    Raises:
        UnusableReply: the last one, when none could be used.
    """
    unusable: list[UnusableReply] = []
    budget = client.budget(role, query, copies)
    while True:
        warmer = max(client.temperature(role), RETRY_TEMPERATURE) if unusable else None
        asked = client.ask(role, messages, query, schema=schema, temperature=warmer, max_tokens=budget)
        (completion,) = await asked
        try:
            if completion.finish == "length":
                cut = UnusableReply(role, "cut off", completion.text, f"cut off, with room for {budget} tokens")
                budget *= 2
                if (parsed := rescue(completion.text)) is None:
                    raise cut
                unusable.append(cut)
            else:
                parsed = _parse(role, completion.text, reply_model)
            used = await use(parsed, completion.text)
            break
        except UnusableReply as fault:
            unusable.append(fault)
            if len(unusable) >= attempts:
                client.dropped += map(as_dropped, unusable[:-1])
                raise
    client.dropped += map(as_dropped, unusable)
    return used


def _parse(role: Role, text: str, reply_model: type[Parsed]) -> Parsed:
    try:
        return reply_model.model_validate_json(text)
    except ValidationError as error:
        kind = "not JSON" if error.errors()[0]["type"] == "json_invalid" else "JSON of another shape"
        raise UnusableReply(role, kind, text) from None


def as_dropped(unusable: UnusableReply) -> Failure:
    """A reply that was no use, as a row keeps it."""
    return Failure(stage=unusable.stage, kind=unusable.kind, reason=unusable.reason, raw=unusable.raw)


def probability_of_yes(logprobs: dict[str, float], labels: tuple[str, str]) -> float | None:
    """The probability of the first of two labels, yes, among both; None when the engine reported neither.

    A label missing from a server's top list is less likely than every one in it, so it counts as impossible.
    """
    yes, no = (math.exp(logprobs[label]) if label in logprobs else 0.0 for label in labels)
    return yes / (yes + no) if yes + no > 0 else None
