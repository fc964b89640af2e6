import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.errors import BadInput
from sae_sweep.search.axes import Axis, distinct, read_axis, tied_levels

UNIT = st.floats(0, 1, exclude_max=True)


@given(UNIT, st.floats(1e-9, 1e3), st.floats(1.001, 1e6))
def test_real_draws_stay_within_the_bounds(u: float, low: float, factor: float) -> None:
    for word in ("uniform", "loguniform"):
        assert low <= Axis("train.lr", word, [low, low * factor]).draw(u) <= low * factor


def test_the_middle_of_a_loguniform_axis_is_the_geometric_mean() -> None:
    assert Axis("train.lr", "loguniform", [1e-5, 1e-3]).draw(0.5) == pytest.approx(1e-4)


def test_the_middle_of_a_uniform_axis_is_the_mean() -> None:
    assert Axis("train.beta1", "uniform", [0.0, 0.8]).draw(0.5) == pytest.approx(0.4)


@given(UNIT, st.floats(1e-9, 1e3), st.floats(1.001, 1e6))
def test_real_draws_have_six_digits_or_are_a_bound(u: float, low: float, factor: float) -> None:
    high = low * factor
    value = Axis("train.lr", "loguniform", [low, high]).draw(u)
    assert value in {low, high} or value == float(f"{value:.6g}")


def test_whole_draws_reach_both_bounds_equally_often() -> None:
    axis = Axis("sae.k", "int", [3, 5])
    drawn = [axis.draw(step / 300) for step in range(300)]
    assert [drawn.count(value) for value in (3, 4, 5)] == [100, 100, 100]


def test_choices_are_drawn_equally_often() -> None:
    axis = Axis("sae.kind", "choice", ["topk", "l1"])
    drawn = [axis.draw(step / 10) for step in range(10)]
    assert drawn == ["topk"] * 5 + ["l1"] * 5


def test_distinct_takes_one_for_1_and_1_point_0_but_not_for_true() -> None:
    assert distinct([1, 1.0, True, "1", 1]) == [1, True, "1"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"gird": [1]}, r"sae\.k=\{'gird': \[1\]\}: no axis is called gird; did you mean grid"),
        ({"grid": [1], "choice": [2]}, r"sae\.k=.*: an axis has one word of grid, choice"),
        ({}, r"sae\.k=\{\}: an axis has one word"),
        ({"grid": 16}, r"sae\.k=\{grid: 16\}: write a list, e\.g\. \{grid: \[1, 2\]\}"),
        ({"grid": []}, r"sae\.k=\{grid: \[\]\}: the axis is empty; give it a value"),
        ({"grid": [16, 8, 16.0]}, r"sae\.k=.*: a value stands twice; write \[16, 8\]"),
        ({"choice": ["a", "a"]}, r"sae\.k=.*: a value stands twice; write \['a'\]"),
        ({"grid": [1, math.nan]}, r"sae\.k=.*nan.*: write finite numbers"),
        ({"uniform": [1]}, r"sae\.k=.*: give two finite numbers, the lowest and the highest"),
        ({"uniform": [0, math.inf]}, r"sae\.k=.*: give two finite numbers"),
        ({"uniform": [False, True]}, r"sae\.k=.*: give two finite numbers"),
        ({"loguniform": ["1", "2"]}, r"sae\.k=.*: give two finite numbers"),
        ({"int": [1, 2.5]}, r"sae\.k=\{int: \[1, 2\.5\]\}: give two whole numbers"),
        ({"int": [5, 5]}, r"sae\.k=\{int: \[5, 5\]\}: the bounds do not increase; write the lower"),
        ({"loguniform": [0, 1]}, r"sae\.k=.*: a logarithm needs bounds above 0; use uniform"),
    ],
)
def test_a_senseless_axis_is_refused(written: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_axis("sae.k", written)


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (["a", "b"], [[1, 2], [3]], r"sweep\.zip with keys a, b: \[3\] has 1 values for 2 keys"),
        (["a", "a"], [[1, 2]], r"sweep\.zip with keys a, a: a key stands twice"),
        (["a", "b"], [[1, 2], [1.0, 2]], r"sweep\.zip with keys a, b: a point stands twice"),
        (["a", "b"], [[1, math.inf]], r"sweep\.zip with keys a, b: write finite numbers"),
    ],
)
def test_senseless_ties_are_refused(
    keys: list[str], values: list[list[object]], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        tied_levels(keys, values)
