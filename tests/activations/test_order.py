import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_sweep.activations.order import batch_indices, rows_between


def epoch(seed: int, number: int, n: int) -> list[int]:
    return batch_indices(seed, number, n, n).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 255, 256, 257, 1000, 5978])
@pytest.mark.parametrize("number", [0, 1, 10**6])
def test_an_epoch_visits_every_row_once(n: int, number: int) -> None:
    assert sorted(epoch(0, number, n)) == list(range(n))


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), number=st.integers(0, 2**20))
def test_any_epoch_of_any_size_is_a_permutation(n: int, seed: int, number: int) -> None:
    assert sorted(epoch(seed, number, n)) == list(range(n))


@given(
    n=st.integers(1, 50),
    batch_size=st.integers(1, 120),
    steps=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_batches_are_slices_of_one_sequence_of_epochs(
    n: int, batch_size: int, steps: int, seed: int
) -> None:
    batches = [batch_indices(seed, step, batch_size, n) for step in range(steps)]
    epochs = [epoch(seed, number, n) for number in range(steps * batch_size // n + 1)]
    flat = [index for one in epochs for index in one]
    assert torch.cat(batches).tolist() == flat[: steps * batch_size]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch(seed, number, 1000) for seed in range(5) for number in range(5)]
    for place, one in enumerate(orders):
        for other in orders[:place]:
            agreeing = sum(a == b for a, b in zip(one, other, strict=True))
            assert agreeing < 10  # 1 is expected of independent permutations


def test_every_row_is_equally_likely_at_every_place() -> None:
    n, epochs = 37, 20_000
    orders = batch_indices(0, 0, n * epochs, n).reshape(epochs, n)
    for place in (0, 1, 18, 36):
        counts = torch.bincount(orders[:, place], minlength=n).double()
        chi_squared = float(((counts - epochs / n) ** 2 / (epochs / n)).sum())
        assert chi_squared < 80  # 36 degrees of freedom: exceeded once in 30,000 samples


def test_all_orders_of_four_rows_occur() -> None:
    assert len({tuple(epoch(0, number, 4)) for number in range(600)}) == 24


def test_neighbours_in_the_data_are_not_neighbours_in_training() -> None:
    n = 50_000
    rows = batch_indices(0, 0, n, n).double()
    centred = rows - rows.mean()
    for lag in (1, 2, 16, 223, 224, 225, 256):
        correlation = float((centred[:-lag] * centred[lag:]).mean() / rows.var())
        assert abs(correlation) < 5 / n**0.5


@pytest.mark.slow
@settings(max_examples=40)
@given(
    n=st.integers(1, 200),
    window_rows=st.integers(1, 250),
    cuts=st.lists(st.integers(1, 150), min_size=1, max_size=8),
    seed=st.integers(0, 5),
)
def test_windows_follow_each_other_and_every_epoch_visits_each_row_once(
    n: int, window_rows: int, cuts: list[int], seed: int
) -> None:
    parts, start = [], 0
    for length in cuts:
        parts.append(rows_between(seed, start, start + length, n, window_rows=window_rows))
        start += length
    # however it is cut, it is one sequence
    whole = rows_between(seed, 0, max(start, 2 * n), n, window_rows=window_rows)
    assert torch.equal(torch.cat(parts), whole[:start])
    for number in range(2):
        rows = whole[number * n : (number + 1) * n]
        assert sorted(rows.tolist()) == list(range(n))
        if window_rows < n:
            assert torch.equal(rows // window_rows, torch.arange(n) // window_rows)


def test_a_window_has_an_order_of_its_own_in_every_epoch_and_for_every_seed() -> None:
    first = [
        rows_between(0, 100 * start, 100 * start + 100, 300, window_rows=100) % 100
        for start in range(6)
    ]
    other = rows_between(1, 0, 100, 300, window_rows=100)
    orders = {tuple(one.tolist()) for one in [*first, other]}
    assert len(orders) == 7


def test_a_set_of_one_window_has_the_order_that_it_has_without_windows() -> None:
    for window_rows in (300, 301):
        windowed = batch_indices(3, 5, 64, 300, window_rows)
        assert torch.equal(windowed, batch_indices(3, 5, 64, 300))
