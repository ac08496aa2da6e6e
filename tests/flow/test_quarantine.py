import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.flow.quarantine import FAILED_STARTS, POISONED_UNTIL_BROKEN, Admission, CrashTracker, Gate


def admitted(tracker: CrashTracker, ids: list[int]) -> Admission:
    """A block comes to a worker, and all of it begins that need not be isolated."""
    admission = tracker.enter(ids)
    apart = {*admission.poisoned, *(number for group in admission.isolated for number in group)}
    tracker.begin([number for number in ids if number not in apart])
    return admission


def died(tracker: CrashTracker, ids: list[int]) -> Admission:
    """The engine dies with these rows in flight, and they come again."""
    tracker.engine_died(ids)
    return admitted(tracker, ids)


def lost(tracker: CrashTracker, ids: list[int]) -> Admission:
    """The node is gone with these rows in flight, and they come again."""
    return admitted(tracker, ids)


def test_a_row_that_kills_its_engine_is_ended_and_its_neighbours_go_free() -> None:
    tracker = CrashTracker()
    assert admitted(tracker, [1, 2, 3]) == Admission()
    assert died(tracker, [1, 2, 3]) == Admission()
    assert died(tracker, [1, 2, 3]) == Admission([[1, 2, 3]])
    tracker.isolate([1, 2, 3])
    assert died(tracker, [1, 2, 3]) == Admission([[1], [2], [3]])
    tracker.isolate([1])
    tracker.clear([1])
    tracker.isolate([2])
    assert died(tracker, [1, 2, 3]) == Admission(poisoned=[2])
    tracker.leave([1, 2, 3], 2)
    assert tracker.enter([2]) == Admission()


def test_nodes_that_are_taken_away_poison_no_row_soon() -> None:
    tracker = CrashTracker()
    admitted(tracker, [1])
    for _ in range(3):
        assert lost(tracker, [1]) == Admission()
    assert lost(tracker, [1]) == Admission([[1]])
    tracker.isolate([1])
    assert lost(tracker, [1]) == Admission([[1]])
    tracker.isolate([1])
    assert lost(tracker, [1]) == Admission(poisoned=[1])


def test_rows_that_wait_for_a_place_are_suspected_at_no_death() -> None:
    tracker = CrashTracker()
    for _ in range(6):
        admission = tracker.enter([1, 2, 3, 4])
        tracker.begin([1])
        tracker.engine_died([1])
    assert admission.isolated == [[1]]


def test_an_engine_that_dies_whatever_it_is_asked_is_no_rows_fault() -> None:
    tracker = CrashTracker()
    for one in range(POISONED_UNTIL_BROKEN):
        admitted(tracker, [one])
        assert not died(tracker, [one]).engine_broken
        died(tracker, [one])
        tracker.isolate([one])
        admission = died(tracker, [one])
        assert admission.poisoned == [one]
        tracker.leave([one], 0)
    assert admission.engine_broken


def start(tracker: CrashTracker, ends: str) -> str:
    """A worker opens one of four engines; why the run should end."""
    said = tracker.starting(("m",), 4)
    if ends == "up":
        tracker.started(("m",))
    elif ends == "dies":
        tracker.start_failed(("m",), "no memory")
    return said


def test_an_engine_that_never_comes_up_is_soon_given_up() -> None:
    tracker = CrashTracker()
    said = [start(tracker, "dies") for _ in range(FAILED_STARTS + 1)]
    assert said == [""] * FAILED_STARTS + [f"workers died {FAILED_STARTS} times while they opened pool m: no memory"]


def test_engines_that_came_up_before_and_nodes_that_go_are_given_more_time() -> None:
    for before, ends in (("up", "dies"), ("", "gone")):
        tracker = CrashTracker()
        if before:
            start(tracker, before)
        said = [start(tracker, ends) for _ in range(4 * FAILED_STARTS + 2)]
        assert said[:-1] == [""] * (4 * FAILED_STARTS + 1)
        assert said[-1].startswith(f"workers died {4 * FAILED_STARTS + 1} times")


@given(st.sets(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 2**32))
def test_every_row_ends_and_only_poison_is_found(poison: set[int], seed: int) -> None:
    """A worker with blocks of four, whose engine dies of any poisonous row that runs."""
    draw, tracker = random.Random(seed), CrashTracker()
    tracker.leave([], 1)  # the engine works
    waiting = [list(range(start, start + 4)) for start in range(0, 32, 4)]
    ended: list[int] = []
    while waiting:
        blocks = waiting[: draw.randint(1, 3)]
        ids = [one for block in blocks for one in block]
        admissions = [admitted(tracker, block) for block in blocks]
        apart = [group for admission in admissions for group in admission.isolated]
        suspects = [one for group in apart for one in group]
        found = {one for admission in admissions for one in admission.poisoned}
        assert found <= poison
        ended += found
        dead = bool(poison & set(ids) - set(suspects) - found)
        at_work = ids
        for group in apart if not dead else []:
            tracker.isolate(group)
            if poison & set(group):
                dead, at_work = True, group
                break
            tracker.clear(group)
        if dead:
            tracker.engine_died(at_work)
            continue
        for block in blocks:
            tracker.leave(block, 4)
        waiting = waiting[len(blocks) :]
    assert set(ended) == poison


async def test_one_runs_alone_and_many_together() -> None:
    gate, running, seen = Gate(), [], []

    async def run(name: str, alone: bool) -> None:
        async with gate.exclusive() if alone else gate.shared():
            running.append(name)
            await asyncio.sleep(0.001)
            seen.append((name, len(running)))
            running.remove(name)

    jobs = [run(f"{'alone' if i % 5 == 0 else 'many'}{i}", i % 5 == 0) for i in range(20)]
    await asyncio.wait_for(asyncio.gather(*jobs), timeout=10)
    assert len(seen) == 20
    assert all(together == 1 for name, together in seen if name.startswith("alone"))
    assert max(together for _, together in seen) > 1
