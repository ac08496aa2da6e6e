"""Work in a task of Ray's own, while the driver does something else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import ray

from ultraif_ray.flow.graph import unwrap_error

Result = TypeVar("Result")

RETRIES = 3
"""Times that the work is begun again where its node dies."""


@contextmanager
def in_background(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Begin `work` in a process of its own on the cluster; it ends with the block at the latest, done or not.

    Args:
        work: what can go on where it was, since it is begun again where its node dies.

    Yields:
        A function that waits for the end of the work and gives its result, or raises the UltraIFError that ended it.
    """
    reference = ray.remote(num_cpus=0, max_retries=RETRIES)(_call).remote(work)

    def result() -> Result:
        try:
            return ray.get(reference)
        except Exception as error:
            raise unwrap_error(error) from error

    try:
        yield result
    finally:
        ray.cancel(reference, force=True)


def _call(work: Callable[[], Result]) -> Result:
    return work()
