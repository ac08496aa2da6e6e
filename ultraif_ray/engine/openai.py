"""Any OpenAI-compatible server: vLLM's, SGLang's, a gateway, a vendor's.

Retries with exponential backoff (429, 408, 409, 5xx, timeouts, lost connections) are the openai client's own.
"""

import asyncio
import math
import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import openai
from openai.types.chat import ChatCompletion, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice

from ultraif_ray.engine import thoughts
from ultraif_ray.engine.chat import fold_system
from ultraif_ray.engine.control import defuse
from ultraif_ray.engine.protocol import Completion, Delta, Reply, Request, Token, estimate_tokens, in_one_piece
from ultraif_ray.errors import EngineUnavailable, RecipeError, RequestRefused
from ultraif_ray.recipe import OpenAIPool, Thinking
from ultraif_ray.redact import redacted

TOP_LOGPROBS = 20
"""The most that OpenAI's and vLLM's servers give; a label outside them counts as impossible."""

CANNOT_SCORE = (
    "the chat API of OpenAI-compatible servers does not tell how probable a given text is as the answer: use a vllm "
    "pool for benchmarks that ask for it, or leave them out"
)

_REFUSALS = (openai.BadRequestError, openai.UnprocessableEntityError, openai.NotFoundError)
"""Answers to a request that can never work."""

_PROBE_TOKENS = 16
"""Most tokens of an answer that only shows that there is one; some servers refuse fewer."""

_PROBE_SCHEMA = {
    "type": "object",
    "properties": {"wet": {"type": "boolean"}},
    "required": ["wet"],
    "additionalProperties": False,
}

_HELD = "the answers of decomposer, composer and judge are held to one; use a server that does"

_WITHOUT = "without them synthesize.judge=logprob and check=model cannot be; set judge=each, check=text"

_END_OF_THOUGHT = 16
"""Tokens that an answer of one label may take after a thought's last one: the thought's end, white space, the label."""

_NO_KEY = "no-key-was-given"

_OPENAIS_OWN = {"stop", "presence_penalty", "frequency_penalty"}
"""The part of `Sampling` that OpenAI's API knows."""


class OpenAIEngine:
    """One client with a bound on open requests."""

    timeout_s = None  # the client has a limit for each try

    def __init__(self, pool: OpenAIPool):
        self._pool = pool
        self._client = openai.AsyncOpenAI(
            base_url=pool.base_url,
            # A server of one's own wants no key, but the client wants something.
            api_key=os.environ.get(pool.api_key_env) or _NO_KEY,
            max_retries=pool.max_retries,
            timeout=pool.timeout_s,
        )
        self._slots = asyncio.Semaphore(pool.max_concurrency)
        self._context: int | None = None

    async def generate(self, request: Request) -> Reply:
        """See `Engine.generate`."""
        if request.continuation is not None:
            raise RequestRefused(CANNOT_SCORE)
        try:
            async with self._slots:
                answer = await self._ask(request)
            return self._reply(answer, request)
        except _REFUSALS as error:
            raise RequestRefused(f"{self._pool.base_url} refused: {self._told(error.message, 300)}") from error
        except openai.OpenAIError as error:
            tries = self._pool.max_retries + 1
            raise EngineUnavailable(
                f"{self._pool.base_url}: no answer in {tries} tries: {type(error).__name__}: {self._told(error, 300)}"
            ) from error
        except ValueError as error:  # a body that is no JSON
            raise EngineUnavailable(
                f"{self._pool.base_url}: an answer that is no JSON: {self._told(error, 200)}"
            ) from error
        except (AttributeError, LookupError, TypeError) as error:  # the client checks no types
            raise EngineUnavailable(
                f"{self._pool.base_url}: an answer of another form: {self._told(error, 200)}"
            ) from error

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Engine.stream`: the server is asked for the whole, which comes in one piece."""
        for piece in in_one_piece(await self.generate(request)):
            yield piece

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return estimate_tokens(text)

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """The server answers, knows the model, and takes a request of each kind that it will get. Whether a label is
        one token shows only in use: see `_reply`.
        """
        await self._look_up_the_model()
        probe = Request([{"role": "user", "content": "Is water wet? Answer Yes or No."}], max_tokens=_PROBE_TOKENS)
        await self._probe(probe, f"does not answer for the model '{self._pool.model}'")
        if schema:
            await self._probe(replace(probe, schema=_PROBE_SCHEMA), f"takes no JSON Schema as response_format: {_HELD}")
        if labels:
            answer = await self._probe(replace(probe, labels=labels), f"takes no request for logprobs: {_WITHOUT}")
            if answer and not any(choice.logprobs for choice in answer.choices or ()):
                raise RecipeError(f"{self._pool.base_url} gives no logprobs: {_WITHOUT}")

    async def _probe(self, request: Request, refused: str) -> ChatCompletion | None:
        """Ask once, and say what it means where that is `refused`. One that is not answered says nothing: the rows will
        be asked again.
        """
        try:
            return await self._ask(request)
        except _REFUSALS as error:
            raise RecipeError(f"{self._pool.base_url} {refused} ({self._told(error.message, 300)})") from None
        except (openai.OpenAIError, ValueError):
            return None

    async def _look_up_the_model(self) -> None:
        try:
            found = {model.id: model async for model in self._client.models.list()}
        except openai.AuthenticationError:
            raise RecipeError(
                f"{self._pool.base_url} wants a key: put it into the environment variable {self._pool.api_key_env}"
            ) from None
        except (openai.NotFoundError, openai.PermissionDeniedError):
            return  # a gateway that does not list its models
        except (openai.OpenAIError, ValueError) as error:
            raise RecipeError(
                f"{self._pool.base_url} does not answer: {type(error).__name__}: {self._told(error, 300)}"
            ) from None
        if found and self._pool.model not in found:
            raise RecipeError(
                f"{self._pool.base_url} does not serve '{self._pool.model}'; it serves {', '.join(list(found)[:10])}"
            )
        if found:
            self._context = getattr(found[self._pool.model], "max_model_len", None)  # vLLM's own server says it

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, request: Request) -> ChatCompletion:
        form: Any = openai.omit
        if request.schema:
            form = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.schema, "strict": True},
            }
        messages = request.messages if self._pool.system_role else fold_system(request.messages)
        # The server applies the template and makes the tokens: it would read those in a text as its own.
        messages = [message | {"content": defuse(message["content"])} for message in messages]
        # What the client has no argument for goes beside the others, as vLLM's server takes it.
        further = request.sampling.given
        if self._pool.template_args:
            further["chat_template_kwargs"] = self._pool.template_args
        if request.thinking_tokens is not None:
            further["thinking_token_budget"] = request.thinking_tokens
        wanted = TOP_LOGPROBS if request.labels else request.top_logprobs
        known: dict[str, Any] = {name: further.pop(name) for name in _OPENAIS_OWN & further.keys()}
        return await self._client.chat.completions.create(
            model=request.adapter or self._pool.model,
            messages=messages,  # type: ignore[arg-type]  # plain dicts of role and content
            n=request.n,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=self._max_tokens(request),
            response_format=form,
            logprobs=True if wanted is not None else openai.omit,
            top_logprobs=wanted if wanted is not None else openai.omit,
            extra_body=further or None,
            **known,
        )

    def _told(self, said: object, most: int) -> str:
        """What a server or the client says, for rows and logs: some repeat the key that they were given."""
        return redacted(str(said).replace(self._client.api_key, "***"))[:most]

    def _max_tokens(self, request: Request) -> Any:
        """The bound to send. One that may not fit the server's context would be refused; without one, vLLM's server
        gives what is left of it.
        """
        if request.labels and request.thinking_tokens is None:
            return 1
        bound = (_END_OF_THOUGHT if request.labels else request.max_tokens) + (request.thinking_tokens or 0)
        prompt = sum(estimate_tokens(message["content"]) for message in request.messages)
        if self._context is not None and prompt + bound > self._context:
            return openai.omit
        return bound

    def _reply(self, answer: ChatCompletion, request: Request) -> Reply:
        if not getattr(answer, "choices", None):
            raise EngineUnavailable(f"{self._pool.base_url}: an answer without choices: {self._told(answer, 200)}")
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        usage = answer.usage
        details = usage.prompt_tokens_details if usage else None
        return Reply(
            [self._completion(choice, request) for choice in choices],
            prompt_tokens=_number(usage and usage.prompt_tokens),
            cached_tokens=_number(details and details.cached_tokens),
            generated_tokens=_number(usage and usage.completion_tokens),
        )

    def _completion(self, choice: Choice, request: Request) -> Completion:
        thinking, thought, content = self._pool.thinking, _thought_of(choice), _text_of(choice.message.content)
        text = content or None if thought else content
        if thinking and not thought and not request.labels:
            thought, text = thoughts.split(content, thinking, is_json=bool(request.schema))
        first = _first_of_answer(choice, thinking) if request.labels else None
        top = {entry.token: float(entry.logprob) for entry in first.top_logprobs} if first else {}
        whole = request.labels or (choice.finish_reason == "stop" and text is not None)
        return Completion(
            text=text or "",
            finish="stop" if whole else "length",
            label_logprobs={label: top[label] for label in request.labels if label in top},
            thoughts=thought,
            tokens=() if request.top_logprobs is None else _tokens_of(choice),
        )


def _tokens_of(choice: Choice) -> tuple[Token, ...]:
    found = (choice.logprobs and choice.logprobs.content) or []
    return tuple(Token(one.token, one.logprob, {top.token: top.logprob for top in one.top_logprobs}) for one in found)


def _first_of_answer(choice: Choice, thinking: Thinking | None) -> ChatCompletionTokenLogprob | None:
    """The first token after a thought's end that is no white space: servers tell of the thought's tokens too. Without a
    thought, the first of all; None where a thought has no end.
    """
    tokens = (choice.logprobs and choice.logprobs.content) or []
    text = ""
    for entry in tokens:
        if thinking and thinking.end.strip() in text and entry.token.strip():
            return entry
        text += entry.token
    thinks = _thought_of(choice) or (thinking and text.lstrip().startswith(thinking.start.strip()))
    return None if thinks or not tokens else tokens[0]


def _thought_of(choice: Choice) -> str:
    """The thought that the server took out: in vLLM's field, or in that of DeepSeek, SGLang and older vLLM."""
    message = choice.message
    return _text_of(getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None))


def _text_of(content: Any) -> str:
    """A text, which some servers give in parts, as they take it.

    Raises:
        TypeError: it is none.
    """
    if isinstance(content, list):
        return "".join(
            _text_of(part["text"] if isinstance(part, dict) and "text" in part else part) for part in content
        )
    if content is not None and not isinstance(content, str):
        raise TypeError(f"a text that is {type(content).__name__}")
    return content or ""


def _number(count: Any) -> int:
    """A count of tokens; 0 where the server keeps none. They are for the account alone: no answer is lost over one."""
    return int(count) if isinstance(count, int | float) and math.isfinite(count) else 0
