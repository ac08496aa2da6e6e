"""Settings for every test. Ray and vLLM are started once each and shared by the tests that want them."""

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.s3 import Store

# Two lanes on two cores: threads of one lane would wait for those of the other. vLLM and Ray set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # nor spin while they wait
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")  # an actor more for each training, for the dashboard
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one more; the test of a notice has it
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a checkpoint waits for the next look

# First calls import lazily; a shared machine is slow now and then. No test asserts a time.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slowest first and the quick ones last, so that two lanes end together; and that groups hold: a version of
    pytest under which they do not would pass all the same.
    """
    items.sort(key=_quickness)
    for item in items if config.getoption("loadgroup", False) else ():
        group = item.get_closest_marker("xdist_group")
        assert group is None or item.nodeid.endswith(f"@{group.args[0]}"), "pytest-xdist puts no group on one lane"


def _quickness(item: pytest.Item) -> int:
    if item.get_closest_marker("slow"):
        return 0
    return 1 if any(map(item.get_closest_marker, ("ray", "vllm", "browser"))) else 2


NO_BROWSER = "there is no Chromium here: apt-get install chromium"

SKIPS = ("this machine has a GPU", *(() if "CI" in os.environ else (NO_BROWSER,)))
"""Why a test may be skipped: that its subject is not here. A tool or a file that is missing is no reason; only a
browser, which comes with no package of Python's, is one outside CI.
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip for a reason that SKIPS does not list is a failure: else a test goes missing, and nobody sees it."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in SKIPS:
            report.outcome, report.longrepr = "failed", f"skipped for a reason that is not in SKIPS: {reason}"
    return report


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests that run pipelines, with more logical CPUs than the machine has."""
    import ray

    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def no_ray() -> Iterator[None]:
    """What Ray does is done in this process; see `tests.faults.without_ray`."""
    from tests.faults import without_ray

    with without_ray():
        yield


@pytest.fixture(scope="session")
def packaged_model() -> str:
    """The folder of the small real model."""
    from ultraif_ray.engine.models import resolve_model

    return resolve_model("packaged")


@pytest.fixture(scope="session")
def tiny(packaged_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that trains in a moment."""
    from tests.train.data import tiny_model

    return tiny_model(packaged_model, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Store"]:
    """An S3 server, to which the environment of this process leads; see `tests.s3`."""
    from tests.s3 import s3_server

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store
