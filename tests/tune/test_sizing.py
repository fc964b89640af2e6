"""A GPU's slot finds out how many trials pay."""

import itertools
from collections.abc import Callable

import pytest

from sae_sweep.kernels.fused.memory import Memory
from sae_sweep.tune.sizing import Observed, Sizing

BASE, EACH = 1_000, 100


def taking(step: int, table: int = 0, joining: int = 0) -> Memory:
    return Memory(table=table, module=0, step=step, joining=joining)


def settle(seconds: Callable[[int], float], memory: int, estimate: int = EACH) -> list[int]:
    """Observe a slot that always fills up, until it stays; returns the sizes it went through."""
    sizing = Sizing(taking(estimate), memory)
    sizes = [sizing.members]
    for _ in range(20):
        m = sizes[-1]
        sizes.append(sizing.observe(Observed(m, seconds(m), BASE + m * EACH)))
    assert len(set(sizes[-5:])) == 1
    return [size for size, _ in itertools.groupby(sizes)]


def test_doubles_while_a_launch_is_what_a_step_costs() -> None:
    assert settle(lambda m: 1.0, memory=BASE + 15 * EACH) == [1, 2, 4, 8, 12]
    assert settle(lambda m: 1.0, memory=10 * (BASE + 64 * EACH))[:6] == [1, 2, 4, 8, 16, 32]


def test_stops_where_the_device_is_full_of_work() -> None:
    assert settle(lambda m: max(8.0, m), memory=10**9) == [1, 2, 4, 8, 16, 8]


def test_one_at_a_time_where_together_is_no_faster() -> None:
    assert settle(lambda m: float(m), memory=10**9) == [1, 2, 1]


@pytest.mark.parametrize("estimate", [EACH // 10, EACH, 10 * EACH])
def test_memory_is_what_was_measured_once_it_was(estimate: int) -> None:
    room = 10
    memory = round((BASE + room * EACH) / 0.9) + 1
    sizes = settle(lambda m: 1.0, memory, estimate)
    assert sizes == ([1] if estimate > EACH * 9 else [1, 2, 4, 8, 10])


def test_steps_of_another_number_of_trials_say_nothing() -> None:
    sizing = Sizing(taking(EACH), 10**9)
    assert sizing.observe(Observed(3, 1.0, BASE)) == 1


def test_a_table_that_grows_is_there_twice() -> None:
    memory = round((BASE + 3 * EACH) / 0.9) + 1
    # two more would fit beside one, but not while the first one's table is copied
    sizing = Sizing(taking(0, table=EACH), memory)
    assert sizing.observe(Observed(1, 1.0, BASE + EACH)) == 2
    assert sizing.observe(Observed(2, 1.0, BASE + 2 * EACH)) == 2
    # a trial that takes more for a moment while it joins does not join
    assert Sizing(taking(EACH, joining=9 * EACH), memory).observe(Observed(1, 1.0, BASE)) == 1


def test_a_slot_that_ran_out_of_memory_stays_at_what_it_held() -> None:
    sizing = Sizing(taking(EACH), 10**9)
    assert sizing.observe(Observed(1, 1.0, BASE)) == 2
    assert sizing.limit(1) == 1
    assert sizing.observe(Observed(1, 1.0, BASE)) == 1
    assert sizing.settled
