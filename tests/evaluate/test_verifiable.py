import random
from pathlib import Path
from typing import Any

import nltk
import pytest

from tests.evaluate import files
from ultraif_ray.errors import InputError
from ultraif_ray.evaluate import verifiable
from ultraif_ray.evaluate.given import Given, answers_in_order
from ultraif_ray.evaluate.lm import load_tasks, score
from ultraif_ray.evaluate.verifiable import Verified, process_ifbench, process_livebench, verify

COMMA, CAPITALS, BULLETS = (
    "punctuation:no_comma",
    "change_case:english_capital",
    "detectable_format:number_bullet_lists",
)
RANGE, VERB = "count:word_count_range", "words:start_verb"


def test_instructions_of_either_benchmark_are_verified_in_their_order() -> None:
    found = verify("It rains, today.", [COMMA, RANGE, COMMA], [{}, {"min_words": 2, "max_words": 5}, {}], "Say it.")
    assert found == Verified([False, True, False], [False, True, False])


def test_loosely_an_answer_may_have_a_line_before_it() -> None:
    answer = "Sure, here it is:\nIt rains today.\nBye."
    assert verify(answer, [COMMA], [{}], "Say it.") == Verified([False], [True])
    assert verify(answer, [RANGE], [{"min_words": 4, "max_words": 4}], "Say it.") == Verified([False], [True])


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_empty_answer_follows_nothing(answer: str) -> None:
    assert verify(answer, [COMMA, RANGE], [{}, {"min_words": 0, "max_words": 9}], "x") == Verified(
        [False] * 2, [False] * 2
    )


def test_the_same_answer_has_the_same_verdicts_each_time() -> None:
    answer = "abcdefghijklm"
    given = [{"letter": "#", "let_frequency": 1, "let_relation": "at least"}]  # no letter: one is drawn
    found = []
    for seed in range(12):
        random.seed(seed)
        found.append(verify(answer, ["keywords:letter_frequency"], given, "x"))
        assert random.random() == random.Random(seed).random()  # whoever draws besides is not disturbed
    assert all(one == found[0] for one in found)


def test_a_prompt_that_cannot_be_scored_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    tagger = verifiable.WANTS[VERB]
    find = nltk.data.find

    def without_it(resource: str, *paths: Any) -> Any:
        if resource == tagger:
            raise LookupError(resource)
        return find(resource, *paths)

    monkeypatch.setattr(nltk.data, "find", without_it)
    doc = {"instruction_id_list": [COMMA, VERB], "kwargs": [{}, {}], "prompt": "Say it."}
    why = "NLTK's taggers/averaged_perceptron_tagger_eng is not installed"
    for answer in ("Go on.", ""):  # whatever the answer, so that each model has the same prompts
        assert process_ifbench(doc, [answer]) == {"unscored": why}
    scored = process_ifbench(doc | {"instruction_id_list": [COMMA, COMMA]}, ["Go on."])
    assert verifiable.count_unscored([scored["unscored"], why]) == 1


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [(["new:kind"], [{}], "no checker is called new:kind"), ([COMMA], [], "1 instructions have 0 sets of arguments")],
)
def test_what_has_no_checker_is_refused(names: list[str], arguments: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify("x", names, arguments, "Say it.")


@pytest.mark.parametrize(
    ("answer", "score"),
    [("It rains.", 1.0), ("It, rains.", 0.25), ("It, rains, it pours and pours.", 0.0), ("", 0.0),
     ("It, it, it.\n<solution>It rains.</solution>", 1.0), ("<solution>It, rains.</solution>", 0.25)],
)  # fmt: skip
def test_livebench_takes_the_mean_of_all_and_of_the_share(answer: str, score: float) -> None:
    limits = {"num_words": 5, "relation": "less than"}
    doc = {
        "instruction_id_list": [COMMA, "length_constraints:number_words"],
        "kwargs": [{}, limits],
        "turns": ["Say it."],
    }
    assert process_livebench(doc, [answer])["score"] == score


def test_the_task_files_run_in_lm_eval(tmp_path: Path) -> None:
    unset = {"min_words": None, "max_words": None}
    asked = {"instruction_id_list": [RANGE, COMMA], "kwargs": [{"min_words": 1, "max_words": 3}, unset]}
    ifbench = files.lines(tmp_path / "ifbench.jsonl", *({"key": word, "prompt": word} | asked for word in ("a", "b")))
    livebench = files.lines(
        tmp_path / "live.jsonl",
        *({"question_id": word, "turns": [word], "task": "story"} | asked for word in ("a", "b")),
    )
    tasks = load_tasks({"ifbench": ifbench, "livebench_if": livebench})
    found = score(tasks, answers_in_order([Given(text, "") for text in ("It, rains.", "") * 2]))
    assert "unscored" not in found
    results = found["results"]
    assert results["livebench_if"]["score,none"] == pytest.approx((0.25 + 0) / 2)
    for name in results:
        assert results[name]["inst_level_strict_acc,none"] == pytest.approx(1 / 4)
        assert (results[name]["prompt_level_loose_acc,none"], results[name]["unscored,none"]) == (0.0, 0)


def test_prompts_that_were_not_scored_are_named_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verifiable.WANTS, RANGE, "corpora/nothing")
    asked = [
        {"key": "a", "prompt": "a", "instruction_id_list": [RANGE], "kwargs": [{"min_words": 1, "max_words": 3}]},
        {"key": "b", "prompt": "b", "instruction_id_list": [COMMA], "kwargs": [{"min_words": None, "max_words": None}]},
    ]
    tasks = load_tasks({"ifbench": files.lines(tmp_path / "ifbench.jsonl", *asked)})
    found = score(tasks, answers_in_order([Given("It rains.", "")] * 2))
    assert found["unscored"] == {"ifbench": {"a": "NLTK's corpora/nothing is not installed"}}
    figures = found["results"]["ifbench"]
    assert (figures["prompt_level_strict_acc,none"], figures["unscored,none"]) == (1.0, 1)
