from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sae_sweep.rules.dominance import pareto

GRID = Path(__file__).parents[1] / "data" / "topk_grid.csv"
DIRECTIONS = {"explained_variance": "up", "k": "down", "death_percent": "down", "d_sae": "down"}

# few distinct values, so that ties and equal points are common
points = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, np.inf, np.nan]),
)


def beats(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(points)
def test_the_front_is_what_no_other_point_beats(points: np.ndarray) -> None:
    known = ~np.isnan(points).any(axis=1)
    expected = [
        bool(known[i]) and not any(beats(q, p) for q in points[known]) for i, p in enumerate(points)
    ]
    assert pareto(points, ["down"] * points.shape[1]).tolist() == expected


@given(points)
def test_up_is_down_of_the_negative(points: np.ndarray) -> None:
    m = points.shape[1]
    assert (pareto(points, ["up"] * m) == pareto(-points, ["down"] * m)).all()


def test_equal_points_are_all_kept() -> None:
    twins = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])
    assert pareto(twins, ["down", "down"]).tolist() == [True, True, False]


def test_a_point_with_nan_is_never_on_the_front_and_takes_no_other_off_it() -> None:
    points = np.array([[np.nan, 0.0], [1.0, 1.0]])
    assert pareto(points, ["down", "down"]).tolist() == [False, True]


def test_no_points_have_an_empty_front() -> None:
    assert pareto(np.empty((0, 2)), ["down", "up"]).tolist() == []


def test_directions_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 objectives, but directions=\['down'\]"):
        pareto(np.zeros((3, 2)), ["down"])


@pytest.mark.parametrize(
    ("objectives", "size"),
    [
        (["explained_variance", "k"], 4),
        (["explained_variance", "death_percent"], 2),
        (["explained_variance", "k", "death_percent"], 11),
        (["explained_variance", "k", "d_sae"], 11),
    ],
)
def test_fronts_of_the_published_topk_grid(objectives: list[str], size: int) -> None:
    values = pd.read_csv(GRID)[objectives].to_numpy(dtype=float)
    assert pareto(values, [DIRECTIONS[name] for name in objectives]).sum() == size
