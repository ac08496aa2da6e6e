"""Around every route: who may ask, how much and for how long; and what became of it, in errors, metrics and a log.

Errors have OpenAI's form and one sentence. The log has a line of JSON for each request, without any of its text.
"""

import asyncio
import hashlib
import hmac
import json
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ultraif_ray.errors import EngineBusy, EngineError, RequestRefused
from ultraif_ray.recipe import Serve
from ultraif_ray.serve.contract import ErrorDetail, ErrorReply, ErrorType

RETRY_AFTER_S = 2
"""Seconds after which to come again, where nobody knows better: what is full or lost is seldom so for longer."""

OPEN_PATHS = ("/health", "/ready", "/openapi.json")
"""Asked without a token, as the page's files are: they tell nothing that is not in the source."""


class Failure(HTTPException):
    """A request that ends with an error. `param` is the field that it is about."""

    def __init__(self, status: int, kind: ErrorType, message: str, param: str | None = None, code: str | None = None):
        come_again = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
        super().__init__(status, message, {"WWW-Authenticate": "Bearer"} if status == 401 else come_again)
        self.error = ErrorDetail(message=message, type=kind, param=param, code=code)


def failure_of(error: BaseException, timeout_s: float = 0) -> Failure:
    """What a client is told of an error: nothing of its traceback, nor of where engines are."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, HTTPException):
        kind: ErrorType = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        failure = Failure(error.status_code, kind, str(error.detail))
        failure.headers = error.headers
        return failure
    if isinstance(error, RequestRefused):
        return Failure(400, "invalid_request_error", str(error))
    if isinstance(error, EngineBusy):
        return Failure(429, "rate_limit_error", "all engines are busy and their queue is full: ask again later")
    if isinstance(error, EngineError):
        return Failure(503, "unavailable_error", "an engine was lost, or does not answer: ask again later")
    if isinstance(error, TimeoutError):
        return Failure(504, "timeout_error", f"no answer in {timeout_s:g} s: ask for fewer tokens, or ask again later")
    return Failure(500, "internal_error", "something went wrong here that nobody foresaw; the service's log says where")


@dataclass(frozen=True)
class Door:
    """Who may come in: whoever has the token, of which only a hash is known here; and without one, only programs on
    this machine, told by the host that they ask for: a page of another site, which a browser shows, is none of them.
    """

    token_hash: bytes | None = None
    hosts: frozenset[str] = frozenset()
    """Without a token: the hosts that are asked for; any where empty."""

    def check(self, headers: Headers) -> None:
        """Refuse a request.

        Raises:
            Failure: 401, or 400 for a host.
        """
        if self.token_hash is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(hashed(given.encode("utf-8", "surrogateescape")), self.token_hash)
            if not right or scheme.lower() != "bearer":
                raise Failure(401, "authentication_error", "this service wants its token: Authorization: Bearer TOKEN")
        elif self.hosts and host_of(headers.get("host", "")) not in self.hosts:
            raise Failure(400, "invalid_request_error", "this service is asked as localhost alone; it has no token")


LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def hashed(token: bytes) -> bytes:
    """What is kept of a token, and compared in constant time."""
    return hashlib.sha256(token).digest()


def host_of(header: str) -> str:
    """The host of a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class Metrics:
    """Prometheus metrics of one copy of the front."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"namespace": "ultraif", "registry": self.registry}
        self.requests = Counter("requests", "Requests by route and status.", ["route", "status"], **of)
        self.seconds = Histogram(
            "request_seconds", "Seconds of a request by route.", ["route"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300), **of,
        )  # fmt: skip
        self.open = Gauge("open_requests", "Requests that are being answered.", **of)
        self.generated = Counter("generated_tokens", "Tokens that engines wrote, by model.", ["model"], **of)


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, limits: Serve, door: Door, metrics: Metrics):
        self._app, self._limits, self._door, self._metrics = app, limits, door, metrics
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or end it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange, began = _Exchange(send, uuid.uuid4().hex), time.monotonic()
        guarded = scope["path"] == "/metrics" or scope["path"].startswith("/v1")
        try:
            headers = Headers(scope=scope)
            if guarded:
                self._door.check(headers)
            counted = guarded and scope["method"] == "POST"
            if counted and self._open >= self._limits.max_open:
                raise Failure(429, "rate_limit_error", f"{self._open} requests are open, and no more: ask again later")
            self._open += counted
            self._metrics.open.set(self._open)
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    body = await _read(receive, headers, self._limits.max_body_bytes)
                    await self._app(scope, _replay(body, receive), exchange.send)
            finally:
                self._open -= counted
                self._metrics.open.set(self._open)
        except asyncio.CancelledError:
            exchange.status = 499  # the client is gone
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a sentence
            failure = failure_of(error, self._limits.timeout_s)
            if failure.status_code in (500, 503):
                _log_error(exchange.id, error)
            await exchange.fail(failure)
        finally:
            seconds, route = time.monotonic() - began, _route_of(scope)
            self._metrics.requests.labels(route, exchange.status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            _log(
                event="request", id=exchange.id, method=scope["method"], route=route, status=exchange.status,
                seconds=round(seconds, 4),
            )  # fmt: skip


class _Exchange:
    """What has been answered so far."""

    def __init__(self, send: Send, number: str):
        self._send, self.id = send, number
        self.status, self._begun, self._ended, self._events = 0, False, False, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
            headers = MutableHeaders(scope=message)
            self._events = headers.get("content-type", "").startswith("text/event-stream")
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["x-request-id"] = self.id
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, failure: Failure) -> None:
        """End with an error: as the answer, or as the last event of a stream."""
        text = ErrorReply(error=failure.error).model_dump_json(exclude_none=True).encode()
        if self._ended:
            return
        if self._begun:
            self.status = failure.status_code
            if self._events:
                await self._send(
                    {"type": "http.response.body", "body": b"event: error\ndata: " + text + b"\n\n", "more_body": False}
                )
            return
        headers = {"content-type": "application/json", "content-length": str(len(text)), **(failure.headers or {})}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": failure.status_code, "headers": raw})
        await self.send({"type": "http.response.body", "body": text})


HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
"""On every answer: a page of ours loads nothing from elsewhere, and no text of a model's becomes script."""


async def _read(receive: Receive, headers: Headers, most: int) -> bytes:
    """The body of a request.

    Raises:
        Failure: it is larger than `most` bytes.
    """
    too_large = Failure(413, "invalid_request_error", f"the request is larger than {most} bytes")
    said = headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise too_large
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > most:
            raise too_large
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` with a body that was read already."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def _route_of(scope: Scope) -> str:
    """The route of a request as metrics have it: a bounded number of names, whatever paths are asked for."""
    return getattr(scope.get("route"), "path", "") or "other"


def _log(**fields: Any) -> None:
    print(json.dumps({"time": round(time.time(), 3), **fields}), file=sys.stderr, flush=True)


def _log_error(number: str, error: BaseException) -> None:
    """What went wrong, and where in the code; not the error's own words, which may be a client's."""
    _log(event="error", id=number, error=type(error).__name__, at=list(_frames(error)))


def _frames(error: BaseException) -> Iterable[str]:
    trace = error.__traceback__
    while trace:
        yield f"{trace.tb_frame.f_code.co_filename.rsplit('/site-packages/', 1)[-1]}:{trace.tb_lineno}"
        trace = trace.tb_next
