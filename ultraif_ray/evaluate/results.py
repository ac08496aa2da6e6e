"""What an evaluation leaves: lm-eval's own files, which its viewers open, and a table."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from lm_eval.utils import handle_non_serializable

from ultraif_ray.store.folder import RunFolder


def write_results(results: Mapping[str, Any], folder: RunFolder, *place: str) -> None:
    """Write `results_DATE.json` and, for each task, `samples_TASK_DATE.jsonl`.

    Args:
        results: what lm-eval made, with the samples by task under `samples`.
        folder: the run's folder.
        place: the folder inside.
    """
    date = datetime.fromtimestamp(results["date"]).isoformat().replace(":", "-")
    folder.write_text(as_json(without_samples(results)), *place, f"results_{date}.json")
    for task, samples in results["samples"].items():
        lines = "".join(_dumped(_flat(sample)) + "\n" for sample in samples)
        folder.write_text(lines, *place, f"samples_{task}_{date}.jsonl")


def read_results(folder: RunFolder, *place: str) -> dict[str, Any]:
    """The results that were written to a folder; empty where there are none."""
    names = [name for name in folder.names(*place) if name.startswith("results_")]
    return folder.read_json(*place, max(names)) if names else {}


def without_samples(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the results that is in the one file."""
    return {key: value for key, value in results.items() if key != "samples"}


def as_json(results: Mapping[str, Any]) -> str:
    """The results as text; what is no JSON in them as lm-eval writes it."""
    return _dumped(results, indent=2) + "\n"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of one or several models in Markdown, a line for each.

    Args:
        results: lm-eval's results by model.
    """
    heads = ("model", "benchmark", "shots", "prompts", "metric", "value", "±")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for model, found in results.items():
        for task, metrics in found["results"].items():
            shots, prompts = found["n-shot"].get(task, 0), found["n-samples"].get(task, {}).get("effective", "")
            for name, value, error in _figures(metrics):
                lines.append(f"| {model} | {task} | {shots} | {prompts} | {name} | {value:.4f} | {error} |")
    return "\n".join(lines) + "\n"


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Name, value and standard error of each metric: lm-eval's keys are `name,filter` and `name_stderr,filter`."""
    for key, value in metrics.items():
        name, _, way = key.partition(",")
        if not way or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{name}_stderr,{way}")
        yield name if way == "none" else f"{name} ({way})", value, f"{error:.4f}" if isinstance(error, float) else ""


def _flat(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as lm-eval writes it: `datasets` reads no lists of lists of several types."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(one)} for i, one in enumerate(sample["arguments"])
    }
    return {**sample, "arguments": arguments, "target": str(sample["target"])}


def _dumped(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=handle_non_serializable, ensure_ascii=False)
