"""Which model answers in a round: the policy of the training before."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.simulated import rows_of
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import ROLES, Row, to_table
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import run_steps
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.tasks import Chats, answer

TOKENS = 12
QUERIES = ("Name a colour.", "Why is the sky blue?")


def two_rounds(tmp_path: Path, model: str, **pool: Any) -> Recipe:
    """Rows are answered as they are, greedily; the policy is an adapter on the pool's own model."""
    return parse_recipe(
        {
            "name": "test",
            "run": str(tmp_path / "run"),
            "pools": {"m": {"engine": "vllm", "model": model, "max_model_len": 512, **pool}},
            "roles": {role: {"pool": "m", "temperature": 0, "max_tokens": TOKENS} for role in ROLES},
            "synthesize": {"rounds": {0: 1}, "k": 1, "check": "text"},
            "policy": {"model": model, "lora": {}},
            "align": {"iterations": 2, "extra_constraints": 0},
        }
    )


def syntheses(made: Recipe) -> dict[str, Synthesize]:
    steps = plan(made, RunFolder(made.run_folder))
    return {step.name: step for step in steps if isinstance(step, Synthesize)}


def test_every_round_is_answered_by_the_policy_that_was_trained_last(tmp_path: Path) -> None:
    made = two_rounds(tmp_path, "org/base")
    folder = RunFolder(made.run_folder)
    answers = {
        name: step.serving(Context(in_round(made, step.round), folder)).roles.responder.adapter
        for name, step in syntheses(made).items()
    }
    run = tmp_path / "run"
    assert answers == {
        "synthesize": None,
        "round-1/synthesize": f"{run}/sft/model",
        "round-2/synthesize": f"{run}/round-1/dpo/model",
    }


def save_adapters(model: str, *folders: Path) -> None:
    """Adapters with random weights, large enough to be heard."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    for folder in folders:
        config = LoraConfig(r=4, lora_alpha=64, target_modules=["o_proj"], init_lora_weights=False)
        adapted = get_peft_model(base, config)
        adapted.save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)
        base = adapted.unload()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.xdist_group("vllm")
@pytest.mark.usefixtures("ray_cluster")
def test_the_real_model_answers_a_round_with_the_weights_of_the_round_before(
    tmp_path: Path, packaged_model: str
) -> None:
    """Those that transformers has with this adapter, and neither the base's nor those of an earlier policy."""
    made = two_rounds(tmp_path, "packaged", args={"kv_cache_memory_bytes": 1 << 28})
    folder, run = RunFolder(made.run_folder), tmp_path / "run"
    adapters = [run / "sft/model", run / "round-1/dpo/model"]
    save_adapters(packaged_model, *adapters)
    for step in ("synthesize", "round-1/dpo"):
        folder.open_step(step, {"made": "by hand"})
    rows = [Row(id=number, query=query, decomposed="simple") for number, query in enumerate(QUERIES)]
    (run / "synthesize/rows").mkdir()
    pq.write_table(to_table(rows), run / "synthesize/rows/a.parquet")
    for step in ("synthesize", "round-1/dpo"):
        folder.finish(step)

    run_steps(made, plan(made, folder), [syntheses(made)["round-2/synthesize"]])
    said = {row.query: row.instructions[0].responses[0].text for row in rows_of(folder, "round-2/synthesize")}
    chats: list[Any] = [[{"role": "user", "content": query}] for query in QUERIES]
    asked = [Chats("packaged", chats, adapter) for adapter in ("", *map(str, adapters))]
    answers = answer(asked, max_new_tokens=TOKENS, gpu=False, trust_remote_code=False)
    base, before, last = ([text.strip() for text in texts] for texts in answers)
    assert [said[query] for query in QUERIES] == last
    assert not set(last) & {*base, *before}
