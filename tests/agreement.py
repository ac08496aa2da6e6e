"""Whether IFEval, as scored here, agrees with what is known of Google's GPT-4 answers: `make agreement DATA=FOLDER`.

Prompts and answers are others' work and are not shipped. The folder holds them as their authors named them in
`instruction_following_eval/data` of google-research/google-research: `input_data.jsonl` and
`input_response_data_gpt4_20231107_145030.jsonl`.
"""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from ultraif_ray.api import score_answers

PROMPTS, ANSWERS = "input_data.jsonl", "input_response_data_gpt4_20231107_145030.jsonl"

METRICS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")

EXPECTED = (76.89, 83.57, 79.67, 85.61)
"""In per cent, by `ultraif evaluate`."""

PUBLISHED = (76.9, 83.6, 79.3, 85.4)
"""By the authors (arXiv 2311.07911). Two verdicts hang on letters that their checker draws."""

AS_PUBLISHED = 7
"""A seed of these draws, other than ours, with which all four are as published."""


def scored_here(prompts: Path, answers: Path) -> list[float]:
    """The figures of `ultraif evaluate --answers`, in per cent."""
    with tempfile.TemporaryDirectory() as folder:
        found = score_answers(str(answers), "ifeval", str(prompts), run=folder).results["results"]["ifeval"]
    return [100 * found[f"{metric},none"] for metric in METRICS]


def scored_with_another_draw(prompts: Path, answers: Path) -> list[float]:
    """The same of lm-eval's checkers alone, under `AS_PUBLISHED`."""
    from lm_eval.tasks.ifeval.utils import process_results

    verdicts: dict[str, list[bool]] = {metric: [] for metric in METRICS}
    for prompt, answer in zip(_lines(prompts), _lines(answers), strict=True):
        random.seed(AS_PUBLISHED)
        for metric, value in process_results(prompt, [answer["response"]]).items():
            verdicts[metric] += value if isinstance(value, list) else [value]
    return [100 * sum(some) / len(some) for some in verdicts.values()]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def main() -> None:
    """Compare, and end with 1 where they differ, with 2 where a file is missing."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    files = [folder / name for name in (PROMPTS, ANSWERS)] if folder else []
    if len([file for file in files if file.exists()]) < 2:
        print(f"name the folder that holds {PROMPTS} and {ANSWERS}: make agreement DATA=FOLDER")
        sys.exit(2)
    ours = [round(value, 2) for value in scored_here(*files)]
    theirs = [round(value, 1) for value in scored_with_another_draw(*files)]
    for metric, *compared in zip(METRICS, EXPECTED, ours, PUBLISHED, theirs, strict=True):
        expected, found, published, drawn = compared
        print(f"{metric:24} expected {expected:5.2f} found {found:5.2f}; published {published} found {drawn}")
    sys.exit(not (tuple(ours) == EXPECTED and tuple(theirs) == PUBLISHED))


if __name__ == "__main__":
    main()
