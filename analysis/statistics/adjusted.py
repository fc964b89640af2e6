"""Adjusted effects: an additive model of all hyperparameters.

Adjusted means of the levels are predictions for a reference grid in which every other
hyperparameter's levels weigh the same.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from analysis.statistics import resampling
from analysis.statistics.design import Design, Factor
from analysis.statistics.fits import Fit, fit
from analysis.statistics.multiplicity import CLAIMED, holm
from analysis.statistics.replicates import Replicates
from analysis.statistics.resampling import Interval
from analysis.statistics.shapes import Shape, shape
from analysis.study.hyperparameters import INACTIVE


class Change(NamedTuple):
    """From a hyperparameter's first level to its last, on the metric's scale."""

    first: str
    last: str
    raw: float
    """Between the levels' plain means."""
    raw_interval: Interval | None
    """95 %, bootstrap over configurations; None where too many draws lack a level."""
    adjusted: float
    """Between the levels' adjusted means."""
    adjusted_interval: Interval
    """95 %, from the fit's least favourable covariance."""
    p: float
    """Of the adjusted change's t-test."""


class Best(NamedTuple):
    """The level whose adjusted mean is best."""

    level: str
    second: str
    mean: float
    """Adjusted, on the metric's scale."""
    second_mean: float
    p: float
    """The largest of the best level's t-tests against the others, Holm-adjusted over all pairs."""

    @property
    def is_apart(self) -> bool:
        """Whether the level is told apart from every other."""
        return self.p < CLAIMED


class Adjusted(NamedTuple):
    """One factor of one metric's additive model."""

    factor: Factor
    df: int
    residual_df: int
    f: float
    p: float
    """Of the least favourable F-test: one variance and unequal variances."""
    partial_eta_squared: float
    """Share of the variance the others leave that the factor explains."""
    means: Float[np.ndarray, " levels"]
    """Adjusted, on the metric's scale, in the order of the factor's levels."""
    change: Change | None
    """None for more than two categories, which have no order."""
    shape: Shape
    """Over the levels `ordered`; none for categories."""
    ordered: list[int]
    """The levels of numbers in which the hyperparameter is active, by their place."""


def residual_squares(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> float:
    """What a least-squares fit leaves."""
    fitted, *_ = np.linalg.lstsq(x, y, rcond=None)
    return float(((y - x @ fitted) ** 2).sum())


def is_balanced(design: Design, seen: Replicates) -> bool:
    """Whether every combination of the levels was run, with equally many seeds."""
    cells = 1
    for one in design.factors:
        if (one.codes < 0).any():
            return False
        cells *= len(one.levels)
    codes = np.stack([one.codes for one in design.factors], axis=1)
    distinct = len(np.unique(codes, axis=0))
    return distinct == cells == len(codes) and np.ptp(seen.counts) == 0


def additive(design: Design, seen: Replicates) -> Fit:
    """Fit the model of all factors; without a covariance where it cannot be tested."""
    return fit(design.x, seen, groups(design), balanced=is_balanced(design, seen))


def groups(design: Design) -> list[Int[np.ndarray, " n"]]:
    """The level of each configuration, by factor."""
    return [one.codes for one in design.factors if one.columns]


def adjust(
    design: Design, factor: Factor, y: Float[np.ndarray, " n"], found: Fit
) -> Adjusted | None:
    """Test a factor within the additive model that was fitted; None where it cannot be."""
    if not factor.estimable or not found.covariances:
        return None
    full = residual_squares(design.x, y)
    less = residual_squares(design.without(factor), y)
    f, p = found.p_joint(np.eye(design.x.shape[1])[factor.columns])
    rows = contrasts(design, factor)
    active = [i for i, level in enumerate(factor.levels) if level != INACTIVE]
    ordered = active if factor.hyperparameter.kind != "categorical" else []
    shaped = Shape("none", ())
    if len(ordered) > 1:
        shaped = shape(found, rows[ordered], _places(factor, ordered))
    return Adjusted(
        factor=factor,
        df=len(factor.columns),
        residual_df=round(min(one.df for one in found.covariances)),
        f=f,
        p=p,
        partial_eta_squared=max(less - full, 0.0) / less if less > 0 else 0.0,
        means=rows @ found.coefficients,
        change=_change(design, factor, y, found),
        shape=shaped,
        ordered=ordered,
    )


def contrasts(design: Design, factor: Factor) -> Float[np.ndarray, "levels p"]:
    """The reference grid's row of each level: the other factors' codings sum to 0 there."""
    rows = np.zeros((len(factor.levels), design.x.shape[1]))
    rows[:, 0] = 1
    rows[:, factor.columns] = factor.coding
    return rows


def ends(factor: Factor) -> tuple[int, int] | None:
    """The first and the last level of an order, the inactive one aside.

    Where a single level is active, from inactive to it.
    """
    active = [i for i, level in enumerate(factor.levels) if level != INACTIVE]
    if factor.hyperparameter.kind == "categorical" and len(factor.levels) > 2:
        return None
    if len(active) < 2:
        return len(factor.levels) - 1, 0
    return active[0], active[-1]


def _change(
    design: Design, factor: Factor, y: Float[np.ndarray, " n"], found: Fit
) -> Change | None:
    both = ends(factor)
    if both is None:
        return None
    first, last = both
    weights = np.vstack([np.ones(len(y), dtype=np.int64), resampling.bootstrap(len(y))])
    at = np.column_stack([factor.codes == first, factor.codes == last]).astype(float)
    counts = weights @ at
    sums = weights @ (at * y[:, None])
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    raw = means[:, 1] - means[:, 0]
    rows = contrasts(design, factor)
    between = (rows[last] - rows[first])[None, :]
    low, high = found.intervals(between)[0]
    return Change(
        factor.levels[first],
        factor.levels[last],
        float(raw[0]),
        resampling.interval(raw[1:]),
        float((between @ found.coefficients)[0]),
        (float(low), float(high)),
        float(found.p_each(between)[0]),
    )


def _places(factor: Factor, ordered: list[int]) -> Float[np.ndarray, " levels"]:
    """Levels on the hyperparameter's scale: the mean of their trials'."""
    one = factor.hyperparameter
    return np.array([one.numbers[one.at(factor.levels[i])].mean() for i in ordered])


def best(design: Design, found: Adjusted, fitted: Fit, direction: str) -> Best:
    """The best adjusted mean and the next one, tested among all pairs of levels."""
    rows = contrasts(design, found.factor)
    order = np.argsort(-found.means if direction == "up" else found.means, kind="stable")
    pairs = [(i, j) for a, i in enumerate(order) for j in order[a + 1 :]]
    between = np.array([rows[j] - rows[i] for i, j in pairs])
    p = holm(fitted.p_each(between))[: len(order) - 1].max()
    levels = found.factor.levels
    i, j = order[0], order[1]
    return Best(levels[i], levels[j], float(found.means[i]), float(found.means[j]), float(p))
