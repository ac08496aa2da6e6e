import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.flow.suspects import HOPELESS, STARTS_LOST, Gate, Register


def died(register: Register, ids: list[int]) -> tuple[list[list[int]], list[int], bool]:
    """The engine dies with these rows in flight, and they come again."""
    register.engine_died(ids)
    return register.enter(ids)


def lost(register: Register, ids: list[int]) -> tuple[list[list[int]], list[int], bool]:
    """The node is gone with these rows in flight, and they come again."""
    return register.enter(ids)


def test_a_row_that_kills_its_engine_is_ended_and_its_neighbours_go_free() -> None:
    register = Register()
    assert register.enter([1, 2, 3]) == ([], [], False)
    assert died(register, [1, 2, 3]) == ([], [], False)
    assert died(register, [1, 2, 3]) == ([[1, 2, 3]], [], False)
    register.isolate([1, 2, 3])
    assert died(register, [1, 2, 3]) == ([[1], [2], [3]], [], False)
    register.isolate([1])
    register.acquit([1])
    register.isolate([2])
    assert died(register, [1, 2, 3]) == ([], [2], False)
    register.leave([1, 2, 3], 2)
    assert register.enter([2]) == ([], [], False)


def test_nodes_that_are_taken_away_make_nobody_guilty_soon() -> None:
    register = Register()
    register.enter([1])
    for _ in range(3):
        assert lost(register, [1]) == ([], [], False)
    assert lost(register, [1]) == ([[1]], [], False)
    register.isolate([1])
    assert lost(register, [1]) == ([[1]], [], False)
    assert lost(register, [1]) == ([], [1], False)


def test_an_engine_that_dies_whatever_it_is_asked_is_no_rows_fault() -> None:
    register = Register()
    for one in range(HOPELESS):
        register.enter([one])
        assert not died(register, [one])[2]
        died(register, [one])
        register.isolate([one])
        _, convicted, hopeless = died(register, [one])
        assert convicted == [one]
        register.leave([one], 0)
    assert hopeless


def start(register: Register, ends: str) -> str:
    """A worker opens one of four engines; why that is in vain."""
    said = register.starting(("m",), 4)
    if ends == "up":
        register.started(("m",))
    elif ends == "dies":
        register.start_failed(("m",), "no memory")
    return said


def test_an_engine_that_never_comes_up_is_soon_given_up() -> None:
    register = Register()
    said = [start(register, "dies") for _ in range(STARTS_LOST + 1)]
    assert said == [""] * STARTS_LOST + [f"workers died {STARTS_LOST} times while they opened pool m: no memory"]


def test_engines_that_came_up_before_and_nodes_that_go_are_given_more_time() -> None:
    for before, ends in (("up", "dies"), ("", "gone")):
        register = Register()
        if before:
            start(register, before)
        said = [start(register, ends) for _ in range(4 * STARTS_LOST + 2)]
        assert said[:-1] == [""] * (4 * STARTS_LOST + 1)
        assert said[-1].startswith(f"workers died {4 * STARTS_LOST + 1} times")


@given(st.sets(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 2**32))
def test_every_row_ends_and_only_poison_is_convicted(poison: set[int], seed: int) -> None:
    """A worker with blocks of four, whose engine dies of any poisonous row that runs."""
    draw, register = random.Random(seed), Register()
    register.leave([], 1)  # the engine works
    waiting = [list(range(start, start + 4)) for start in range(0, 32, 4)]
    ended: list[int] = []
    while waiting:
        blocks = waiting[: draw.randint(1, 3)]
        ids = [one for block in blocks for one in block]
        verdicts = [register.enter(block) for block in blocks]
        apart = [group for found, _, _ in verdicts for group in found]
        suspects = [one for group in apart for one in group]
        convicted = {one for _, found, _ in verdicts for one in found}
        assert convicted <= poison
        ended += convicted
        dead = bool(poison & set(ids) - set(suspects) - convicted)
        at_work = ids
        for group in apart if not dead else []:
            register.isolate(group)
            if poison & set(group):
                dead, at_work = True, group
                break
            register.acquit(group)
        if dead:
            register.engine_died(at_work)
            continue
        for block in blocks:
            register.leave(block, 4)
        waiting = waiting[len(blocks) :]
    assert set(ended) == poison


async def test_one_runs_alone_and_many_together() -> None:
    gate, running, seen = Gate(), [], []

    async def run(name: str, alone: bool) -> None:
        async with gate.alone() if alone else gate.together():
            running.append(name)
            await asyncio.sleep(0.001)
            seen.append((name, len(running)))
            running.remove(name)

    jobs = [run(f"{'alone' if i % 5 == 0 else 'many'}{i}", i % 5 == 0) for i in range(20)]
    await asyncio.wait_for(asyncio.gather(*jobs), timeout=10)
    assert len(seen) == 20
    assert all(together == 1 for name, together in seen if name.startswith("alone"))
    assert max(together for _, together in seen) > 1
