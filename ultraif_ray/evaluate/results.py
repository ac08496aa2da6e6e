"""What an evaluation leaves: lm-eval's own files, which its viewers open."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lm_eval.utils import handle_non_serializable

from ultraif_ray.evaluate.judged import Scored
from ultraif_ray.evaluate.statistics import Sample
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


def read_samples(folder: RunFolder, *place: str) -> dict[str, list[Sample]]:
    """The samples that were written to a folder, by benchmark."""
    found = {}
    for name in sorted(folder.names(*place)):
        if name.startswith("samples_"):
            benchmark = name.removeprefix("samples_").rpartition("_")[0]
            text = folder.fs.cat_file(folder.at(*place, name)).decode("utf-8")
            found[benchmark] = [json.loads(line) for line in text.split("\n") if line]
    return found


def without_samples(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the results that is in the one file."""
    return {key: value for key, value in results.items() if key != "samples"}


def as_json(results: Mapping[str, Any]) -> str:
    """The results as text; what is no JSON in them as lm-eval writes it."""
    return _dumped(results, indent=2) + "\n"


def _flat(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as lm-eval writes it: `datasets` reads no lists of lists of several types."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(one)} for i, one in enumerate(sample["arguments"])
    }
    return {**sample, "arguments": arguments, "target": str(sample["target"])}


def _dumped(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=handle_non_serializable, ensure_ascii=False)


def add_scored(results: dict[str, Any], name: str, found: Scored) -> None:
    """Put a benchmark that lm-eval does not know beside those that it scored, under its keys."""
    figures = {f"{metric},none": one.value for metric, one in found.estimates.items()}
    count = len(found.samples)
    results["results"][name] = {"alias": name, "sample_len": count, **figures}
    results["samples"][name] = found.samples
    results["n-samples"][name] = {"original": count, "effective": count}
    results["n-shot"][name] = 0
    results["config"].setdefault("counts", {})[name] = found.counts
