"""lm-eval over rows: what it asks, and what it makes of answers."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.benchmarks import GSM8K, IFEVAL, written
from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.evaluate.given import Given, answers_in_order
from ultraif_ray.evaluate.lm import OverEngines, answers_by_id, load_tasks, local_tasks, requests_of, score
from ultraif_ray.records import Asked, Failure, Response

ANSWERS = ["Fog is thick, and grey.", "*Rain falls.\nP.S. It is wet.", "Hail is ice, abcdefghijklmnopqrstuvwxyz."]
"""To `IFEVAL`: the first has a comma, the second needs nothing removed, the third has every letter."""


def ifeval(tmp_path: Path) -> dict[str, str | None]:
    return {"ifeval": written(tmp_path / "ifeval.jsonl", IFEVAL)}


def gsm8k(tmp_path: Path, *names: str) -> dict[str, str | None]:
    return dict.fromkeys(names, written(tmp_path / "gsm8k.jsonl", GSM8K))


def given(*texts: str) -> Any:
    return answers_in_order([Given(text, "") for text in texts])


def figures(results: dict[str, Any], task: str) -> dict[str, float]:
    found = results["results"][task]
    return {key: value for key, value in found.items() if "," in key and "_stderr" not in key}


def test_answers_to_ifeval_get_the_verdicts_of_its_checkers(tmp_path: Path) -> None:
    results = score(load_tasks(ifeval(tmp_path)), given(*ANSWERS))
    assert figures(results, "ifeval") == {
        "prompt_level_strict_acc,none": 2 / 3,
        "inst_level_strict_acc,none": 3 / 4,
        "prompt_level_loose_acc,none": 2 / 3,
        "inst_level_loose_acc,none": 3 / 4,
    }
    sample = results["samples"]["ifeval"][1]
    assert sample["inst_level_strict_acc"] == [True, True]
    assert (sample["doc"]["key"], sample["resps"], sample["filter"]) == (2, [[ANSWERS[1]]], "none")


def test_a_letter_that_is_none_is_drawn_the_same_each_time_and_nobody_elses_draws_change(tmp_path: Path) -> None:
    alike = [IFEVAL[2] | {"prompt": f"{IFEVAL[2]['prompt']} {number}"} for number in range(12)]
    tasks = load_tasks({"ifeval": written(tmp_path / "alike.jsonl", alike)})
    random.seed(11)
    expected = random.random()
    random.seed(11)
    samples = score(tasks, given(*["defghijklmnop"] * 12))["samples"]["ifeval"]  # half of all letters
    assert random.random() == expected
    assert len({sample["prompt_level_strict_acc"] for sample in samples}) == 1


def test_what_is_asked_is_the_chat_with_the_tasks_own_bounds(tmp_path: Path) -> None:
    benchmarks = ifeval(tmp_path) | gsm8k(tmp_path, "gsm8k", "gsm8k_solutions")
    rows = list(requests_of(load_tasks(benchmarks)))
    assert len(rows) == len({row.id for row in rows}) == len(IFEVAL) + 2 * len(GSM8K)
    by_source = {row.source: row for row in rows}
    first = by_source["ifeval:0"]
    assert (first.query, first.history, first.stop) == (IFEVAL[0]["prompt"], [], [])
    assert (first.max_tokens, first.temperature, first.continuation) == (1280, 0.0, None)
    solved, solution = by_source["gsm8k:1"], by_source["gsm8k_solutions:1"]
    assert solved.query == solution.query == f"Question: {GSM8K[1]['question']}\nAnswer:"
    assert (solved.stop, solved.max_tokens) == (["Question:", "</s>", "<|im_end|>"], 256)
    assert (solution.continuation, solved.continuation) == (GSM8K[1]["answer"], None)
    assert list(requests_of(load_tasks(benchmarks))) == rows


def test_a_limit_and_a_bound_of_tokens_hold_for_every_task(tmp_path: Path) -> None:
    tasks = load_tasks(ifeval(tmp_path) | gsm8k(tmp_path, "gsm8k", "gsm8k_solutions"), max_tokens=7)
    rows = list(requests_of(tasks, limit=1))
    assert [row.source for row in rows] == ["ifeval:0", "gsm8k:0", "gsm8k_solutions:0"]
    assert [row.max_tokens for row in rows if row.continuation is None] == [7, 7]
    answered = {row.id: row.model_copy(update={"response": Response(text="#### 5"), "logprob": -2.0}) for row in rows}
    results = score(tasks, answers_by_id(answered), limit=1)
    assert {task: one["effective"] for task, one in results["n-samples"].items()} == dict.fromkeys(tasks["tasks"], 1)


def test_what_two_tasks_ask_alike_is_asked_once(tmp_path: Path) -> None:
    tasks = load_tasks(ifeval(tmp_path))
    again = load_tasks(ifeval(tmp_path))
    tasks["tasks"]["again"] = again["tasks"]["ifeval"]
    rows = list(requests_of(tasks))
    assert len(rows) == len(IFEVAL)
    answered = {row.id: row.model_copy(update={"response": Response(text="Fog.")}) for row in rows}
    assert len(score(tasks, answers_by_id(answered))["samples"]) == 2


def test_repeated_samples_are_asked_apart(tmp_path: Path) -> None:
    tasks = load_tasks(ifeval(tmp_path))
    (task,) = tasks["tasks"].values()
    task.set_config(key="repeats", value=3)
    assert len(list(requests_of(tasks))) == len(IFEVAL)  # at temperature 0 they would be the same
    task.set_config(key="generation_kwargs", value={"do_sample": True, "temperature": 0.5, "top_p": 0.9, "until": "Q"})
    rows = list(requests_of(tasks))
    assert len({row.id for row in rows}) == 3 * len(IFEVAL)
    assert {(row.temperature, row.top_p, *row.stop) for row in rows} == {(0.5, 0.9, "Q")}


def test_gsm8k_takes_the_number_behind_the_signs_or_the_last_one(tmp_path: Path) -> None:
    results = score(load_tasks(gsm8k(tmp_path, "gsm8k")), given("She has 5.\n#### 5", "So there are 12 pages."))
    assert figures(results, "gsm8k") == {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 1.0}


def test_solutions_are_weighed_in_bits_per_byte(tmp_path: Path) -> None:
    import math

    tasks = load_tasks(gsm8k(tmp_path, "gsm8k_solutions"))
    logprobs = dict(zip([one["answer"] for one in GSM8K], (-10.0, -30.0), strict=True))

    def answer(rows: list[Asked]) -> list[Asked]:
        return [row.model_copy(update={"logprob": logprobs[row.continuation or ""], "greedy": False}) for row in rows]

    total = sum(len(one["answer"].encode()) for one in GSM8K)
    expected = {"loglikelihood,none": -20.0, "bits_per_byte,none": pytest.approx(40 / total / math.log(2))}
    assert figures(score(tasks, answer), "gsm8k_solutions") == expected


def test_a_request_that_failed_counts_as_wrong_where_it_was_to_be_answered_and_ends_it_where_weighed(
    tmp_path: Path,
) -> None:
    def failing(rows: list[Asked]) -> list[Asked]:
        failure = Failure(stage="responder", kind="RequestRefused", reason="too long")
        return [row.model_copy(update={"failures": [failure], "outcome": "failed"}) for row in rows]

    assert set(figures(score(load_tasks(ifeval(tmp_path)), failing), "ifeval").values()) == {0.0}
    with pytest.raises(RecipeError, match="2 of 2 continuations have no probability: too long"):
        score(load_tasks(gsm8k(tmp_path, "gsm8k_solutions")), failing)


def test_what_cannot_be_asked_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not read from a file; gsm8k, "):
        load_tasks({"arc_easy": "some.jsonl"})
    with pytest.raises(InputError, match=r"benchmark 'ifeval': .*nowhere"):
        load_tasks({"ifeval": str(tmp_path / "nowhere.jsonl")})
    with pytest.raises(InputError, match=r"benchmark 'ifeval': .*: no prompt, instruction_id_list, kwargs: "):
        load_tasks({"ifeval": gsm8k(tmp_path, "gsm8k")["gsm8k"]})
    with pytest.raises(RecipeError, match="perplexity of whole texts"):
        OverEngines(given()).loglikelihood_rolling([])
    with pytest.raises(RecipeError, match="gen_prefix"):
        OverEngines(given()).apply_chat_template([], add_generation_prompt=False)


def test_each_task_over_a_file_is_named_as_its_file() -> None:
    assert {"ifeval", "gsm8k", "gsm8k_solutions"} <= set(local_tasks())


@pytest.mark.long  # lm-eval reads all of its thousands of task files
def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match="there is no benchmark 'nothing_like_it', here or in lm-eval"):
        load_tasks({"nothing_like_it": None})
