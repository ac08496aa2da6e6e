"""What an evaluation leaves."""

import json
from pathlib import Path

from tests.evaluate.benchmarks import IFEVAL, written
from tests.evaluate.test_lm import ANSWERS, given
from ultraif_ray.evaluate.lm import load_tasks, score
from ultraif_ray.evaluate.results import read_results, read_samples, write_results
from ultraif_ray.evaluate.statistics import estimates_of
from ultraif_ray.store.folder import RunFolder


def test_the_files_are_those_of_lm_eval(tmp_path: Path) -> None:
    results = score(load_tasks({"ifeval": written(tmp_path / "ifeval.jsonl", IFEVAL)}), given(*ANSWERS))
    folder = RunFolder(str(tmp_path / "run"))
    write_results(results, folder, "evaluation", "model")
    (kept,) = (tmp_path / "run/evaluation/model").glob("results_*.json")
    found = json.loads(kept.read_text())
    assert found == read_results(folder, "evaluation", "model")
    assert found["results"] == results["results"]
    assert {"configs", "versions", "n-shot", "n-samples", "higher_is_better", "date", "lm_eval_version"} <= set(found)
    assert "samples" not in found
    (samples,) = (tmp_path / "run/evaluation/model").glob("samples_ifeval_*.jsonl")
    first = json.loads(samples.read_text().splitlines()[0])
    assert json.loads(first["arguments"]["gen_args_0"]["arg_0"]) == [{"role": "user", "content": IFEVAL[0]["prompt"]}]
    assert first["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 1280
    assert (first["resps"], first["prompt_level_strict_acc"]) == ([[ANSWERS[0]]], False)
    again = read_samples(folder, "evaluation", "model")
    assert estimates_of(again["ifeval"])["inst_level_strict_acc,none"].value == 0.75


def test_a_line_break_that_is_none_in_json_lines_breaks_nothing(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.write_text(json.dumps({"doc": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", "samples_a_b_2026-11-28.jsonl")
    assert read_samples(folder) == {"a_b": [{"doc": "a\u2028b\x85c"}]}


def test_there_are_no_results_where_nothing_was_written(tmp_path: Path) -> None:
    assert read_results(RunFolder(str(tmp_path)), "evaluation", "model") == {}
