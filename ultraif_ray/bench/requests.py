"""What a request costs the CPU beside the model, each way side by side.

    python -m ultraif_ray.bench.requests [--model packaged] [--rows 64]

First the requests/s that one worker's process sustains: whole journeys on one event loop, as a worker runs them, with
the simulated engine, and for each request what is done in that process before vLLM gets it and after: the model's chat
template, the prompt's tokens, vLLM's sampling parameters, and the text of an answer. Then, by vLLM's own functions,
what a token costs in that process, and in the engine's where it looks for repetitions. What counts is the CPU's time.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from tokenizers.decoders import DecodeStream

from ultraif_ray.cli import report_errors
from ultraif_ray.engine.chat import Chat
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.engine.protocol import Delta, Reply, Request, RoleClient
from ultraif_ray.engine.simulated import SimulatedEngine
from ultraif_ray.engine.vllm import STUCK_PATTERN, STUCK_TIMES, sampling_params
from ultraif_ray.errors import RunError
from ultraif_ray.method.journey import STAGES, run_journey
from ultraif_ray.recipe import Recipe, SimulatedPool, parse_recipe
from ultraif_ray.records import ROLES, Row
from ultraif_ray.report.show import console

Way = Literal["nothing", "anew", "kept"]
"""What is done for a request: nothing, everything anew, or as an engine does it, with what other requests had."""

ANSWERS = {"decomposer": 170, "composer": 80, "responder": 400, "judge": 85}
"""Tokens of an answer of each role. Assumed: of a model of 8B, with reasons given."""

BATCH, STEPS = 256, 64
"""Answers that are written at once, and how many tokens each gets, where the cost of a token is measured."""

PATTERNS = (1, 2, 4, STUCK_PATTERN, 20)
"""Longest patterns, in tokens, that are looked for."""


@dataclass(frozen=True)
class Measured:
    """What a way took: CPU seconds of the process, requests, and the tokens of their prompts."""

    seconds: float
    requests: int
    prompt_tokens: int


class Front:
    """A simulated engine, and before it what vLLM's engine here does in its own process."""

    timeout_s = None

    def __init__(self, tokenizer: Any, way: Way):
        self._engine = SimulatedEngine(SimulatedPool(engine="simulated"))
        self._tokenizer, self._chat, self._way = tokenizer, Chat(tokenizer), way
        self._written = tokenizer("The rain falls softly on the roof, and nobody is awake to hear it. " * 40)[
            "input_ids"
        ]
        self.requests = self.prompt_tokens = 0

    async def generate(self, request: Request) -> Reply:
        """See `Engine.generate`."""
        self.requests += 1
        prompt = self._read(request)
        reply = await self._engine.generate(request)
        if not request.labels:
            for _ in reply.completions:
                self._write(prompt, self._written[: ANSWERS[request.role]])
        return reply

    def _read(self, request: Request) -> list[int]:
        if self._way == "nothing":
            return []
        params = sampling_params(request, 4096, [1, 2] if request.labels else [])
        if self._way == "kept":
            prompt = self._chat.tokens(request.messages)
        else:
            prompt = self._tokenizer(self._chat.text(request.messages), add_special_tokens=False)["input_ids"]
            params.skip_clone = False
        params.clone()  # as vLLM does
        self.prompt_tokens += len(prompt)
        return prompt

    def _write(self, prompt: list[int], tokens: list[int]) -> None:
        if self._way == "kept":
            self._chat.decode(prompt, tokens)
        elif self._way == "anew":
            stream = DecodeStream(ids=prompt, skip_special_tokens=True)
            for token in tokens:
                stream.step(self._tokenizer.backend_tokenizer, token)

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Engine.stream`."""
        async for piece in self._engine.stream(request):
            yield piece

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return self._engine.count_tokens(text)

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """Nothing is to be checked."""

    async def close(self) -> None:
        """Nothing is to be freed."""


def recipe_of(judge: str) -> Recipe:
    """One engine for all roles, and pairs for DPO."""
    roles = {role: {"pool": "m"} for role in ROLES}
    pools = {"m": {"engine": "simulated"}}
    return parse_recipe({"name": "requests", "pools": pools, "roles": roles, "synthesize": {"judge": judge}})


def rows_of(count: int) -> list[Row]:
    """Prompts of some fifty tokens, no two alike."""
    said = (
        "Write {0} lines about the {1}th winter in Oslo, for a reader who has never seen snow, without the letter {2}, "
    )
    end = "in short sentences, and end with a question that she could ask her grandmother; the tone is calm and warm."
    return [Row(id=n + 1, query=said.format(n + 3, n, "aeiou"[n % 5]) + end) for n in range(count)]


def requests_of(tokenizer: Any, recipe: Recipe, rows: list[Row], way: Way) -> Measured:
    """Take rows through the whole journey, all at once."""
    front = Front(tokenizer, way)

    async def all_at_once() -> None:
        clients = [RoleClient(recipe, {"m": front}, row=row.id) for row in rows]
        await asyncio.gather(
            *(run_journey(row, STAGES, client, recipe) for row, client in zip(rows, clients, strict=True))
        )

    begun = time.process_time()
    asyncio.run(all_at_once())
    return Measured(time.process_time() - begun, front.requests, front.prompt_tokens)


def compare(tokenizer: Any, judge: str, rows: int) -> dict[Way, Measured]:
    """The ways in turn, each on the same rows.

    Raises:
        RunError: they did not ask the same.
    """
    recipe = recipe_of(judge)
    requests_of(tokenizer, recipe, rows_of(2), "anew")  # what is loaded and compiled at the first use
    found: dict[Way, Measured] = {
        way: requests_of(tokenizer, recipe, rows_of(rows), way) for way in ("anew", "kept", "nothing")
    }
    asked = {way: (one.requests, one.prompt_tokens) for way, one in found.items() if way != "nothing"}
    if len(set(asked.values())) != 1:
        raise RunError(f"this measured nothing: the ways asked for other things: {asked}")
    return found


def microseconds_of_a_token(tokenizer: Any, *, at_once: bool, counted: bool) -> float:
    """What a token of an answer costs where vLLM takes it in: its text made as it comes, or at once at the end; with
    vLLM's own counts (`disable_log_stats: false`), or without.
    """
    from vllm import envs
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.metrics.stats import IterationStats

    chat, (row,) = Chat(tokenizer), rows_of(1)
    request = Request([{"role": "user", "content": row.query}], max_tokens=STEPS + 1)
    prompt, written = chat.tokens(request.messages), chat.encode(row.query * 9)[:STEPS]
    processor = OutputProcessor(tokenizer, log_stats=counted)
    envs.enable_envs_cache()  # as the engine does
    for number in range(BATCH):
        params = sampling_params(request, 4096, [])
        params.detokenize = not at_once
        made = EngineCoreRequest(
            str(number), prompt, None, params, None, 0.0, None, None, None, external_req_id=str(number)
        )
        processor.add_request(made, None, None, 0, RequestOutputCollector(params.output_kind, str(number)))
    begun = time.process_time()
    for step, token in enumerate(written):
        stats = IterationStats() if counted else None
        processor.process_outputs([EngineCoreOutput(str(number), [token]) for number in range(BATCH)], step, stats)
    if at_once:
        for _ in range(BATCH):
            chat.decode(prompt, written)
    taken = time.process_time() - begun
    envs.disable_envs_cache()
    return taken / (BATCH * STEPS) * 1e6


def microseconds_of_a_look(pattern: int) -> float:
    """What it costs, for each token, to look for a pattern of so many tokens at most at an answer's end."""
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition
    from vllm.v1.utils import ConstantList

    params = RepetitionDetectionParams(max_pattern_size=pattern, min_count=STUCK_TIMES)
    tokens = ConstantList(list(range(1000)))
    looks = 20_000
    begun = time.process_time()
    for _ in range(looks):
        check_sequence_repetition(tokens, params)
    return (time.process_time() - begun) / looks * 1e6


def measure(
    model: Annotated[
        str, typer.Option(help="Whose tokenizer and template: a folder, a hub id, or `packaged`.")
    ] = "packaged",
    rows: Annotated[int, typer.Option(min=2, help="Rows, all in flight at once.")] = 64,
) -> None:
    """Measure, and print the tables."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(model, weights=False))
    for table in tables(tokenizer, rows):
        console().print(table)


def tables(tokenizer: Any, rows: int) -> Iterator[Table]:
    """What was measured, as it is."""
    shown = Table("judge", "requests", "anew", "kept", "ratio", "without any", title="Requests/s of a worker", box=None)
    for judge in ("rationale", "logprob"):
        found = compare(tokenizer, judge, rows)
        rate = {way: one.requests / one.seconds for way, one in found.items()}
        requests = f"{found['kept'].requests}"
        ratio = f"{rate['kept'] / rate['anew']:.1f}"
        shown.add_row(judge, requests, f"{rate['anew']:.0f}", f"{rate['kept']:.0f}", ratio, f"{rate['nothing']:.0f}")
    yield shown
    shown = Table("a token's text", "µs", "with vLLM's counts", title="A token, as vLLM takes it in", box=None)
    for how, at_once in (("as it comes", False), ("at once", True)):
        plain, counted = (microseconds_of_a_token(tokenizer, at_once=at_once, counted=one) for one in (False, True))
        shown.add_row(how, f"{plain:.1f}", f"{counted:.1f}")
    yield shown
    shown = Table("longest pattern", "µs a token", "of the first", title="A look for repetitions", box=None)
    costs = {pattern: microseconds_of_a_look(pattern) for pattern in PATTERNS}
    for pattern, cost in costs.items():
        shown.add_row(str(pattern), f"{cost:.1f}", f"{cost / costs[PATTERNS[0]]:.1f}")
    yield shown


if __name__ == "__main__":
    report_errors(lambda: typer.run(measure))
