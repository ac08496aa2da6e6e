"""What `ultraif plan` says, without a model, a cluster or a file written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

from tests.hub import hub
from tests.simulated import recipe
from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.flow.cluster import Cluster, Node
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.report.plan import print_plan
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder


def test_a_plan_says_pools_operators_rows_steps_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(recipe(tmp_path, pools="three", policy={"model": "packaged"}))
    said = capsys.readouterr().out
    assert "operator 1: decompose in one worker of pool 'a'" in said
    assert "operator 3: respond in one worker of pool 'c'" in said
    assert "training: policy from packaged (whole); 1 worker(s) of 1 CPU and 0 GPU" in said
    assert "sft: while it loads, a worker takes 0.5 GB of its machine's memory" in said
    assert "round-1/dpo: while it loads, a worker takes 1.1 GB" in said
    assert "prompts: 40 accepted" in said
    assert "ingest → synthesize → export → sft → round-1/synthesize" in " ".join(said.split())
    assert [line.split()[0] for line in said.splitlines() if line.split()[:1] == ["judge"]] == ["judge"]
    assert not (tmp_path / "run").exists()


def test_a_plan_says_how_much_an_engine_does_at_once(
    tmp_path: Path, of_8b: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpus(monkeypatch)
    made = recipe(tmp_path).model_dump()
    pools = {
        "m": {"engine": "vllm", "model": of_8b, "gpus": 1, "rows_in_flight": 96},
        "n": {"engine": "vllm", "model": of_8b, "gpus": 1, "args": {"max_num_seqs": 64}},
    }
    roles = made["roles"] | {"decomposer": made["roles"]["decomposer"] | {"pool": "n"}}
    asked = {"pools": pools, "roles": roles, "synthesize": made["synthesize"] | {"wave": 2, "k": 3}}
    print_plan(parse_recipe(made | asked))
    said = " ".join(capsys.readouterr().out.split())
    step = "and computes 8,192 tokens in one step (max_num_batched_tokens)"
    assert f"an engine of pool 'm' writes up to 192 answers at once (max_num_seqs), {step}" in said
    assert f"an engine of pool 'n' writes up to 64 answers at once (max_num_seqs), {step}" in said


def test_a_plan_says_what_the_composer_learns_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = tmp_path / "wild.jsonl"
    wild.write_text("".join(json.dumps({"prompt": f"Write {n} lines."}) + "\n" for n in range(3)))
    print_plan(recipe(tmp_path, pools="three", composer={"model": "packaged", "prompts": [str(wild)]}))
    said = capsys.readouterr().out
    assert "composer-decompose, operator 1: decompose in one worker of pool 'a'" in said
    assert "synthesize, operator 1: compose in one worker of pool 'b'" in said
    assert "prompts: 40 accepted" in said
    assert "the composer's own prompts: 3 accepted" in said
    words = [line.split() for line in said.splitlines()]
    requests = {line[0]: line[1] for line in words if line and line[0] in ROLES and line[1].isdigit()}
    assert (requests["decomposer"], requests["composer"]) == ("3", "80")


@pytest.fixture(scope="module")
def of_8b(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the configuration of an 8B model and some tokenizer: all that planning reads."""
    folder = str(tmp_path_factory.mktemp("8b"))
    LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256,
    ).save_pretrained(folder)  # fmt: skip
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def adapters_of(model: str, tmp_path: Path, **train: Any) -> Recipe:
    fields = {"max_length": 2048, "per_device_train_batch_size": 1}
    policy = {"model": model, "lora": {"r": 32}}
    train = {"gpus": 1, "workers": {"min": 1, "max": 2}, **train}
    return recipe(tmp_path, policy=policy, sft=fields, dpo=fields, align={"iterations": 2}, train=train)


def with_gpus(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    nodes = Cluster((Node({"CPU": 16, "GPU": 4} | {f"accelerator_type:{k}": v for k, v in resources.items()}),))
    monkeypatch.setattr("ultraif_ray.report.plan.this_machine", lambda: nodes)


def test_a_plan_says_what_training_takes_of_memory(
    tmp_path: Path, of_8b: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpus(monkeypatch, L4=1)
    print_plan(adapters_of(of_8b, tmp_path))
    said = " ".join(capsys.readouterr().out.split())
    loading = "while it loads, a worker takes 16.4 GB of its machine's memory, and 2 on one node 32.8 GB"
    sft = "sft: about 19.0 GB (weights 16.4, gradients 0.7, optimizer 0.7, activations 1.2) of the 24 GB of each GPU"
    assert f"{sft}, with 2 worker(s); {loading} round-1/dpo, round-2/dpo: about 20.6 GB (weights 16.4, " in said
    with_gpus(monkeypatch)
    print_plan(adapters_of(of_8b, tmp_path))
    assert "activations 1.2) of each GPU, with 2 worker(s); " in " ".join(capsys.readouterr().out.split())


def test_what_does_not_fit_a_gpu_is_refused_and_what_hardly_does_is_said_to(
    tmp_path: Path, of_8b: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpus(monkeypatch, T4=1)
    with pytest.raises(RecipeError, match=r"sft: with 2 worker\(s\) .* 19\.0 GB \(.*\) .* has 16 GB: lower sft\."):
        print_plan(adapters_of(of_8b, tmp_path))
    made = adapters_of(of_8b, tmp_path)
    wide = made.model_copy(update={"dpo": made.dpo | {"max_length": 3072}})
    with_gpus(monkeypatch, L4=1)
    print_plan(wide)
    assert " of the 24 GB of each GPU, which is tight, with 2 worker(s); " in " ".join(capsys.readouterr().out.split())
    named = adapters_of(of_8b, tmp_path, accelerator_type="T4")
    sft = next(step for step in plan(named, RunFolder(named.run_folder)) if step.name == "sft")
    with pytest.raises(RecipeError, match="has 16 GB"):  # before a run, too
        sft.check(Context(named, RunFolder(named.run_folder)))


def weighing(folder: str, size: int, into: Path) -> str:
    """A copy of a model's folder whose file of weights says that it has so many bytes."""
    shutil.copytree(folder, into)
    tensor = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    head = json.dumps({"weights": tensor}).encode()
    (into / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    return str(into)


def test_a_plan_says_what_policy_and_judge_have_of_a_gpu_that_they_share(
    tmp_path: Path, of_8b: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weighing(of_8b, 16 * 10**9, tmp_path / "model")
    pools = {"m": {"engine": "vllm", "model": model, "gpus": 1, "rows_in_flight": 512}}
    fields, train = {"fsdp": True, "max_length": 512, "per_device_train_batch_size": 1}, {"gpus": 1, "workers": 4}
    made = recipe(tmp_path, policy={"model": model}, sft=fields, dpo=fields, train=train).model_dump()
    made |= {"pools": pools, "policy": made["policy"] | {"share_gpu": True}}
    with_gpus(monkeypatch, H100=1)
    print_plan(parse_recipe(made))
    said = " ".join(capsys.readouterr().out.split())
    assert "round-1/synthesize: policy and judge share a GPU, with half of its memory each" in said
    for pool in ("m", "trained-responder"):
        assert f"pool '{pool}' has 16.2 GB for its cache beside 16.0 GB of weights, on a GPU of 80 GB" in said
    with_gpus(monkeypatch, **{"A100-40G": 1})
    with pytest.raises(RecipeError, match=r"of a GPU of 37\.3 GiB this engine may take 16\.8 GiB, and needs 14\.9 GiB"):
        print_plan(parse_recipe(made))


def test_steps_that_are_done_or_begun_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = recipe(tmp_path)
    folder = RunFolder(made.run_folder)
    for step in ("ingest", "synthesize"):
        folder.open_step(step, {})
    folder.finish("ingest")
    print_plan(made)
    assert "ingest (done) → synthesize (begun) → export" in capsys.readouterr().out


def test_what_would_end_the_run_ends_the_plan(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        print_plan(made.model_copy(update={"prompts": ("/nowhere.jsonl",)}))
    big = {"engine": "simulated", "cpus": 1, "replicas": {"min": 500, "max": 500}}
    with pytest.raises(RecipeError, match="synthesize: the run needs 502 CPU at least"):
        print_plan(parse_recipe(made.model_dump() | {"pools": {"m": big}}))
    with pytest.raises(RecipeError, match="sft: the run needs 500 CPU at least"):
        print_plan(recipe(tmp_path, policy={"model": "packaged"}, train={"workers": {"min": 500, "max": 500}}))


def test_a_model_that_the_hub_does_not_give_ends_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(tmp_path).model_dump()
    with hub(monkeypatch):
        with pytest.raises(RecipeError, match=r"^pools\.m\.model is 'org/gated', whose licence must be accepted"):
            print_plan(parse_recipe(made | {"pools": {"m": {"engine": "vllm", "model": "org/gated"}}}))
        adapted = made["roles"] | {"judge": made["roles"]["judge"] | {"adapter": "org/none"}}
        pools = {"m": {"engine": "vllm", "model": "org/open"}}
        with pytest.raises(RecipeError, match=r"^roles\.judge\.adapter is 'org/none', which is no folder here"):
            print_plan(parse_recipe(made | {"pools": pools, "roles": adapted}))
