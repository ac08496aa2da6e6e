"""Benchmarks as steps of a run."""

import json
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.evaluate import files
from tests.evaluate.benchmarks import GSM8K, IFEVAL, written
from tests.interrupts import interrupted_once
from tests.simulated import recipe
from ultraif_ray.errors import RecipeError
from ultraif_ray.evaluate.judged import BENCHMARKS
from ultraif_ray.evaluate.lm import local_tasks
from ultraif_ray.evaluate.results import read_results, read_samples
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import Asked
from ultraif_ray.steps.evaluate import PART_OF, plan_of_evaluation
from ultraif_ray.steps.plan import following, plan
from ultraif_ray.steps.run import run_steps
from ultraif_ray.store.folder import RunFolder


def measuring(tmp_path: Path, pool: dict[str, Any] | None = None, **section: Any) -> Recipe:
    """A recipe whose one pool is measured."""
    (tmp_path / "replies").mkdir(exist_ok=True)
    data = recipe(tmp_path, count=1).model_dump(mode="json")
    simulated = {"engine": "simulated", "replies": str(tmp_path / "replies")}
    many = [one | {"prompt": f"{one['prompt']} {n}"} for n in range(4) for one in IFEVAL]
    own = {
        "ifeval": written(tmp_path / "ifeval.jsonl", many),
        "gsm8k_solutions": written(tmp_path / "gsm8k.jsonl", GSM8K),
    }
    return parse_recipe(
        data
        | {"pools": {"m": simulated | (pool or {})}, "flow": {"rows_per_block": 1}}
        | {"evaluate": {"benchmarks": own} | section}
    )


def evaluate(made: Recipe) -> RunFolder:
    steps = plan_of_evaluation(made)
    run_steps(made, steps, steps)
    return RunFolder(made.run_folder)


def asked(tmp_path: Path) -> Counter[int]:
    """How often each row was answered, by any process."""
    lines = [line for file in (tmp_path / "replies").glob("*.jsonl") for line in file.read_text().splitlines()]
    return Counter(json.loads(line)["row"] for line in lines)


def interrupt(slow: Recipe, begun: Callable[[], bool]) -> None:
    with interrupted_once(begun), pytest.raises(KeyboardInterrupt):
        evaluate(slow)


def kill(slow: Recipe, begun: Callable[[], bool]) -> None:
    driver = multiprocessing.get_context("spawn").Process(target=evaluate, args=(slow,))
    driver.start()
    while not begun() and driver.is_alive():
        time.sleep(0.1)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.join()
    psutil.wait_procs(family, timeout=60)  # its workers may still write


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("end", [interrupt, pytest.param(kill, marks=pytest.mark.long)])
def test_an_evaluation_that_is_ended_goes_on_where_it_was(
    tmp_path: Path, end: Callable[[Recipe, Callable[[], bool]], None]
) -> None:
    slow = measuring(tmp_path, {"latency_s": 0.7, "rows_in_flight": 2})
    folder = RunFolder(slow.run_folder)
    end(slow, lambda: folder.count("evaluate/model/asked") >= 3)
    kept = answers(folder)
    assert 3 <= len(kept) < 14

    evaluate(measuring(tmp_path))
    ended = answers(folder)
    assert {number: ended[number] for number in kept} == kept
    assert len(ended) == 14  # twelve of IFEval and two solutions, of which
    assert len({row.query for row in ended.values()}) == 14
    assert all(asked(tmp_path)[number] == 1 for number in kept)  # those in flight alone were lost
    assert {row.outcome for row in ended.values()} == {"answered"}
    assert folder.read_json("ledger.json")["evaluate/model/asked"]["outcomes"] == {"answered": 14}

    found = read_results(folder, "evaluation", "model")
    assert found["n-samples"]["ifeval"] == {"original": 12, "effective": 12}
    args = {"model": "simulated", "adapter": None}
    assert found["config"] == {"model": "simulated", "model_args": args, "failed": 0, "cut_off": 0}
    weighed = [row.logprob or 0.0 for row in ended.values() if row.continuation is not None]
    assert found["results"]["gsm8k_solutions"]["loglikelihood,none"] == pytest.approx(sum(weighed) / 2)
    before = asked(tmp_path)
    evaluate(measuring(tmp_path))
    assert asked(tmp_path) == before


def answers(folder: RunFolder) -> dict[int, Asked]:
    batches = folder.read_tables("evaluate/model/asked")
    return {row["id"]: Asked.model_validate(row) for batch in batches for row in batch.to_pylist()}


def test_where_the_policy_is_measured_it_is_before_its_trainings_and_after_each(tmp_path: Path) -> None:
    made = measuring(tmp_path)
    whole = parse_recipe(made.model_dump(mode="json") | {"policy": {"model": "packaged"}, "align": {"iterations": 2}})
    steps = plan(whole, RunFolder(str(tmp_path / "run")))
    assert [step.name for step in steps] == [
        "ingest", "synthesize", "export", "benchmarks/asked", "evaluate/start/asked", "sft",
        "round-1/synthesize", "round-1/export", "evaluate/sft/asked", "round-1/dpo",
        "round-2/synthesize", "round-2/export", "evaluate/round-1/asked", "round-2/dpo",
        "evaluate/round-2/asked", "evaluation", "model",
    ]  # fmt: skip
    by_name = {step.name: step for step in steps}
    assert [source.name for source in by_name["evaluate/round-1/asked"].inputs.values()] == [
        "benchmarks/asked",
        "round-1/dpo",
    ]
    assert [source.name for source in by_name["model"].inputs.values()] == ["round-2/dpo", "evaluation"]
    assert [step.name for step in following(by_name["round-2/dpo"], steps)] == [
        "evaluate/round-2/asked", "evaluation", "model",
    ]  # fmt: skip


def test_a_server_that_cannot_weigh_answers_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    made = measuring(tmp_path).model_dump(mode="json")
    made["pools"] = {"m": {"engine": "openai", "model": "x", "base_url": "http://127.0.0.1:1/v1"}}
    with pytest.raises(RecipeError, match=r"pool 'm': the chat API .* use a vllm pool"):
        evaluate(parse_recipe(made))


def test_the_docs_list_the_benchmarks_and_each_goes_the_way_of_its_kind() -> None:
    table = Path("docs/evaluation.md").read_text().partition("| benchmark |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {*local_tasks(), *PART_OF}
    assert {name for name, part in PART_OF.items() if part == "judged"} == set(BENCHMARKS)
    assert not set(local_tasks()) & set(PART_OF)


@pytest.mark.usefixtures("no_ray")
def test_benchmarks_of_all_kinds_are_measured_in_one_evaluation(tmp_path: Path) -> None:
    benchmarks = {
        "followbench": files.followbench(tmp_path),
        "multi_if": files.multi_if(tmp_path),
        "ifeval": written(tmp_path / "ifeval.jsonl", IFEVAL),
    }
    made = measuring(tmp_path, benchmarks=benchmarks, max_tokens=9)
    folder = evaluate(made)
    found = read_results(folder, "evaluation", "model")
    assert set(found["results"]) == set(benchmarks)
    assert "hsr,none" in found["results"]["followbench"]
    assert "turn_1,none" in found["results"]["multi_if"]
    assert found["config"]["counts"]["followbench"]["failed"] == found["config"]["failed"] == 0
    judge = found["config"]["judge"]
    assert (judge["model"], judge["how"]) == ("simulated", "rationale")
    assert judge["responder"] == {"temperature": 0.0, "max_tokens": 9}
    ledger = folder.read_json("ledger.json")
    parts = ("asked", "judged", "turns")
    assert list(ledger) == [*(f"benchmarks/{one}" for one in parts), *(f"evaluate/model/{one}" for one in parts)]
    assert "judge" in ledger["evaluate/model/judged"]["tokens"]
    assert set(read_samples(folder, "evaluation", "model")) == set(benchmarks)
    lines = (tmp_path / "run/evaluation/table.md").read_text().splitlines()
    assert lines[0] == "| benchmark | metric | prompts | model |"
    assert "<svg" in (tmp_path / "run/evaluation/plot.svg").read_text()


def test_a_benchmark_that_is_read_from_a_file_alone_wants_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="benchmark 'infobench' has no file: name a file"):
        evaluate(measuring(tmp_path, benchmarks={"infobench": None}))
