"""vLLM, through the engine that pools have: each part starts one of its own."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tests.engine.reference import label_logprobs
from tests.gpu_check.models import LABELS
from tests.gpu_check.part import Failed, Figures, Here
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.engine.protocol import Reply, Request
from ultraif_ray.engine.vllm import VllmEngine, engine_arguments, prepare_environment
from ultraif_ray.method import compose, decompose, judge
from ultraif_ray.recipe import VllmPool

CONTEXT = 2048

IN_FLIGHT = 512
"""Sequences at once, the most that the shipped recipes ask for; without a GPU 64."""

ENOUGH = 0.9
"""Share of the sequences in flight that must be there in the same step: a few may have ended before the last came."""

SLOWEST = 0.8
"""Tokens/s of our engine to those of vLLM alone, at least."""

TOPICS = ("rain", "bread", "tax law", "a lost key", "graph theory", "the sea", "an old bicycle", "winter")


def _pool(here: Here, gpus: float = 1, **args: Any) -> VllmPool:
    small = {} if here.gpus else {"kv_cache_memory_bytes": 1 << 28}  # which is quick to zero
    return VllmPool(
        engine="vllm", model=here.asked, max_model_len=CONTEXT, gpus=gpus if here.gpus else 0,
        rows_in_flight=_at_once(here), args=small | args,
    )  # fmt: skip


def _at_once(here: Here) -> int:
    return IN_FLIGHT if here.gpus else IN_FLIGHT // 8


@asynccontextmanager
async def _opened(pool: VllmPool, *adapters: str) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(pool, seed=0, adapters=adapters)
    try:
        yield engine
    finally:
        await engine.close()


def _ask(text: str, **options: Any) -> Request:
    return Request([{"role": "user", "content": text}], **options)


# ---- it starts -------------------------------------------------------------------------------------------------------


def start(here: Here) -> Figures:
    """An engine starts, answers, and finds a prompt again."""
    return asyncio.run(_start(_pool(here)))


async def _start(pool: VllmPool) -> Figures:
    began = time.monotonic()
    async with _opened(pool) as engine:
        ready = time.monotonic() - began
        request = _ask("Tell me about " + "rain, and bread, " * 20, max_tokens=8)
        first, again = await engine.generate(request), await engine.generate(request)
        if not 0 < first.generated_tokens <= 8:
            raise Failed(f"8 tokens were asked for and {first.generated_tokens} generated")
        if not again.cached_tokens:
            raise Failed("the prefix cache did not find the same prompt again")
        return {"seconds to start": round(ready, 1), "answer": first.completions[0].text[:40]}


def two(here: Here) -> Figures:
    """Two engines on halves of one GPU, which load at the same time."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(_half, [here, here]))
    return {"seconds to start": [one["seconds to start"] for one in found]}


def _half(here: Here) -> Figures:
    return asyncio.run(_start(_pool(here, gpus=0.5)))


# ---- many at once ----------------------------------------------------------------------------------------------------


def in_flight(here: Here) -> Figures:
    """As many sequences are in the same step as rows are in flight, by the engine's own gauge."""
    return asyncio.run(_in_flight(here))


async def _in_flight(here: Here) -> Figures:
    wanted = _at_once(here)
    async with _opened(_pool(here, disable_log_stats=False)) as engine:
        watched = asyncio.ensure_future(_most_running())
        began = time.monotonic()
        asked = [_ask(f"{number}. A long story about {_topic(number)}.", temperature=1.0, max_tokens=200)
                 for number in range(wanted)]  # fmt: skip
        replies = await asyncio.gather(*map(engine.generate, asked))
        seconds = time.monotonic() - began
        watched.cancel()
    most = max(_RUNNING)
    if most < ENOUGH * wanted:
        raise Failed(f"of {wanted} requests at most {most} were in one step")
    return {"in one step": most, "tokens/s": round(_generated(replies) / seconds)}


_RUNNING: list[int] = [0]


async def _most_running() -> None:
    """Look at vLLM's own gauge all the while."""
    from prometheus_client import REGISTRY

    while True:
        samples = chain.from_iterable(metric.samples for metric in REGISTRY.collect())
        _RUNNING.append(int(sum(one.value for one in samples if one.name == "vllm:num_requests_running")))
        await asyncio.sleep(0.02)


def _topic(number: int) -> str:
    return TOPICS[number % len(TOPICS)]


def _generated(replies: list[Reply]) -> int:
    return sum(reply.generated_tokens for reply in replies)


# ---- an adapter, and log-probabilities -------------------------------------------------------------------------------

QUESTIONS = [f"Is {topic} dry? Reply with Yes or No alone." for topic in TOPICS]


def _tolerance(here: Here) -> float:
    """How far apart two natural-log probabilities of a label may be that are the same: between the same weights in
    bfloat16 and in float32 (the random model's are 0.11 apart where transformers computes both, on a CPU); and without
    a GPU in float32.
    """
    return 0.3 if here.gpus else 1e-3


async def _labels(engine: VllmEngine, adapter: str = "") -> list[float]:
    """The natural-log probabilities of each label after each question."""
    replies = await asyncio.gather(*(engine.generate(_ask(one, labels=LABELS, adapter=adapter)) for one in QUESTIONS))
    return [reply.completions[0].label_logprobs[label] for reply in replies for label in LABELS]


def _apart(some: list[float], others: list[float]) -> float:
    """The largest difference."""
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def adapter(here: Here) -> Figures:
    """An adapter answers otherwise than the base, which answers as it does alone, in the same batch."""
    return asyncio.run(_adapter(here))


async def _adapter(here: Here) -> Figures:
    async with _opened(_pool(here), here.adapter) as engine:
        alone = await _labels(engine)
        adapted, beside = await asyncio.gather(_labels(engine, here.adapter), _labels(engine))
    tolerance, moved, differs = _tolerance(here), _apart(alone, beside), _apart(alone, adapted)
    if moved > tolerance:
        raise Failed(f"beside an adapter's requests the base's log-probabilities move by {moved:.3f}")
    if differs < 4 * tolerance:
        raise Failed(f"the adapter's log-probabilities are the base's, to {differs:.3f}")
    return {"the adapter differs by": round(differs, 3), "the base by": round(moved, 4)}


def labels(here: Here) -> Figures:
    """Labels have the probabilities that transformers gives them, of the base and of an adapter."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # vLLM forks, and torch has threads
        expected = process.submit(_expected, here).result()
    found = asyncio.run(_both(here))
    tolerance, figures = _tolerance(here), Figures()
    for adapter, name in (("", "base"), (here.adapter, "adapter")):
        spread, apart = max(expected[adapter]) - min(expected[adapter]), _apart(found[adapter], expected[adapter])
        if spread < 4 * tolerance:
            raise Failed(f"this says nothing: all log-probabilities of the {name} are within {spread:.3f}")
        if apart > tolerance:
            raise Failed(f"log-probabilities of the {name} are up to {apart:.3f} apart from transformers'")
        figures[f"the {name} is off by"] = round(apart, 4)
    return figures


def _expected(here: Here) -> dict[str, list[float]]:
    """By adapter, the same as `_labels`, of transformers on CPU."""
    place, chats = resolve_model(here.asked), [_ask(one).messages for one in QUESTIONS]
    return {
        adapter: [logprob for chat in chats for logprob in label_logprobs(place, chat, LABELS, adapter).values()]
        for adapter in ("", here.adapter)
    }


async def _both(here: Here) -> dict[str, list[float]]:
    async with _opened(_pool(here), here.adapter) as engine:
        await engine.check(LABELS, schema=False)
        return {adapter: await _labels(engine, adapter) for adapter in ("", here.adapter)}


# ---- grammars --------------------------------------------------------------------------------------------------------


class _Bounded(BaseModel):
    """What a random model too comes to the end of."""

    model_config = ConfigDict(extra="forbid")
    verdict: Literal["YES", "NO"]
    sure: bool
    reasons: list[Literal["form", "content", "length"]] = Field(min_length=1, max_length=3)


def grammars(here: Here) -> Figures:
    """Replies follow the schema that each of them was asked with, beside others that have none."""
    return asyncio.run(_grammars(here))


async def _grammars(here: Here) -> Figures:
    ours = [decompose.reply_schema(1), compose.reply_schema(compose.Addition, 1), judge.reasoning_schema(["1", "2"])]
    held = [_Bounded.model_json_schema(), *ours]
    schemas = [held[number // 2 % len(held)] if number % 2 else None for number in range(_at_once(here))]
    asked = [_ask(f"{number}. About {_topic(number)}.", role="judge", temperature=1.0, max_tokens=100, schema=schema)
             for number, schema in enumerate(schemas)]  # fmt: skip
    async with _opened(_pool(here)) as engine:
        replies = await asyncio.gather(*map(engine.generate, asked))
    whole = 0
    for schema, reply in zip(schemas, replies, strict=True):
        (made,) = reply.completions
        if schema is None:
            continue
        if not made.text.startswith('{"' + schema["required"][0] + '": '):
            raise Failed(f"this does not begin as its schema says: {made.text[:100]!r}")
        if made.finish == "stop" or schema is held[0]:
            _check(made.text, schema)
            whole += 1
    return {"replies with a schema": len(schemas) // 2, "of them whole": whole}


def _check(text: str, schema: dict[str, Any]) -> None:
    try:
        read = json.loads(text)
        if "verdict" in read:
            _Bounded.model_validate(read)
    except ValueError as error:
        raise Failed(f"this is not what its schema says: {text[:100]!r}: {error}") from None
    if not set(schema["required"]) <= set(read):
        raise Failed(f"of {schema['required']} there is only {list(read)}")


# ---- throughput ------------------------------------------------------------------------------------------------------

ROUNDS = 3
"""Times that each way answers all prompts, other ones each time; the first is not counted."""


def throughput(here: Here) -> Figures:
    """Tokens/s of our engine, against vLLM's `LLM` with its own defaults on the same prompts."""
    tokens, prompts = (128, 2 * _at_once(here)) if here.gpus else (48, _at_once(here))
    texts = [
        [f"{turn}.{number}. A story about {_topic(number)}." for number in range(prompts)] for turn in range(ROUNDS)
    ]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # its memory is free afterwards
        bare = process.submit(_bare, here, texts, tokens).result()
    ours = asyncio.run(_ours(here, texts, tokens))
    ratio = ours / bare
    if ratio < SLOWEST:
        raise Failed(f"{ours:.0f} tokens/s, and {bare:.0f} of vLLM alone: {ratio:.2f}")
    return {"ratio": round(ratio, 2), "tokens/s": round(ours), "of vLLM alone": round(bare)}


def _bare(here: Here, texts: list[list[str]], tokens: int) -> float:
    pool = _pool(here)
    prepare_environment(pool)
    from vllm import LLM, SamplingParams

    of_the_machine = ("model", "max_model_len", "dtype", "enforce_eager", "kv_cache_memory_bytes",
                      "distributed_executor_backend")  # fmt: skip
    llm = LLM(**{name: value for name, value in engine_arguments(pool, 0).items() if name in of_the_machine})
    tokenizer, params = llm.get_tokenizer(), SamplingParams(temperature=1.0, max_tokens=tokens)
    rates = []
    for some in texts:
        chats = [_ask(text).messages for text in some]
        prompts = [
            {"prompt_token_ids": tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)}
            for chat in chats
        ]
        began = time.monotonic()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        generated = sum(len(output.outputs[0].token_ids) for output in outputs)
        rates.append(generated / (time.monotonic() - began))
    return max(rates[1:])


async def _ours(here: Here, texts: list[list[str]], tokens: int) -> float:
    rates = []
    async with _opened(_pool(here)) as engine:
        for some in texts:
            began = time.monotonic()
            asked = (_ask(text, temperature=1.0, max_tokens=tokens) for text in some)
            replies = await asyncio.gather(*map(engine.generate, asked))
            rates.append(_generated(replies) / (time.monotonic() - began))
    return max(rates[1:])
