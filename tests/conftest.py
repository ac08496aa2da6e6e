"""Settings for every test. Ray and vLLM are started once each and shared by the tests that want them."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# First calls import lazily; a shared machine is slow now and then. No test asserts a time.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests that run pipelines, with more logical CPUs than the machine has."""
    import ray

    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def packaged_model() -> str:
    """The folder of the small real model."""
    from ultraif_ray.engine.models import resolve_model

    return resolve_model("packaged")
