"""An engine without a model, for scale and fault tests: replies of the right shape at a given speed.

What it says depends only on the request and the pool's seed, so a run can be repeated exactly.
"""

import asyncio
import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from ultraif_ray.engine.protocol import Completion, Delta, Reply, Request, Token, estimate_tokens
from ultraif_ray.errors import EngineDead, RequestRefused
from ultraif_ray.recipe import SimulatedPool

_CHARS_PER_TOKEN = 4


class SimulatedEngine:
    """See the module."""

    def __init__(self, pool: SimulatedPool):
        self._pool = pool
        self.timeout_s = pool.timeout_s

    async def generate(self, request: Request) -> Reply:
        """See `Engine.generate`."""
        began = time.time()
        await self._suffer("request", request.query)
        reply = self._reply(request)
        if delay := self._pool.latency_s + max(map(_tokens_of, reply.completions)) / self._pool.tokens_per_s:
            await asyncio.sleep(delay if delay > 1e-4 else 0)
        self._note(request, reply, began)
        return reply

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Engine.stream`: a word at a time."""
        began = time.time()
        await self._suffer("request", request.query)
        reply = self._reply(request)
        await asyncio.sleep(self._pool.latency_s)
        for index, one in enumerate(reply.completions):
            tokens = iter(one.tokens)
            for word in _WORD.findall(one.text):
                yield Delta(index, word, tuple(token for token in [next(tokens, None)] if token))
                await asyncio.sleep(max(1, len(word) // _CHARS_PER_TOKEN) / self._pool.tokens_per_s)
        self._note(request, reply, began)
        yield reply

    def _reply(self, request: Request) -> Reply:
        draw = random.Random(self._hash(request))
        if draw.random() < self._pool.refused_share:
            raise RequestRefused("refused by the simulation")
        completions = [self._complete(request, draw) for _ in range(request.n)]
        prompt = sum(len(message["content"]) for message in request.messages) // _CHARS_PER_TOKEN
        return Reply(completions, prompt, cached_tokens=0, generated_tokens=sum(map(_tokens_of, completions)))

    def _note(self, request: Request, reply: Reply, began: float) -> None:
        if self._pool.replies:
            note = {
                "row": request.row,
                "role": request.role,
                "lengths": [*map(_tokens_of, reply.completions)],
                "began": began,
                "ended": time.time(),
            }
            with (Path(self._pool.replies) / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps(note) + "\n")

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return estimate_tokens(text)

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """There is nothing to check; what is to go wrong at the start goes wrong here."""
        await self._suffer("start", "")

    async def close(self) -> None:
        """Nothing to free."""

    async def _suffer(self, when: str, query: str) -> None:
        """Let happen what the recipe wants to go wrong."""
        for fault in self._pool.faults:
            if fault.when != when or fault.query not in query:
                continue
            if fault.once and not _is_first(fault.once):
                continue
            if fault.kind == "exit":
                os._exit(1)
            if fault.kind == "hang":
                await asyncio.sleep(86_400)
            if fault.kind == "refuse":
                raise RequestRefused(fault.message)
            raise EngineDead(fault.message)

    def _hash(self, request: Request) -> bytes:
        asked = [self._pool.seed, request.messages, request.temperature, request.labels, request.turn]
        content = json.dumps(asked if request.continuation is None else [*asked, request.continuation])
        return hashlib.blake2b(content.encode(), digest_size=16).digest()

    def _complete(self, request: Request, draw: random.Random) -> Completion:
        if request.labels:
            p = draw.random()
            probabilities = [p] + [(1 - p) / max(1, len(request.labels) - 1)] * (len(request.labels) - 1)
            logprobs = {la: math.log(max(q, 1e-9)) for la, q in zip(request.labels, probabilities, strict=True)}
            return Completion(request.labels[0], label_logprobs=logprobs)
        if request.continuation is not None:
            logprob = -sum(draw.random() for _ in request.continuation)
            return Completion(request.continuation, logprob=logprob, greedy=draw.random() < 0.5)
        if request.schema is None:
            text = f"{_sentence(draw, 40)} About: {request.query[:80]}"
            if self._pool.response_tokens:
                tokens = draw.choice(self._pool.response_tokens)
                text = _sentence(draw, tokens)[: tokens * _CHARS_PER_TOKEN]
            if request.top_logprobs is None:
                return Completion(text)
            pieces = (Token(word, -draw.random(), {word: -0.5}) for word in _WORD.findall(text))
            return Completion(text, tokens=tuple(pieces))
        try:
            text = json.dumps(_fill(request.schema, "", request.query, draw), ensure_ascii=False)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
            raise RequestRefused("the simulation knows no such JSON schema") from None
        if draw.random() < self._pool.broken_share:
            return Completion(text[: len(text) // 2], finish="length")
        return Completion(text)


def _is_first(file: str) -> bool:
    """Whether this is the first time in a run, whichever process asks: the file is made by one of them."""
    try:
        Path(file).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fill(schema: dict[str, Any], name: str, query: str, draw: random.Random) -> Any:
    """A value that follows a JSON Schema of the kinds that the method uses, and keeps to the query where it must."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return _fill(draw.choice(schema["anyOf"]), name, query, draw)
    if schema["type"] == "null":
        return None
    if schema["type"] == "integer":
        return draw.randint(0, 9)
    if schema["type"] == "object":
        return {key: _fill(sub, key, query, draw) for key, sub in schema["properties"].items()}
    if schema["type"] == "array":
        count = draw.randint(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
        return [_fill(schema["items"], name, query, draw) for _ in range(count)]
    last_word = query.split()[-1] if query.split() else "it"
    texts = {
        "question": f"Does the answer hold {_sentence(draw, 4)}?",
        "constraint": last_word,
        "simplified_query": " ".join(query.split()[:-1]) or query,
        "augmented query": f"{query} {_sentence(draw, 6)}",
    }
    return texts.get(name, _sentence(draw, 10))


_WORD = re.compile(r"\s*\S+|\s+$")


def _tokens_of(one: Completion) -> int:
    return max(1, len(one.text) // _CHARS_PER_TOKEN)


_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fern", "grove", "heath", "iris", "juniper", "kelp", "lichen")


def _sentence(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(_WORDS, k=count))
