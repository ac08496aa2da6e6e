"""Answers that code can verify, by the checkers of those who made them: IFEval's as lm-eval has them, IFBench's as
if-verifiable has them. Nothing is downloaded, and the same answer gets the same verdicts every time.

The functions at the end are named by the task files in `tasks/`.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.punkt import prepare_checkers

WANTS = {
    "words:start_verb": "taggers/averaged_perceptron_tagger_eng",
    "ratio:stop_words": "corpora/stopwords",
}
"""NLTK data that single checkers of IFBench need; a prompt with one whose data is not here cannot be scored."""


SEED = 3
"""Of what checkers draw. Any would do; with this one Google's GPT-4 answers to IFEval score 76.89 / 83.57 / 79.67 /
85.61 (strict by prompt and by instruction, loose by prompt and by instruction), whose strict half is as published."""


@dataclass(frozen=True)
class Verified:
    """Which of a prompt's instructions an answer follows, in their order.

    `loose` also tries the answer without its first line, its last line and its asterisks, and takes the best of each
    (IFEval, section 2.2). `unscored` says why the prompt cannot be scored; the lists are empty then.
    """

    strict: list[bool]
    loose: list[bool]
    unscored: str = ""


def verify(answer: str, instructions: Sequence[str], arguments: Sequence[dict[str, Any]], prompt: str) -> Verified:
    """Verify an answer. An empty one follows nothing.

    Args:
        answer: the answer, without thoughts.
        instructions: names of IFEval's or IFBench's instructions, such as `punctuation:no_comma`.
        arguments: the arguments of each, by the authors' names; None, and what is left out, is not set.
        prompt: what was answered.

    Raises:
        InputError: an instruction that neither has, or not as many arguments as instructions.
        RecipeError: a package of the extra `eval`, or NLTK's trained Punkt, is not installed.
    """
    if len(arguments) != len(instructions):
        raise InputError(f"{len(instructions)} instructions have {len(arguments)} sets of arguments: {prompt[:80]!r}")
    ifeval, ifbench = _ifeval(), _ifbench()
    if unknown := [name for name in instructions if name not in ifeval and name not in ifbench]:
        raise InputError(f"no checker is called {unknown[0]}; those of IFEval and IFBench are known: {prompt[:80]!r}")
    if missing := [WANTS[name] for name in instructions if name in WANTS and not _nltk_has(WANTS[name])]:
        return Verified([], [], f"NLTK's {missing[0]} is not installed")
    one_by_one = [_follows(answer, *one, prompt) for one in zip(instructions, arguments, strict=True)]
    return Verified([strict for strict, _ in one_by_one], [loose for _, loose in one_by_one])


def _follows(answer: str, name: str, given: dict[str, Any], prompt: str) -> tuple[bool, bool]:
    """Whether one instruction is followed, strictly and loosely."""
    if name in _ifeval():
        from lm_eval.tasks.ifeval import utils

        asked = utils.InputExample(key=0, instruction_id_list=[name], prompt=prompt, kwargs=[given])
        with same_draws():
            strict = utils.test_instruction_following_strict(asked, answer)
        with same_draws():
            loose = utils.test_instruction_following_loose(asked, answer)
        return strict.follow_all_instructions, loose.follow_all_instructions
    from if_verifiable.common import evaluate_instructions

    with same_draws():
        found, _ = evaluate_instructions(answer, [name], [given], prompt, _ifbench())
    return (found[0].strict_pass, found[0].loose_pass) if found else (False, False)


@contextmanager
def same_draws(seed: int = SEED) -> Iterator[None]:
    """What is drawn is the same each time, and nobody else's draws change. Checkers draw an argument by lot that is not
    set, or that they do not take, such as `#` for a letter.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


# ---- the libraries, offline ------------------------------------------------------------------------------------------


@cache
def _ifeval() -> dict[str, Any]:
    prepare_checkers()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    return dict(INSTRUCTION_DICT)


@cache
def _ifbench() -> dict[str, Any]:
    prepare_checkers()
    with _without_downloads():
        from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT
    return dict(INSTRUCTION_DICT)


@contextmanager
def _without_downloads() -> Iterator[None]:
    """if-verifiable asks for data when it is imported, also for what this machine does without (see `WANTS`)."""
    import nltk

    download, nltk.download = nltk.download, lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download = download


def _nltk_has(resource: str) -> bool:
    import nltk

    try:
        nltk.data.find(resource)
    except LookupError:
        return False
    return True


# ---- for lm-eval's task files ----------------------------------------------------------------------------------------


def process_ifbench(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """What lm-eval keeps of an answer to a prompt of IFBench, by its names for IFEval. Of a prompt that cannot be
    scored it keeps why, and nothing else.
    """
    verified = verify(results[0], doc["instruction_id_list"], doc["kwargs"], doc["prompt"])
    return _metrics(verified)


def process_livebench(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The same for LiveBench's instruction following: its score of a prompt is the mean of whether all was followed
    and of the share that was, strictly.
    """
    answer = _inside_solution(results[0])
    verified = verify(answer, doc["instruction_id_list"], doc["kwargs"], doc["turns"][0])
    metrics = _metrics(verified)
    if verified.unscored:
        return metrics
    return {"score": (all(verified.strict) + sum(verified.strict) / len(verified.strict)) / 2, **metrics}


def _inside_solution(answer: str) -> str:
    """What stands between `<solution>` and `</solution>`, where newer releases of LiveBench ask for the answer; the
    whole where there is no such place.
    """
    _, opened, rest = answer.partition("<solution>")
    inside, closed, _ = rest.partition("</solution>")
    return inside.strip() if opened and closed else answer


def _metrics(verified: Verified) -> dict[str, Any]:
    if verified.unscored:
        return {"unscored": verified.unscored}
    return {
        "prompt_level_strict_acc": all(verified.strict),
        "inst_level_strict_acc": verified.strict,
        "prompt_level_loose_acc": all(verified.loose),
        "inst_level_loose_acc": verified.loose,
        "unscored": "",
    }


def share_followed(items: list[list[bool]]) -> float:
    """The share of all instructions that were followed, each counted alike."""
    every = [followed for prompt in items for followed in prompt]
    return sum(every) / len(every)


def unscored(samples: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Of lm-eval's samples of a task those that could not be scored, by the authors' name for the prompt: why."""
    return {_named(sample): sample["unscored"] for sample in samples if sample.get("unscored")}


def _named(sample: dict[str, Any]) -> str:
    doc = sample["doc"]
    return str(next((doc[field] for field in ("key", "question_id") if field in doc), sample["doc_id"]))


def count_unscored(items: list[str]) -> int:
    """How many prompts could not be scored."""
    return sum(bool(reason) for reason in items)
