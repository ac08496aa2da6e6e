"""What a role asks of an engine, and what comes back.

This is the model boundary: `method` speaks only this, so a test can put a scripted engine in a real one's place.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from ultraif_ray.errors import EngineDead, EngineError
from ultraif_ray.recipe import Recipe, Sampling
from ultraif_ray.records import Asked, Failure, Message, Role, Usage


@dataclass(frozen=True)
class Request:
    """One generation: a conversation to continue, `n` times."""

    messages: list[Message]
    role: Role = "responder"
    """Who is asked."""
    query: str = ""
    """The query that it is about, apart from the words around it in `messages`: for an engine that only simulates."""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    sampling: Sampling = field(default_factory=Sampling)
    """How it is drawn beyond that."""
    n: int = 1
    schema: dict[str, Any] | None = None
    """A JSON Schema that the text must follow, held by constrained decoding."""
    turn: int = 0
    """How many requests this row sent to this role before: tells repeated samples apart for a simulated engine."""
    row: int = 0
    """The id of the row that asks: for an engine that notes what it was asked."""
    adapter: str = ""
    """The LoRA adapter to answer with; the pool's own model when empty."""
    labels: tuple[str, ...] = ()
    """Single-token strings whose probability as the answer's first token is wanted; then nothing else is generated."""
    thinking_tokens: int | None = None
    """Most tokens of a thought before the answer; see `RoleSettings.thinking_tokens`."""
    continuation: str | None = None
    """A text whose probability as the answer is wanted; then nothing is generated."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are wanted at each place of the answer, beside the one that stands there; None
    where none is wanted, nor its probability."""


@dataclass(frozen=True)
class Token:
    """A token of an answer: its text, its natural-log probability, and those of the likeliest ones at its place."""

    text: str
    logprob: float
    top: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """One answer. `finish` is `length` when it was cut off: by `max_tokens`, the context, a filter, or a loop. Behind a
    thought without an end there is none: `text` is empty, and `finish` is `length`. For a request with a `continuation`
    it is that text.

    `label_logprobs` holds the natural-log probability of each label as the answer's first token; one that the engine
    did not report is absent. `thoughts` is what a reasoning model wrote before it answered. Rows do not keep it:
    nothing that comes after reads it, and it is many times as long as the answer. `logprob` is the natural-log
    probability of the request's `continuation`, and `greedy` whether each of its tokens is the likeliest one. `tokens`
    is what the request's `top_logprobs` asked for, of a thought too; empty where the engine has none to give.
    """

    text: str
    finish: Literal["stop", "length"] = "stop"
    label_logprobs: dict[str, float] = field(default_factory=dict)
    thoughts: str = ""
    logprob: float | None = None
    greedy: bool = False
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What came back: `n` completions and what they cost in tokens. Thoughts are among those generated; where they are
    read again for the answer they are no part of the prompt.
    """

    completions: list[Completion]
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Delta:
    """A piece of the completion at `index` as it is being written."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


def in_one_piece(reply: Reply) -> Iterator[Delta | Reply]:
    """A reply that is there already, as a stream has it."""
    for index, one in enumerate(reply.completions):
        yield Delta(index, one.text, one.tokens)
    yield reply


class Engine(Protocol):
    """A model that can be asked. Many requests are open at once on one event loop."""

    @property
    def timeout_s(self) -> float | None:
        """Seconds without an answer after which the engine counts as hanging; None where it sees to that itself."""
        ...

    async def generate(self, request: Request) -> Reply:
        """Continue the conversation.

        Raises:
            RequestRefused: this request can never work.
            EngineUnavailable: no answer after the engine's own retries.
            EngineDead: the engine is gone for good.
        """
        ...

    def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """The same in pieces, as it is written, without thoughts; the whole reply comes last.

        Raises:
            EngineError: as `generate`, also behind pieces that came already.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has, as near as the engine can tell without asking anybody."""
        ...

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """Fail now, with a clear message, if the engine cannot be reached or cannot give what will be asked of it.

        Args:
            labels: whose probabilities as the answer's first token will be asked for.
            schema: whether answers will be held to a JSON Schema.
        """
        ...

    async def close(self) -> None:
        """Free what the engine holds."""
        ...


_JSON_OVERHEAD = 1.25
"""Tokens of a text inside JSON, with its escapes, to those of the text."""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, without its model's tokenizer: four bytes of UTF-8 make one in English, three
    in Chinese and Thai (a character), fewer in code.
    """
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1


class RoleClient:
    """The four roles as one row meets them: which engine plays each, how it samples, and what the row has spent.

    Args:
        recipe: which pool serves each role, how it samples and what it is told.
        engines: an engine per pool.
        meter: called with the generated tokens of each reply as it comes, for the progress display.
        row: the row's id, which goes with each request.
        width: how many responses to sample at once, so that the engine's batch is full and no row waits.
    """

    def __init__(
        self,
        recipe: Recipe,
        engines: dict[str, Engine],
        meter: Callable[[int], None] | None = None,
        row: int = 0,
        width: Callable[[], int] = lambda: 1,
    ):
        self._roles, self._engines, self._meter, self._row = recipe.roles, engines, meter, row
        self.width = width
        self.templates, self.decontaminate = recipe.templates_of_roles, recipe.decontaminate
        self._usage: dict[Role, Usage] = {}
        self.dropped: list[Failure] = []
        """Replies, and parts of replies, that were left out so far."""

    async def ask(
        self,
        role: Role,
        messages: list[Message],
        query: str,
        *,
        n: int = 1,
        schema: dict[str, Any] | None = None,
        labels: tuple[str, ...] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        base: bool = False,
        asked: Asked | None = None,
    ) -> list[Completion]:
        """Ask a role about a query.

        Args:
            role: which role.
            messages: the conversation to continue.
            query: the query that it is about.
            n: how many completions.
            schema: a JSON Schema that the text must follow.
            labels: see `Request.labels`.
            temperature: instead of the recipe's, for a second try at a reply that was no use.
            max_tokens: instead of the recipe's, for a reply that holds the query again.
            base: ask the pool's own model, whatever adapter the role has.
            asked: a benchmark's request, which says how it is drawn in place of the recipe.

        Raises:
            EngineError: as `Engine.generate`; EngineDead also where the engine does not answer in its time.
        """
        settings = getattr(self._roles, role)
        spent = self._usage.setdefault(role, Usage(role=role))
        request = Request(
            messages=messages,
            role=role,
            query=query,
            temperature=settings.temperature if temperature is None else temperature,
            top_p=settings.top_p,
            max_tokens=max_tokens or settings.max_tokens,
            sampling=settings,
            n=n,
            schema=schema,
            turn=spent.requests,
            row=self._row,
            adapter="" if base else settings.adapter or "",
            labels=labels,
            thinking_tokens=settings.thinking_tokens,
        )
        if asked:
            request = replace(
                request,
                temperature=asked.temperature,
                top_p=asked.top_p,
                max_tokens=asked.max_tokens,
                sampling=Sampling(stop=tuple(asked.stop) or None),
                continuation=asked.continuation,
            )
        spent.requests += 1
        engine = self._engines[settings.pool]
        try:
            async with asyncio.timeout(engine.timeout_s):
                reply = await engine.generate(request)
        except EngineError as error:
            error.role = role
            raise
        except TimeoutError:
            raise EngineDead(f"pool {settings.pool} gave no answer in {engine.timeout_s:g} s (its timeout_s)") from None
        spent.prompt += reply.prompt_tokens
        spent.cached += reply.cached_tokens
        spent.generated += reply.generated_tokens
        if self._meter:
            self._meter(reply.generated_tokens)
        return reply.completions

    def add_usage(self, before: list[Usage]) -> list[Usage]:
        """The usage a row came with plus what it spent here, one entry per role."""
        total = {usage.role: usage.model_copy() for usage in before}
        for role, spent in self._usage.items():
            kept = total.setdefault(role, Usage(role=role))
            for name in ("requests", "prompt", "cached", "generated"):
                setattr(kept, name, getattr(kept, name) + getattr(spent, name))
        return list(total.values())

    @property
    def composer_is_trained(self) -> bool:
        """Whether the composer is an UltraComposer, which has a format of its own."""
        return self._roles.composer.trained

    @property
    def composer_is_a_model_of_its_own(self) -> bool:
        """Whether the composer's engine has no model but the one that was trained to compose."""
        return self._roles.composer.is_a_model_of_its_own

    @property
    def judge_is_the_responder(self) -> bool:
        """Whether one model, on one engine, answers and judges."""
        judge, responder = self._roles.judge, self._roles.responder
        return (judge.pool, judge.adapter) == (responder.pool, responder.adapter)

    def temperature(self, role: Role) -> float:
        """The recipe's temperature for a role."""
        return float(getattr(self._roles, role).temperature)

    def budget(self, role: Role, query: str, copies: int) -> int:
        """Tokens for a reply of a role: the recipe's bound, and room for so many copies of the query as JSON."""
        settings = getattr(self._roles, role)
        room = copies and copies * math.ceil(_JSON_OVERHEAD * self._engines[settings.pool].count_tokens(query))
        return int(settings.max_tokens) + room
