"""The real engine with the real model, in this process."""

import asyncio
import json
import os
import random
import re
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import pytest_asyncio
from filelock import FileLock, Timeout
from pydantic import BaseModel
from transformers import AutoTokenizer

from tests.engine.reference import continuation_logprob, label_logprobs
from ultraif_ray.engine.devices import Gpu, batch_of
from ultraif_ray.engine.protocol import Delta, Reply, Request, RoleClient, Token
from ultraif_ray.engine.vllm import (
    COMPILED,
    VllmEngine,
    alone_on_its_gpu,
    engine_arguments,
    prepare_environment,
    sampling_params,
    stat_loggers,
)
from ultraif_ray.errors import EngineDead, EngineUnavailable, RecipeError, RequestRefused
from ultraif_ray.method import compose, decompose, judge, prompts
from ultraif_ray.method.checks import decomposition_holds
from ultraif_ray.recipe import Sampling, Thinking, VllmPool, parse_recipe
from ultraif_ray.records import ROLES, Constraint, Instruction, Message, Prompt
from ultraif_ray.templates import load_shipped

CAPITAL, THOUGHT = "Think: What is the capital of France?", "The answer is"

POOL = VllmPool(engine="vllm", model="packaged", max_model_len=1024)


def ask(text: str, **options: object) -> Request:
    return Request([{"role": "user", "content": text}], **options)  # type: ignore[arg-type]


def test_engine_arguments_of_a_cpu_pool() -> None:
    made = engine_arguments(POOL, seed=3)
    assert (made["dtype"], made["enforce_eager"], made["seed"]) == ("float32", True, 3)
    assert made["enable_prefix_caching"] is True
    assert made["trust_remote_code"] is False
    assert made["kv_cache_memory_bytes"] >= 1 << 30


def test_a_cpu_engine_is_one_process_unless_its_threads_are_to_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_arguments(POOL, seed=0)["distributed_executor_backend"] == "uni"
    said = VllmPool(engine="vllm", model="packaged", args={"distributed_executor_backend": "mp"})
    assert engine_arguments(said, seed=0)["distributed_executor_backend"] == "mp"
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    assert "distributed_executor_backend" not in engine_arguments(POOL, seed=0)


def test_engine_arguments_of_a_gpu_pool_leave_dtype_to_vllm_and_the_recipe_has_the_last_word() -> None:
    pool = VllmPool(
        engine="vllm", model="org/big", gpus=2, args={"tensor_parallel_size": 2, "enable_prefix_caching": False}
    )
    made = engine_arguments(pool, seed=0)
    assert not made.keys() & {"dtype", "kv_cache_memory_bytes", "distributed_executor_backend"}
    assert (made["model"], made["tensor_parallel_size"], made["enable_prefix_caching"]) == ("org/big", 2, False)


def test_a_part_of_a_gpu_is_a_part_of_its_memory() -> None:
    half = VllmPool(engine="vllm", model="org/small", gpus=0.5)
    assert engine_arguments(half, seed=0)["gpu_memory_utilization"] == 0.45
    said = VllmPool(engine="vllm", model="org/small", gpus=0.5, args={"gpu_memory_utilization": 0.3})
    assert engine_arguments(said, seed=0)["gpu_memory_utilization"] == 0.3
    whole = VllmPool(engine="vllm", model="org/small", gpus=0.5, args={"gpu_memory_utilization": 0.92})
    assert engine_arguments(whole, seed=0)["gpu_memory_utilization"] == 0.46
    assert "gpu_memory_utilization" not in engine_arguments(VllmPool(engine="vllm", model="org/big", gpus=1), seed=0)


GIB = 1 << 30
H100, B200 = Gpu(80 * GIB, 9), Gpu(180 * GIB, 10)


def on_gpus(gpus: float = 1, **args: Any) -> VllmPool:
    return VllmPool(engine="vllm", model="packaged", gpus=gpus, args=args)


def resolved(pool: VllmPool, gpu: Gpu) -> Any:
    """vLLM's own configuration of a pool's engine."""
    from vllm import AsyncEngineArgs

    return AsyncEngineArgs(**engine_arguments(pool, seed=0, gpu=gpu)).create_engine_config()


def scheduled(pool: VllmPool, samples: int = 1) -> tuple[int, int]:
    """Answers and tokens of one step, as vLLM's own configuration has them."""
    return steps_of(engine_arguments(pool, seed=0, gpu=H100, samples=samples))


def steps_of(arguments: dict[str, Any]) -> tuple[int, int]:
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    made = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)  # as AsyncLLM does
    return made.scheduler_config.max_num_seqs, made.scheduler_config.max_num_batched_tokens


def test_an_engine_on_a_gpu_writes_as_many_answers_at_once_as_its_rows_ask_for() -> None:
    assert steps_of({"model": engine_arguments(POOL, seed=0)["model"]}) == (128, 2048)  # vLLM's own, on any GPU
    many = on_gpus().model_copy(update={"rows_in_flight": 512})
    assert scheduled(on_gpus()) == (128, 8192)
    assert scheduled(many) == scheduled(on_gpus(), samples=4) == (512, 8192)
    assert scheduled(many.model_copy(update={"args": {"max_num_seqs": 64}})) == (64, 8192)
    assert scheduled(many.model_copy(update={"args": {"max_num_batched_tokens": 256}})) == (256, 256)
    whole = many.model_copy(update={"max_model_len": 8000, "args": {"enable_chunked_prefill": False}})
    assert scheduled(whole) == (512, 8000)


def test_replicas_on_one_gpu_set_aside_their_own_cache_and_do_not_measure() -> None:
    cache = resolved(on_gpus(0.5), H100).cache_config
    weights = 134_515_008 * 2
    assert cache.kv_cache_memory_bytes == int(80 * GIB * 0.45) - weights - batch_of(on_gpus(0.5)).room
    assert cache.gpu_memory_utilization == 0.45  # what vLLM wants to find free as it starts
    assert resolved(on_gpus(0.5, gpu_memory_utilization=0.3), H100).cache_config.kv_cache_memory_bytes < 22 * GIB
    assert resolved(on_gpus(0.5, kv_cache_memory_bytes=GIB), H100).cache_config.kv_cache_memory_bytes == GIB
    assert resolved(on_gpus(1), H100).cache_config.kv_cache_memory_bytes is None


def test_engines_that_measure_a_gpu_that_they_share_load_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3/1")
    lock = FileLock(tmp_path / "ultraif_ray/loading-on-GPU-3-1.lock")
    with alone_on_its_gpu(on_gpus(1), {}), alone_on_its_gpu(on_gpus(0.5), {"kv_cache_memory_bytes": GIB}):
        assert not list(tmp_path.iterdir())
    with alone_on_its_gpu(on_gpus(0.5, quantization="fp8"), {}), pytest.raises(Timeout):
        lock.acquire(blocking=False)
    lock.acquire(blocking=False)


def test_a_model_that_is_larger_than_its_gpus_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(RecipeError, match=r"weights are 0\.3 GiB, and 1 GPU of 0\.2 GiB can take 0\.2 GiB"):
        engine_arguments(on_gpus(), seed=0, gpu=Gpu(GIB // 4, 9))
    with pytest.raises(RecipeError, match=r"may take 1\.8 GiB, and needs 0\.3 GiB for the model's weights"):
        engine_arguments(on_gpus(0.5), seed=0, gpu=Gpu(4 * GIB, 9))
    engine_arguments(on_gpus(quantization="fp8"), seed=0, gpu=Gpu(GIB // 4, 9))


def nvcc(folder: Path) -> str:
    (folder / "nvcc").write_text("#!/bin/sh\n")
    (folder / "nvcc").chmod(0o755)
    return str(folder)


def test_attention_on_a_b200_needs_no_compiler_unless_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolved(on_gpus(), B200).attention_config.backend.name == "FLASH_ATTN"
    said = engine_arguments(on_gpus(attention_backend="TRITON_ATTN"), seed=0, gpu=B200)
    assert said["attention_backend"] == "TRITON_ATTN"
    assert "attention_backend" not in engine_arguments(on_gpus(), seed=0, gpu=H100)
    monkeypatch.setenv("PATH", nvcc(tmp_path))
    assert "attention_backend" not in engine_arguments(on_gpus(), seed=0, gpu=B200)


@pytest.fixture
def no_switches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of the switches is set, nor will be after the test; and there is no nvcc."""
    for name in ("VLLM_USE_FLASHINFER_SAMPLER", *COMPILED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_switches")
def test_kernels_that_nvcc_compiles_at_first_use_are_off_on_a_gpu_without_it() -> None:
    from vllm import envs

    before = [getattr(envs, name) for name in ("VLLM_USE_FLASHINFER_SAMPLER", *COMPILED)]
    prepare_environment(POOL)
    assert [getattr(envs, name) for name in ("VLLM_USE_FLASHINFER_SAMPLER", *COMPILED)] == before == [True] * 3
    prepare_environment(on_gpus())
    assert not any(getattr(envs, name) for name in ("VLLM_USE_FLASHINFER_SAMPLER", *COMPILED))


@pytest.mark.usefixtures("no_switches")
def test_what_a_user_sets_stays_and_nvcc_brings_the_kernels_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", nvcc(tmp_path))
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    prepare_environment(on_gpus())
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "1"
    assert not any(name in os.environ for name in COMPILED)


@pytest.mark.parametrize(
    "args",
    [
        {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
        {"tensor_parallel_size": 4, "decode_context_parallel_size": 2},
        {"tensor_parallel_size": 2, "enable_expert_parallel": True},
        {"tensor_parallel_size": 2, "prefill_context_parallel_size": 2},
    ],
)
def test_a_pool_asks_for_as_many_gpus_as_vllm_starts_workers(args: dict[str, Any]) -> None:
    from vllm.config import ParallelConfig

    workers = ParallelConfig(**args).world_size_across_dp
    on_gpus(workers, **args)
    with pytest.raises(ValueError, match=f"gpus is 1: set gpus to {workers}"):
        on_gpus(1, **args)


def test_a_gpu_that_is_not_there_is_said_before_the_engine_starts() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RecipeError, match="was to give 1 GPU, but torch is a build without CUDA"):
        VllmEngine(on_gpus(), seed=0)


def test_only_replies_in_json_are_stopped_where_they_repeat_themselves() -> None:
    detects = {role: sampling_params(ask("hi", role=role), 100, []).repetition_detection for role in ROLES}
    assert [role for role, detected in detects.items() if detected is None] == ["responder"]
    assert detects["composer"].min_count == 16


class Read(list[int]):
    """Tokens that count how often one is looked at."""

    times = 0

    def __getitem__(self, place: Any) -> Any:
        self.times += 1
        return super().__getitem__(place)


def test_a_look_for_repetitions_is_short_and_finds_lists_of_a_word() -> None:
    from vllm.v1.core.sched.utils import check_sequence_repetition

    params = sampling_params(ask("hi", role="composer"), 100, []).repetition_detection
    assert params
    written = Read(range(1000))
    assert not check_sequence_repetition(written, params)
    assert written.times <= 12  # at every token of the engine's one thread
    for word in ([7], [7, 8], [1, 2, 3, 4, 5, 6]):
        assert not check_sequence_repetition([*range(50), *word * 15], params)
        assert check_sequence_repetition([*range(50), *word * 16], params)


def test_how_a_role_samples_reaches_vllm_and_what_is_not_given_stays_vllms_default() -> None:
    from vllm import SamplingParams

    sampling = Sampling(stop=("\n\n", "User:"), top_k=20, min_p=0.1, presence_penalty=1.5, repetition_penalty=1.05)
    made = sampling_params(ask("hi", sampling=sampling, temperature=0.6, top_p=0.9, max_tokens=500), 100, [])
    assert (made.stop, made.top_k, made.min_p) == (["\n\n", "User:"], 20, 0.1)
    assert (made.presence_penalty, made.repetition_penalty) == (1.5, 1.05)
    assert (made.temperature, made.top_p, made.max_tokens) == (0.6, 0.9, 100)
    plain, default = sampling_params(ask("hi"), 100, []), SamplingParams()
    for name in Sampling.model_fields:
        assert getattr(plain, name) == getattr(default, name), name


def test_a_label_costs_one_token_and_its_probability_is_asked_for() -> None:
    made = sampling_params(ask("Is it?", labels=("Yes", "No"), role="judge"), 100, [5, 6])
    assert (made.max_tokens, made.logprob_token_ids) == (1, [5, 6])


def test_what_is_made_for_one_request_alone_is_not_copied_for_it() -> None:
    made = sampling_params(ask("hi", schema={"type": "string"}), 100, [])
    assert made.clone().structured_outputs is made.structured_outputs


def scraped(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - of this machine
        return str(answer.read().decode())


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_an_engine_is_at_can_be_read_at_its_nodes_port_for_metrics() -> None:
    import ray
    from vllm import AsyncEngineArgs
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

    loggers = stat_loggers()
    assert loggers
    for model, running in (("judge", 30), ("policy", 480)):  # two engines of one process
        pool = POOL.model_copy(update={"args": {"served_model_name": model}})
        counts = loggers[0](AsyncEngineArgs(**engine_arguments(pool, seed=0)).create_engine_config(), [0])
        stats = IterationStats()
        stats.inter_token_latencies_iter, stats.time_to_first_tokens_iter = [0.01] * 512, [0.2]
        counts.record(SchedulerStats(num_running_reqs=running, num_waiting_reqs=32, kv_cache_usage=0.75), stats)
    (node,) = ray.nodes()
    wanted = {"judge": 30, "policy": 480}
    for _ in range(60):  # Ray's processes report every few seconds
        said = scraped(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
        lines = [line.rsplit(" ", 1) for line in said.splitlines() if line.startswith("ray_vllm_")]
        found = {(name.partition("{")[0], re.findall('model_name="(.*?)"', name)[0]): float(n) for name, n in lines}
        if all(("ray_vllm_num_requests_running", model) in found for model in wanted):
            break
        time.sleep(1)
    for model, running in wanted.items():
        assert found["ray_vllm_num_requests_running", model] == running
        assert found["ray_vllm_num_requests_waiting", model] == 32
        assert found["ray_vllm_kv_cache_usage_perc", model] == 0.75
        assert found["ray_vllm_time_to_first_token_seconds_count", model] == 1
        # One for each token would cost as much as its text.
        assert not found.get(("ray_vllm_inter_token_latency_seconds_count", model))


@pytest.fixture(scope="module")
def adapter(packaged_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA adapter with random weights, large enough to be heard."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(packaged_model), config).save_pretrained(folder)
    return str(folder)


def test_engine_makes_room_for_the_adapters_that_roles_use_and_no_more(adapter: str) -> None:
    made = engine_arguments(POOL, seed=0, adapters=(adapter,))
    assert (made["enable_lora"], made["max_loras"], made["max_lora_rank"]) == (True, 2, 8)
    assert made["lora_target_modules"] == ["q_proj", "v_proj"]
    assert "enable_lora" not in engine_arguments(POOL, seed=0)


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.asyncio(loop_scope="module")
class TestEngine:
    @pytest_asyncio.fixture(scope="class", loop_scope="module")
    async def engine(self, adapter: str, packaged_model: str) -> AsyncIterator[VllmEngine]:
        template = AutoTokenizer.from_pretrained(packaged_model).chat_template
        small = POOL.model_copy(
            update={
                "args": {"kv_cache_memory_bytes": 1 << 29},  # which is quick to zero
                # A model that thinks where it is asked to, and ends a thought with what this one is sure to write.
                "chat_template": template + "{% if 'Think:' in messages[-1]['content'] %}<think>\n{% endif %}",
                "thinking": Thinking(end="Paris"),
            }
        )
        made = VllmEngine(small, seed=0, adapters=(adapter,))
        yield made
        await made.close()

    async def test_text_usage_and_the_prefix_cache(self, engine: VllmEngine) -> None:
        question = ask("Tell me about " + "the history of bread and " * 20 + "rain.", max_tokens=8)
        first, again = await engine.generate(question), await engine.generate(question)
        assert first.completions[0].text
        assert first.completions[0].finish == "length"
        assert first.generated_tokens == 8
        assert again.prompt_tokens == first.prompt_tokens > again.cached_tokens > 0

    async def test_an_adapter_answers_beside_the_frozen_base(self, engine: VllmEngine, adapter: str) -> None:
        plain, adapted = ask("Name a colour.", max_tokens=12), ask("Name a colour.", max_tokens=12, adapter=adapter)
        before = await engine.generate(plain)
        other, again = await asyncio.gather(engine.generate(adapted), engine.generate(plain))
        assert other.completions[0].text != before.completions[0].text
        assert again.completions[0].text == before.completions[0].text

    async def test_n_samples_are_n_and_differ(self, engine: VllmEngine) -> None:
        reply = await engine.generate(ask("Say something.", n=4, temperature=1.0, max_tokens=12))
        assert len({c.text for c in reply.completions}) > 1
        assert len(reply.completions) == 4
        assert reply.generated_tokens <= 48

    async def test_replies_of_every_role_follow_the_schema_that_the_method_reads(self, engine: VllmEngine) -> None:
        told = load_shipped("small")
        woven = told.model_copy(update={"composer": told.composer.model_copy(update={"writes": "query"})})
        prompt, start = Prompt(id=1, query="Write a poem about rain."), Instruction(initial_query="Write about rain.")
        questions = ["Is it about rain?", "Does it rhyme?"]
        asked: list[tuple[list[Message], dict[str, object], type[BaseModel]]] = [
            (prompts.decompose(told, prompt), decompose.reply_schema(1), decompose.Decomposition),
            (prompts.compose(woven, start, "format"), compose.reply_schema(compose.Composed, 1), compose.Composed),
            (prompts.compose(told, start, "format"), compose.reply_schema(compose.Addition, 1), compose.Addition),
            (
                prompts.judge_all(told, start, "Rain falls.", questions),
                judge.reasoning_schema(["1", "2"]),
                judge.Reasoning,
            ),
        ]
        requests = [Request(messages, role="judge", schema=schema, max_tokens=300) for messages, schema, _ in asked]
        replies = await asyncio.gather(*map(engine.generate, requests))
        whole = 0
        for (_, schema, model), reply in zip(asked, replies, strict=True):
            (made,), keys = reply.completions, schema["required"]
            assert made.text.startswith('{"' + keys[0] + '": ')  # type: ignore[index]
            if made.finish == "stop":
                read = json.loads(made.text)
                assert model.model_validate_json(made.text)
                assert list(read) == keys
                assert made.text == json.dumps(read, ensure_ascii=False)  # no white space that would be paid for
                whole += 1
        assert whole >= 3  # a model of this size may reason until it is cut

    async def test_a_thought_that_the_template_began_is_no_part_of_the_answer(self, engine: VllmEngine) -> None:
        (whole,) = (await engine.generate(ask(CAPITAL, max_tokens=16))).completions
        assert whole.thoughts == THOUGHT
        assert whole.text
        assert THOUGHT not in whole.text
        (cut,) = (await engine.generate(ask(CAPITAL, max_tokens=2))).completions
        assert (cut.text, cut.finish) == ("", "length")
        assert THOUGHT.startswith(cut.thoughts)

    async def test_a_grammar_begins_after_the_thought_and_the_thought_counts_once(self, engine: VllmEngine) -> None:
        stop = Sampling(stop=("answer",))  # which would end the thought, were it the thought's
        held = ask(CAPITAL, schema={"type": "string", "enum": ["Rome"]}, role="judge", sampling=stop)
        replies = [await engine.generate(replace(held, thinking_tokens=budget)) for budget in (40, 2, 0, None)]
        assert [reply.completions[0].text for reply in replies] == ['"Rome"'] * 4
        to_its_end, in_budget, *without = (reply.completions[0].thoughts for reply in replies)
        assert to_its_end == THOUGHT
        assert in_budget in THOUGHT[:-1]
        assert without == ["", ""]
        ended, bound, empty, closed = (reply.generated_tokens for reply in replies)
        assert ended > bound == empty + 2 == closed + 2
        assert replies[0].prompt_tokens == replies[1].prompt_tokens < replies[2].prompt_tokens  # with the end in it

    async def test_a_label_is_read_after_the_thought(self, engine: VllmEngine) -> None:
        asked = ask(CAPITAL, labels=("Yes", "No"), thinking_tokens=40)
        unasked = ask(CAPITAL.removeprefix("Think: "), labels=("Yes", "No"), thinking_tokens=4)
        thought, empty, made = [
            await engine.generate(request) for request in (asked, replace(asked, thinking_tokens=0), unasked)
        ]
        assert thought.completions[0].label_logprobs != empty.completions[0].label_logprobs
        assert thought.generated_tokens > empty.generated_tokens == 1
        assert made.completions[0].thoughts  # though the template did not begin it
        assert 1 < made.generated_tokens <= 5

    async def test_each_of_several_answers_has_a_thought_of_its_own(self, engine: VllmEngine) -> None:
        asked = ask("Think: name a colour.", n=3, temperature=1.0, max_tokens=5, thinking_tokens=6)
        reply = await engine.generate(asked)
        assert len({one.thoughts for one in reply.completions}) == 3
        assert 18 <= reply.generated_tokens <= 33

    async def test_labels_give_the_probabilities_that_transformers_gives_them_for_one_token(
        self, engine: VllmEngine, packaged_model: str, adapter: str
    ) -> None:
        await engine.check(("Yes", "No"), True)
        for of in ("", adapter):
            request = ask("Is water wet? Reply with Yes or No alone.", labels=("Yes", "No"), adapter=of)
            expected = label_logprobs(packaged_model, request.messages, request.labels, of)
            assert abs(expected["Yes"] - expected["No"]) > 0.1
            reply = await engine.generate(request)
            assert reply.completions[0].label_logprobs == pytest.approx(expected, abs=1e-3)
            assert reply.generated_tokens == 1

    async def test_a_given_answer_has_the_probability_that_transformers_gives_it(
        self, engine: VllmEngine, packaged_model: str
    ) -> None:
        request = ask("What is the capital of France?")
        said = (await engine.generate(replace(request, max_tokens=4))).completions[0].text
        for text, greedy in ((said, True), ("Rome, as far as I know.", False)):
            reply = await engine.generate(replace(request, continuation=text))
            (found,) = reply.completions
            assert found.text == text
            expected = continuation_logprob(packaged_model, request.messages, text)
            assert (found.logprob, found.greedy) == (pytest.approx(expected[0], abs=1e-2), expected[1])
            assert found.greedy is greedy
            assert reply.generated_tokens == 0
        with pytest.raises(RequestRefused, match="tokens long"):
            await engine.generate(replace(request, continuation="no " * 2000))

    async def test_the_checks_by_model_get_an_answer_behind_a_cached_prefix(self, engine: VllmEngine) -> None:
        roles = {role: {"pool": "m"} for role in ROLES}
        recipe = parse_recipe({"name": "x", "pools": {"m": POOL.model_dump(mode="json")}, "roles": roles})
        client = RoleClient(recipe, {"m": engine})
        for demand in ("in verse", "briefly"):
            found = Constraint(
                category="format", text=demand, simplified_query="Describe fog", question=f"Is it {demand}?"
            )
            assert await decomposition_holds(f"Describe fog {demand}", found, client) in (True, False)
        (usage,) = client.add_usage([])
        assert (usage.requests, usage.generated) == (2, 2)
        assert usage.cached > 0.4 * usage.prompt  # the second found the examples in the cache

    async def test_a_label_of_two_tokens_is_refused_at_the_start(self, engine: VllmEngine) -> None:
        with pytest.raises(RecipeError, match="'YES' is 2 tokens"):
            await engine.check(("YES", "NO"), True)

    async def test_a_prompt_longer_than_the_context_is_refused_and_the_engine_lives(self, engine: VllmEngine) -> None:
        with pytest.raises(RequestRefused, match="context 1024"):
            await engine.generate(ask("word " * 3000))
        assert (await engine.generate(ask("hi", max_tokens=2))).completions[0].text

    async def test_an_answer_never_asks_for_more_than_the_context_has(self, engine: VllmEngine) -> None:
        reply = await engine.generate(ask("word " * 960, max_tokens=4000))
        assert reply.prompt_tokens + reply.generated_tokens <= 1024

    async def test_what_vllm_fails_at_costs_the_row_and_not_the_run(
        self, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        async def fail(*_: object, **__: object) -> None:
            raise RuntimeError("no room in the table")

        with monkeypatch.context() as patched:
            patched.setattr(AsyncLLM, "add_request", fail)
            with pytest.raises(EngineUnavailable, match=r"gave a request up: RuntimeError\(.no room in the table.\)"):
                await engine.generate(ask("hi"))
            patched.setattr(AsyncLLM, "errored", True)  # what it is once it can answer nobody any more
            with pytest.raises(EngineDead, match="no room in the table"):
                await engine.generate(ask("hi"))
        with pytest.raises(RequestRefused):  # vLLM draws no several samples at temperature 0
            await engine.generate(ask("hi", n=2, temperature=0.0))
        assert (await engine.generate(ask("hi", max_tokens=2))).completions[0].text

    async def test_a_stream_is_what_a_whole_reply_is_and_shows_no_thought(self, engine: VllmEngine) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        asked = [
            ask("Say hi.", max_tokens=12, top_logprobs=2),
            ask("Words.", max_tokens=4, n=2, temperature=0.7),
            ask("A number.", max_tokens=20, schema=schema),
            ask(CAPITAL, max_tokens=16),
            ask(CAPITAL, max_tokens=16, schema=schema),
        ]
        for request in asked:
            pieces = [piece async for piece in engine.stream(request)]
            (*deltas, reply), whole = pieces, await engine.generate(request)
            assert isinstance(reply, Reply)
            texts, tokens = [""] * request.n, list[Token]()
            for delta in deltas:
                assert isinstance(delta, Delta)
                texts[delta.index] += delta.text
                tokens += delta.tokens
            assert texts == [one.text for one in reply.completions]
            assert (reply.prompt_tokens, reply.generated_tokens > 0) == (whole.prompt_tokens, True)
            if request.temperature == 0:
                assert reply.completions == [replace(one, tokens=ANY) for one in whole.completions]
                assert reply.generated_tokens == whole.generated_tokens
            if request.top_logprobs:
                assert len(deltas) > 3
                assert "".join(token.text for token in tokens).strip() == texts[0].strip()
                assert all(len(token.top) in (2, 3) and token.logprob <= 0 for token in tokens)

    async def test_a_stream_that_is_left_is_taken_from_the_engine(
        self, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        aborted, abort = [], AsyncLLM.abort

        async def noted(self: Any, request_id: Any, *more: Any, **options: Any) -> None:
            aborted.append(request_id)
            await abort(self, request_id, *more, **options)

        monkeypatch.setattr(AsyncLLM, "abort", noted)
        stream = engine.stream(ask("Tell me a long story.", max_tokens=900))
        assert isinstance(await anext(stream), Delta)
        await stream.aclose()
        assert len(aborted) == 1

    async def test_requests_of_all_kinds_at_once(self, engine: VllmEngine) -> None:
        draw = random.Random(0)
        kinds = [
            ask("Say hi.", max_tokens=6, temperature=1.0),
            ask("Is it?", labels=("Yes", "No")),
            ask("Words.", max_tokens=6, n=2, temperature=0.7),
        ]
        requests = draw.choices(kinds, k=40)
        replies = await asyncio.gather(*map(engine.generate, requests))
        for request, reply in zip(requests, replies, strict=True):
            most = 1 if request.labels else request.max_tokens
            assert request.n <= reply.generated_tokens <= request.n * most
            assert [set(made.label_logprobs) for made in reply.completions] == [set(request.labels)] * request.n
            assert all(made.text for made in reply.completions)
        alike = [r.completions[0].label_logprobs for q, r in zip(requests, replies, strict=True) if q is kinds[1]]
        assert len(alike) > 1
        assert all(logprobs == pytest.approx(alike[0], abs=1e-3) for logprobs in alike)
