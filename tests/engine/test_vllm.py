"""The real engine with the real model, in this process."""

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ultraif_ray.engine.protocol import Request, RoleClient
from ultraif_ray.engine.vllm import VllmEngine, engine_arguments, sampling_params
from ultraif_ray.errors import RecipeError, RequestRefused
from ultraif_ray.method import compose, decompose, judge
from ultraif_ray.method.checks import decomposition_holds
from ultraif_ray.recipe import Sampling, VllmPool, parse_recipe
from ultraif_ray.records import ROLES, Constraint, Prompt

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
    assert "gpu_memory_utilization" not in engine_arguments(VllmPool(engine="vllm", model="org/big", gpus=1), seed=0)


def test_only_replies_in_json_are_stopped_where_they_repeat_themselves() -> None:
    detects = {role: sampling_params(ask("hi", role=role), 100, []).repetition_detection for role in ROLES}
    assert [role for role, detected in detects.items() if detected is None] == ["responder"]
    assert detects["composer"].min_count == 16


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
    async def engine(self, adapter: str) -> AsyncIterator[VllmEngine]:
        small = POOL.model_copy(update={"args": {"kv_cache_memory_bytes": 1 << 29}})  # which is quick to zero
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

    async def test_every_schema_of_the_method_is_held(self, engine: VllmEngine) -> None:
        prompt = Prompt(id=1, query="Write a poem about rain, no rhymes.")
        schemas = [
            decompose.reply_schema(1),
            compose.reply_schema(1),
            judge.reasoning_schema(["1", "2"]),
        ]
        replies = await asyncio.gather(
            *(engine.generate(ask(prompt.query, schema=s, temperature=1.0, max_tokens=160)) for s in schemas)
        )
        for schema, reply in zip(schemas, replies, strict=True):
            (made,), keys = reply.completions, schema["required"]
            assert made.text.startswith('{"' + keys[0] + '": ')  # type: ignore[index]
            if made.finish == "stop":
                assert set(json.loads(made.text)) == set(keys)  # type: ignore[call-overload]
        assert any(reply.completions[0].finish == "stop" for reply in replies)

    async def test_labels_give_their_probabilities_for_one_token(self, engine: VllmEngine) -> None:
        await engine.check(("Yes", "No"))
        reply = await engine.generate(ask("Is water wet? Reply with Yes or No alone.", labels=("Yes", "No")))
        logprobs = reply.completions[0].label_logprobs
        assert set(logprobs) == {"Yes", "No"}
        assert 0 < sum(math.exp(value) for value in logprobs.values()) <= 1.0001
        assert reply.generated_tokens == 1

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
            await engine.check(("YES", "NO"))

    async def test_a_prompt_longer_than_the_context_is_refused_and_the_engine_lives(self, engine: VllmEngine) -> None:
        with pytest.raises(RequestRefused, match="context 1024"):
            await engine.generate(ask("word " * 3000))
        assert (await engine.generate(ask("hi", max_tokens=2))).completions[0].text

    async def test_an_answer_never_asks_for_more_than_the_context_has(self, engine: VllmEngine) -> None:
        reply = await engine.generate(ask("word " * 960, max_tokens=4000))
        assert reply.prompt_tokens + reply.generated_tokens <= 1024

    async def test_requests_of_all_kinds_at_once(self, engine: VllmEngine) -> None:
        draw = random.Random(0)
        kinds = [
            ask("Say hi.", max_tokens=6, temperature=1.0),
            ask("Is it?", labels=("Yes", "No")),
            ask("Words.", max_tokens=6, n=2, temperature=0.7),
        ]
        replies = await asyncio.gather(*(engine.generate(draw.choice(kinds)) for _ in range(40)))
        assert all(reply.completions for reply in replies)
