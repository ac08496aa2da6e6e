"""vLLM in this process, on GPU or CPU: continuous batching over every row in flight, prefix cache on.

This is the only file that imports vllm, but for the bench that measures it.
"""

import asyncio
import itertools
import os
import re
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ultraif_ray.engine import thoughts
from ultraif_ray.engine.cache import cache_folder
from ultraif_ray.engine.chat import Chat
from ultraif_ray.engine.devices import Gpu, batch_of, cache_memory, check_devices, check_weights, memory_share
from ultraif_ray.engine.models import check_access, resolve_model, weight_bytes
from ultraif_ray.engine.packaged import PACKAGED
from ultraif_ray.engine.protocol import Completion, Delta, Reply, Request, Token, in_one_piece
from ultraif_ray.errors import EngineDead, EngineUnavailable, RecipeError, RequestRefused
from ultraif_ray.recipe import Thinking, VllmPool

LEAST_ROOM = 16
"""A prompt that leaves fewer tokens than this of the context for the answer is refused."""

STUCK_PATTERN, STUCK_TIMES = 6, 16
"""A reply in JSON is stuck where it ends with one pattern, of at most so many tokens, so many times. vLLM looks for
each length at every token, in the Python of the engine's one thread (`bench/requests.py`), so they are few: lists of a
word and runs of a sign have short patterns, and what repeats whole sentences ends at `max_tokens`.
"""

_TAIL = 32
"""Tokens at a prompt's end that tell whether its template began or ended a thought: more than any tag has."""


class VllmEngine:
    """One AsyncLLM. Make it inside a running event loop, and use it on that loop alone."""

    def __init__(self, pool: VllmPool, seed: int, adapters: tuple[str, ...] = (), samples: int = 1):
        check_access("model", pool.model)
        prepare_environment(pool)
        gpu = _first_gpu(pool)
        from vllm import AsyncEngineArgs, envs
        from vllm.v1.engine.async_llm import AsyncLLM

        envs.disable_envs_cache()  # of another engine in this process
        loggers = None if pool.args.get("disable_log_stats") else stat_loggers()
        try:
            arguments = engine_arguments(pool, seed, adapters, gpu, samples)
            with alone_on_its_gpu(pool, arguments):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=loggers)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"vLLM refuses the pool's settings: {' '.join(str(error).split())[:600]}") from error
        except RuntimeError as error:  # its process ended: killed, or without the memory that a dead one still holds
            often = "; most often the model, or one request of max_model_len, is too large for the GPU" if gpu else ""
            raise EngineDead(
                f"vLLM did not start: {' '.join(str(error).split())[:300]} (--worker-logs shows why{often})"
            ) from error
        envs.enable_envs_cache()  # where counts are kept, vLLM looks into its environment at every token
        self._tokenizer = self._llm.get_tokenizer()
        self._context: int = self._llm.model_config.max_model_len
        self.timeout_s = pool.timeout_s
        self._numbers = itertools.count()
        self._adapters = {name: _adapter(name, number) for number, name in enumerate(adapters, start=1)}
        if self._tokenizer.chat_template is None and pool.chat_template is None:
            raise RecipeError(
                f"{pool.model} has no chat template, so it can play no role; use a chat model, or give the pool a "
                "chat_template"
            )
        self._chat = Chat(self._tokenizer, pool.chat_template, pool.template_args)
        self._thinking = pool.thinking
        tags = self._chat.encode(f"{pool.thinking.start}{pool.thinking.end}") if pool.thinking else []
        shown, hidden = (self._tokenizer.decode(tags, skip_special_tokens=skip) for skip in (False, True))
        # As GPT-OSS's channels are. vLLM leaves such tokens out of a text, and its thoughts would have no end.
        self._tags_are_special = shown != hidden

    async def generate(self, request: Request) -> Reply:
        """See `Engine.generate`."""
        if request.continuation is not None:
            return await self._score(request, request.continuation)
        prompt = self._chat.tokens(request.messages)
        if self._thinking is None:
            return self._reply(await self._run(prompt, request), request)
        opened, apart = self._how_it_thinks(prompt, request, self._thinking)
        if apart:
            return await self._think_first(request, opened, self._thinking)
        return self._reply(await self._run(prompt, request), request, opened)

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Engine.stream`. What is thought in a turn of its own, before the answer, comes in one piece with it."""
        prompt, opened, thinking = self._chat.tokens(request.messages), False, self._thinking
        if thinking:
            opened, apart = self._how_it_thinks(prompt, request, thinking)
            if apart:
                for whole in in_one_piece(await self._think_first(request, opened, thinking)):
                    yield whole
                return
        written = [_Written() for _ in range(request.n)]
        cached = 0
        async with aclosing(self._outputs(prompt, request, in_pieces=True)) as outputs:
            async for output in outputs:
                cached = max(cached, output.num_cached_tokens or 0)
                for piece in output.outputs:
                    one = written[piece.index]
                    one.add(piece)
                    shown = thoughts.answer_so_far(one.text, thinking, opened=opened) if thinking else one.text
                    one.tokens += self._tokens(piece.token_ids, piece.logprobs)
                    if new := shown[len(one.shown) :]:
                        yield Delta(piece.index, new, tuple(one.tokens))
                        one.tokens.clear()
                    one.shown = shown
        completions = [self._completion(one, request, opened) for one in written]
        for index, (one, completion) in enumerate(zip(written, completions, strict=True)):
            if completion.text.startswith(one.shown) and (rest := completion.text[len(one.shown) :]):
                yield Delta(index, rest)
        generated = sum(len(one.token_ids) for one in written)
        yield Reply(completions, len(prompt), cached_tokens=cached, generated_tokens=generated)

    def _how_it_thinks(self, prompt: list[int], request: Request, thinking: Thinking) -> tuple[bool, bool]:
        """Whether a prompt has opened a thought already, and whether the thought wants a turn of its own."""
        tail = self._tokenizer.decode(prompt[-_TAIL:])
        opened = thoughts.is_open(tail, thinking)
        asked = request.thinking_tokens is not None and not thoughts.is_over(tail, thinking)
        # A grammar or a label inside a thought would be the thought's.
        return opened, bool(asked or (opened and (request.schema or request.labels)))

    async def _score(self, request: Request, continuation: str) -> Reply:
        """How probable a text is as the answer. Texts are joined before they are cut into tokens, as if the model had
        written it; where the template opens a thought, behind an empty one.
        """
        begun = self._chat.text(request.messages)
        if self._thinking and thoughts.is_open(begun, self._thinking):
            begun += self._thinking.end
        context, whole = self._chat.encode(begun), self._chat.encode(begun + self._chat.quote(continuation))
        output = await self._run(whole, request)
        found = [output.prompt_logprobs[place][whole[place]] for place in range(len(context), len(whole))]
        logprob, greedy = sum(one.logprob for one in found), all(one.rank == 1 for one in found)
        return Reply(
            [Completion(continuation, logprob=logprob, greedy=greedy)],
            prompt_tokens=len(whole),
            cached_tokens=output.num_cached_tokens or 0,
            generated_tokens=0,
        )

    async def _think_first(self, request: Request, opened: bool, thinking: Thinking) -> Reply:
        """Think, then answer in a turn that goes on from the same text: a grammar holds from a turn's first token."""
        begun = self._chat.text(request.messages) + ("" if opened else thinking.start)
        prompt = self._chat.encode(begun)
        thought = replace(
            request,
            schema=None,
            labels=(),
            # The answer needs room too.
            max_tokens=min(request.thinking_tokens or 0, (self._context - len(prompt)) // 2),
            sampling=request.sampling.model_copy(update={"stop": (thinking.end.strip(),)}),
        )
        if thought.max_tokens <= 0:
            empty = self._chat.encode(begun + thinking.end)
            return self._reply(await self._run(empty, request), request)
        first = await self._run(prompt, thought)
        thoughts_of = [thoughts.split(one.text, thinking, opened=True)[0] for one in first.outputs]
        answers = await asyncio.gather(
            *(
                self._answer_after(f"{begun}{self._chat.quote(one)}{thinking.end}", replace(request, n=1))
                for one in thoughts_of
            )
        )
        return Reply(
            completions=[
                replace(answer.completions[0], thoughts=one) for one, answer in zip(thoughts_of, answers, strict=True)
            ],
            prompt_tokens=len(prompt),
            cached_tokens=first.num_cached_tokens or 0,
            generated_tokens=sum(len(one.token_ids) for one in first.outputs)
            + sum(answer.generated_tokens for answer in answers),
        )

    async def _answer_after(self, text: str, request: Request) -> Reply:
        return self._reply(await self._run(self._chat.encode(text), request), request)

    async def _run(self, prompt: list[int], request: Request) -> Any:
        """One turn: vLLM's own output, whole. Its texts are made of all tokens at once where nobody reads along."""
        output = [output async for output in self._outputs(prompt, request)][-1]
        if not self._is_read_along(request):
            for one in output.outputs:
                # The token that ended an answer is no part of it.
                tokens = list(one.token_ids[:-1] if one.finish_reason == "stop" else one.token_ids)
                one.text = self._chat.decode(prompt, tokens, skip_special_tokens=not self._tags_are_special)
        return output

    def _is_read_along(self, request: Request, in_pieces: bool = False) -> bool:
        """Whether text must be made token by token: it is shown so, something in it ends it, or each token's is wanted;
        or the tokenizer is not known well enough to do otherwise.
        """
        return in_pieces or bool(request.sampling.stop) or request.top_logprobs is not None or not self._chat.is_known

    async def _outputs(self, prompt: list[int], request: Request, in_pieces: bool = False) -> AsyncGenerator[Any, None]:
        """One turn: vLLM's own outputs, each with what is new in it; or one, the whole."""
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        room = self._context - len(prompt)
        if room < LEAST_ROOM:
            raise RequestRefused(
                f"the prompt is {len(prompt)} tokens long and the model's context {self._context}: "
                "shorten it or raise max_model_len"
            )
        labels = [self._label_token(label) for label in request.labels]
        whole = False
        try:
            params = sampling_params(request, room, labels, in_pieces)
            params.skip_special_tokens = not self._tags_are_special
            params.detokenize = self._is_read_along(request, in_pieces)
            stream = self._llm.generate(
                {"prompt_token_ids": prompt},
                params,
                request_id=str(next(self._numbers)),
                lora_request=self._adapters[request.adapter] if request.adapter else None,
            )
            async with aclosing(stream):
                async for output in stream:
                    if any(one.finish_reason in ("abort", "error") for one in output.outputs):
                        break
                    whole = output.finished
                    yield output
        except EngineDeadError as error:
            raise EngineDead("the vLLM engine process died; its log says why") from error
        except (VLLMClientError, ValueError) as error:
            raise RequestRefused(str(error)) from error
        except VLLMError as error:  # whatever went wrong, wrapped: with this request, or with all that are in flight
            why = f"vLLM gave a request up: {error.__cause__ or error!r}"[:300]
            raise (EngineDead if self._llm.errored else EngineUnavailable)(why) from error
        if not whole:
            raise EngineUnavailable("vLLM gave a request up; the worker's log says why")

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """See `Engine.check`: a label must be one token; schemas it always holds to."""
        for label in labels:
            self._label_token(label)

    async def close(self) -> None:
        """Stop the engine process."""
        from vllm import envs

        self._llm.shutdown()
        envs.disable_envs_cache()

    def _reply(self, output: Any, request: Request, opened: bool = False) -> Reply:
        return Reply(
            completions=[self._completion(one, request, opened) for one in output.outputs],
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            generated_tokens=sum(len(one.token_ids) for one in output.outputs),
        )

    def _completion(self, output: Any, request: Request, opened: bool) -> Completion:
        first = output.logprobs[0] if request.labels else {}
        tokens = {label: self._label_token(label) for label in request.labels}
        thought, answer = "", output.text
        if self._thinking and not request.labels:
            thought, answer = thoughts.split(output.text, self._thinking, opened=opened, is_json=bool(request.schema))
        whole = request.labels or (output.finish_reason == "stop" and answer is not None)
        return Completion(
            text=answer or "",
            finish="stop" if whole else "length",
            label_logprobs={label: first[t].logprob for label, t in tokens.items() if t in first},
            thoughts=thought,
            tokens=() if request.top_logprobs is None else self._tokens(output.token_ids, output.logprobs),
        )

    def _tokens(self, ids: Sequence[int], logprobs: Any) -> tuple[Token, ...]:
        """Of each token its text and probability, and those of the likeliest; nothing where none were asked for."""
        return tuple(
            Token(
                found[one].decoded_token, found[one].logprob, {top.decoded_token: top.logprob for top in found.values()}
            )
            for one, found in zip(ids, logprobs or (), strict=False)
        )

    def _label_token(self, label: str) -> int:
        tokens = self._tokenizer.encode(label, add_special_tokens=False)
        if len(tokens) != 1:
            raise RecipeError(
                f"synthesize.labels: {label!r} is {len(tokens)} tokens of this model, not one; choose labels that are "
                "single tokens (for many models `Yes` and `No`), or set synthesize.judge=rationale"
            )
        return int(tokens[0])


@dataclass
class _Written:
    """A completion as far as it is written, under the names that vLLM's own has, and what of it was shown."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    shown: str = ""
    tokens: list[Token] = field(default_factory=list)
    """Those of text that is not shown yet, such as a part of a character."""

    def add(self, piece: Any) -> None:
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs or ()
        self.finish_reason = piece.finish_reason or self.finish_reason


def sampling_params(request: Request, room: int, label_tokens: list[int], in_pieces: bool = False) -> Any:
    """vLLM's `SamplingParams` for a request.

    Args:
        request: what is asked for.
        room: tokens of the context that are left for the answer.
        label_tokens: the token of each of the request's labels.
        in_pieces: give what is new as it is written, not the whole at the end.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

    scores = request.continuation is not None
    # A model that got stuck in its JSON is stopped instead of paid for until max_tokens. A response may well be asked
    # to repeat itself, and would then be cut.
    looked_for = RepetitionDetectionParams(max_pattern_size=STUCK_PATTERN, min_count=STUCK_TIMES)
    return SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=1 if request.labels or scores else min(request.max_tokens, room),
        prompt_logprobs=0 if scores else None,  # of the prompt's own tokens alone
        structured_outputs=StructuredOutputsParams(json=request.schema) if request.schema else None,
        logprobs=request.top_logprobs,
        logprob_token_ids=label_tokens or None,
        repetition_detection=None if request.role == "responder" else looked_for,
        output_kind=RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # made for this request alone
        **request.sampling.given,
    )


def engine_arguments(
    pool: VllmPool, seed: int, adapters: tuple[str, ...] = (), gpu: Gpu | None = None, samples: int = 1
) -> dict[str, Any]:
    """What vLLM's `AsyncEngineArgs` are made from: ours, then the machine's needs, then the recipe's own `args`.

    Args:
        pool: the engine's pool.
        seed: seeds the engine.
        adapters: the adapters that it must have room for.
        gpu: the first of its GPUs; None where it has none, or none that this process sees.
        samples: answers that one row asks for at once.

    Raises:
        RecipeError: the model does not fit its GPUs.
    """
    ours: dict[str, Any] = {
        "model": resolve_model(pool.model),
        "max_model_len": pool.max_model_len,
        "trust_remote_code": pool.trust_remote_code,
        "enable_prefix_caching": True,
        # On CPU a seed in a request kills the engine, so the engine itself is seeded.
        "seed": seed,
        # Free white space between JSON tokens is paid for by the token.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,  # in its log; `stat_loggers` has them
    }
    if pool.gpus == 0:
        # bfloat16 without native support is some ten times slower, and compilation takes minutes.
        ours |= {"dtype": "float32", "enforce_eager": True}
        # Too little, and the prompts of the rows in flight push each other out of the prefix cache. Each GiB is zeroed
        # at the start, which takes some two seconds.
        ours["kv_cache_memory_bytes"] = max(1, min(8, _memory_gib() // (8 * pool.replicas.max))) << 30
        if _in_one_process(pool):
            ours["distributed_executor_backend"] = "uni"
    else:
        # Without a word on it, vLLM's engine class has 128 answers and 2048 tokens, whatever the GPU.
        batch = batch_of(pool, samples)
        ours["max_num_seqs"] = batch.sequences
        if pool.args.get("enable_chunked_prefill", True):  # or vLLM wants room for a whole prompt, and sees to it
            ours["max_num_batched_tokens"] = batch.tokens
    if gpu:
        ours |= _fitted(pool, ours["model"], gpu, batch_of(pool, samples).room)
    if adapters:
        # On CPU, vLLM 0.29 looks up "no adapter" as slot -1, the last one: a slot more stays empty and changes nothing.
        # Without it, a base request that shares a batch with an adapter's gets that adapter's weights.
        slots = len(adapters) + (pool.gpus == 0)
        ours |= {"enable_lora": True, "max_loras": slots, **_adapted(adapters)}
    if pool.model == PACKAGED:
        ours["served_model_name"] = PACKAGED
    ours |= pool.args
    if 0 < pool.gpus < 1:
        ours["gpu_memory_utilization"] = memory_share(pool)  # others share the GPU
    return ours


def _fitted(pool: VllmPool, model: str, gpu: Gpu, room: int) -> dict[str, Any]:
    """What an engine's arguments owe to the GPU it is on; `room` are bytes that it needs beside weights and cache."""
    ours: dict[str, Any] = {}
    if gpu.capability == 10 and not shutil.which("nvcc") and "attention_config" not in pool.args:
        ours["attention_backend"] = "FLASH_ATTN"  # vLLM's first choice there is FlashInfer's, which nvcc compiles
    share = memory_share(pool)
    weights = None if pool.args.keys() & _SMALLER else weight_bytes(model)
    if weights is None or "kv_cache_memory_bytes" in pool.args:
        return ours
    if pool.gpus < 1:
        # Left to itself, vLLM takes what the whole GPU has lost since it began for its own: of two replicas that load
        # at once, each counts the other's weights, and there is no memory for a cache.
        ours["kv_cache_memory_bytes"] = cache_memory(gpu.memory, share, weights, room)
    else:
        check_weights(gpu.memory, share, int(pool.gpus), weights)
    return ours


_SMALLER = {"quantization", "dtype", "cpu_offload_gb", "offload_backend"}
"""Arguments with which the weights on a GPU are not as large as those in the files."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The adapter ranks that vLLM has kernels for."""


def _adapted(adapters: tuple[str, ...]) -> dict[str, Any]:
    """The rank and the modules that vLLM must make room for: no more, since every adapted module costs every token."""
    from peft import PeftConfig

    configs = [PeftConfig.from_pretrained(resolve_model(adapter)) for adapter in adapters]
    rank = max(config.r for config in configs)
    room: dict[str, Any] = {"max_lora_rank": next((r for r in _RANKS if r >= rank), rank)}
    if not any(isinstance(config.target_modules, str) for config in configs):  # a pattern, which vLLM does not take
        room["lora_target_modules"] = sorted(set().union(*(config.target_modules for config in configs)))
    return room


def _adapter(name: str, number: int) -> Any:
    from vllm.lora.request import LoRARequest

    # The name is the folder's: an adapter name that is used again can serve the cache of the one before.
    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=resolve_model(name))


def _in_one_process(pool: VllmPool) -> bool:
    """Whether the engine's process runs the model itself. On CPU vLLM starts another for that, to bind its threads to
    cores; where nobody asked for that, it only makes the start ten seconds longer.
    """
    asked = "distributed_executor_backend" in pool.args or "VLLM_CPU_OMP_THREADS_BIND" in os.environ
    return pool.gpus == 0 and not asked


@contextmanager
def alone_on_its_gpu(pool: VllmPool, arguments: dict[str, Any]) -> Iterator[None]:
    """Let one engine load at a time on a GPU that several share, where it measures what is free; see `_fitted`."""
    if not 0 < pool.gpus < 1 or "kv_cache_memory_bytes" in arguments:
        yield
        return
    devices = re.sub(r"[^\w-]", "-", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    place = cache_folder() / f"loading-on-{devices}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place):
        yield


def stat_loggers() -> list[Any] | None:
    """What keeps vLLM's counts where a process is one of Ray's: as metrics of Ray, which has a port for them on every
    node (`ray_vllm_num_requests_running` and the like). None elsewhere, where nobody could read them.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    class Counts(RayPrometheusStatLogger):
        """All but the time between two tokens, which would be noted for each token."""

        def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **options: Any) -> None:
            if iteration_stats:
                iteration_stats.inter_token_latencies_iter.clear()
            super().record(scheduler_stats, iteration_stats, *more, **options)

    return [Counts]


def _first_gpu(pool: VllmPool) -> Gpu | None:
    """The first GPU of this process, told by its driver: to ask CUDA would take memory of it for as long as this
    process lives.
    """
    if not pool.gpus or pool.args.get("distributed_executor_backend") == "ray":  # Ray's own workers have the GPUs
        return None
    check_devices(pool.gpus)
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    return Gpu(current_platform.get_device_total_memory(), capability.major) if capability else None


COMPILED = ("VLLM_USE_DEEP_GEMM", "VLLM_ALLREDUCE_USE_FLASHINFER")
"""Switches of vLLM for kernels that it takes by default and that nvcc compiles when they are first used: DeepGEMM's for
FP8 models, and FlashInfer's all-reduce between GPUs with an NVSwitch.
"""


def prepare_environment(pool: VllmPool) -> None:
    """Settings that vLLM reads from the environment before it is imported; what the user has set stays, but for
    OMP_NUM_THREADS, which Ray sets to its logical CPUs: an engine on CPU asks for one of these and uses all cores.
    """
    defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CONFIGURE_LOGGING": "1"}
    if pool.gpus:
        # Compiled by nvcc as the engine warms up. It steps aside for every batch with a greedy request, such as the
        # judge's, anyway.
        defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        if not shutil.which("nvcc"):
            defaults |= dict.fromkeys(COMPILED, "0")
    elif _in_one_process(pool):
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # or it would not take `uni`; the engine's own process stays
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    else:  # by default vLLM leaves a core idle for its front end
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _memory_gib() -> int:
    """This machine's memory, or what its container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total >> 30
