"""The verdicts of `ifeval.yaml`."""

from typing import Any

from lm_eval.tasks.ifeval import utils

from ultraif_ray.evaluate.verifiable import same_draws


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lm-eval's verdicts, the same each time. Where a prompt wants to be counted what is no letter (`#` and `!`: two
    of the 541), its checker, like the authors', counts a letter that it draws.
    """
    with same_draws():
        return dict(utils.process_results(doc, results))
