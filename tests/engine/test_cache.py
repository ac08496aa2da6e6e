from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from ultraif_ray.engine.cache import made_once


def test_of_several_that_come_at_once_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    begun, go_on = Event(), Event()
    made: list[Path] = []

    def make(folder: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        assert not target.exists()  # whole, or not at all
        (folder / "file").write_text(str(len(made)))
        made.append(folder)

    target = tmp_path / "cache/it"
    with ThreadPoolExecutor(3) as several:
        waiting = [several.submit(made_once, target, make) for _ in range(3)]
        assert begun.wait(60)
        go_on.set()
    assert {done.result() for done in waiting} == {target}
    assert made_once(target, make) == target
    assert ((target / "file").read_text(), len(made)) == ("0", 1)


def test_what_fails_half_way_leaves_nothing_and_is_made_the_next_time(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("no space")

    target = tmp_path / "it"
    with pytest.raises(OSError, match="no space"):
        made_once(target, fail)
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []
    made_once(target, lambda folder: None)
    assert target.is_dir()
