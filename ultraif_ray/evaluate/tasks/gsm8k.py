"""The figures of `gsm8k_solutions.yaml`."""

from typing import Any


def process_solution(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    """The natural-log probability of a solution, and with it its bytes, for the bits per byte of all."""
    ((logprob, _),) = results
    return {"loglikelihood": logprob, "bits_per_byte": (logprob, len(doc["answer"].encode()))}
