"""Work beside the driver's."""

import os
import time
from pathlib import Path

import psutil
import pytest

from ultraif_ray.errors import InputError
from ultraif_ray.flow.background import in_background

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_its_result_is_waited_for_and_its_error_is_the_works_own() -> None:
    def refuse() -> None:
        raise InputError("there is no such file\nof this name")

    with in_background(os.getpid) as result, in_background(refuse) as refused:
        assert result() != os.getpid()
        with pytest.raises(InputError, match=r"^there is no such file\nof this name$"):
            refused()


def test_it_ends_with_the_block(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "begun").write_text(str(os.getpid()))
        (tmp_path / "begun").rename(tmp_path / "pid")
        time.sleep(600)

    with in_background(work):
        while not (tmp_path / "pid").exists():
            time.sleep(0.1)
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
    worker.wait(60)
