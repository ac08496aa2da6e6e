"""What `ultraif plan` says, without a model, a cluster or a file written."""

import json
from pathlib import Path

import pytest

from tests.hub import hub
from tests.simulated import recipe
from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.recipe import parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.report.plan import print_plan
from ultraif_ray.store.folder import RunFolder


def test_a_plan_says_pools_operators_rows_steps_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(recipe(tmp_path, pools="three", policy={"model": "packaged"}))
    said = capsys.readouterr().out
    assert "operator 1: decompose in one worker of pool 'a'" in said
    assert "operator 3: respond in one worker of pool 'c'" in said
    assert "training: policy from packaged (whole); 1 worker(s) of 1 CPU and 0 GPU" in said
    assert "prompts: 40 accepted" in said
    assert "ingest → synthesize → export → sft → round-1/synthesize" in " ".join(said.split())
    assert [line.split()[0] for line in said.splitlines() if line.split()[:1] == ["judge"]] == ["judge"]
    assert not (tmp_path / "run").exists()


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
