"""OpenAI's chat API over an engine: from its requests to the engine's, and back, whole or as a stream of events."""

import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel

from ultraif_ray.engine.protocol import Completion, Delta, Engine, Reply, Request, Token
from ultraif_ray.recipe import Recipe, Sampling
from ultraif_ray.serve.contract import (
    AssistantMessage,
    ChatReply,
    ChatRequest,
    ChatToken,
    ChatUsage,
    Choice,
    Logprobs,
    PromptDetails,
    SchemaFormat,
    TopToken,
)
from ultraif_ray.serve.guard import Failure
from ultraif_ray.serve.served import Model

DONE = b"data: [DONE]\n\n"
"""How OpenAI ends a stream."""


def request_of(body: ChatRequest, model: Model, recipe: Recipe) -> Request:
    """What an engine is asked. Where the client says nothing, OpenAI's defaults hold; for the length, the responder's.

    Raises:
        Failure: more answers than are given at once, or log-probabilities in a form that there is not.
    """
    limits = recipe.serve
    if (body.n or 1) > limits.max_n:
        raise Failure(400, "invalid_request_error", f"n is {body.n}; at most {limits.max_n} are given at once", "n")
    if body.top_logprobs is not None and not body.logprobs:
        raise Failure(400, "invalid_request_error", "top_logprobs wants logprobs: true", "top_logprobs")
    roles = {"developer": "system"}  # OpenAI's newer name
    messages = [{"role": roles.get(one.role, one.role), "content": one.text} for one in body.messages]
    asked = body.max_completion_tokens or body.max_tokens or recipe.roles.responder.max_tokens
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Request(
        messages,
        query=next((one["content"] for one in reversed(messages) if one["role"] == "user"), ""),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        max_tokens=min(asked, limits.max_tokens),
        sampling=Sampling(
            stop=stop or None,
            top_k=body.top_k,
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
        ),
        n=body.n or 1,
        schema=_schema_of(body),
        adapter=model.adapter,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _schema_of(body: ChatRequest) -> dict[str, Any] | None:
    wanted = body.response_format
    if isinstance(wanted, SchemaFormat):
        return wanted.json_schema.schema_
    return {"type": "object"} if wanted and wanted.type == "json_object" else None


def reply_of(reply: Reply, body: ChatRequest) -> ChatReply:
    """The answers as OpenAI has them."""
    return ChatReply(
        id=_new_id(),
        created=int(time.time()),
        model=body.model,
        choices=[_choice(index, one, body) for index, one in enumerate(reply.completions)],
        usage=_usage(reply),
    )


async def events_of(engine: Engine, request: Request, body: ChatRequest) -> AsyncGenerator[bytes | Reply, None]:
    """The answers as OpenAI streams them, and at the end, for the metrics, the reply.

    Raises:
        EngineError: as `Engine.stream`.
    """
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": body.model}
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    begun: set[int] = set()

    def chunk(index: int, delta: dict[str, Any], tokens: tuple[Token, ...] = (), finish: str | None = None) -> bytes:
        if index not in begun:
            begun.add(index)
            delta = {"role": "assistant", **delta}
        logprobs = _logprobs(tokens).model_dump() if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    async with aclosing(engine.stream(request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Delta):
                yield chunk(piece.index, {"content": piece.text}, piece.tokens)
                continue
            for index, one in enumerate(piece.completions):
                yield chunk(index, {}, finish=one.finish)
            if with_usage:
                yield event({**head, "choices": [], "usage": _usage(piece).model_dump()})
            yield DONE
            yield piece


def event(data: dict[str, Any] | BaseModel, name: str = "") -> bytes:
    """A server-sent event."""
    text = data.model_dump_json(exclude_none=True) if isinstance(data, BaseModel) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + b"\n\n"


def _choice(index: int, one: Completion, body: ChatRequest) -> Choice:
    message = AssistantMessage(content=one.text, reasoning=one.thoughts or None)
    return Choice(
        index=index,
        message=message,
        finish_reason=one.finish,
        logprobs=_logprobs(one.tokens) if body.logprobs else None,
    )


def _logprobs(tokens: tuple[Token, ...]) -> Logprobs:
    return Logprobs(
        content=[
            ChatToken(
                **_token(one.text, one.logprob), top_logprobs=[TopToken(**_token(*top)) for top in one.top.items()]
            )
            for one in tokens
        ]
    )


LEAST = -9999.0
"""A log-probability of what is impossible, as OpenAI's and vLLM's servers write it: JSON has no infinity."""


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(text.encode("utf-8", "replace"))}


def _usage(reply: Reply) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.generated_tokens,
        total_tokens=reply.prompt_tokens + reply.generated_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=reply.cached_tokens),
    )


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
