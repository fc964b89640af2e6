"""What each hyperparameter goes with while the others are held: an additive model's effects.

Type-II F-tests of the factors, as statsmodels' anova_lm(typ=2); adjusted means of the levels are
predictions for a reference grid in which every other hyperparameter's levels weigh the same.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analysis.statistics import resampling
from analysis.statistics.design import Design, Factor
from analysis.statistics.multiplicity import CLAIMED
from analysis.statistics.resampling import Interval
from analysis.study.hyperparameters import INACTIVE

FEWEST_RESIDUAL = 3
"""Observations beyond the parameters that a test needs."""
BEND = 0.1
"""eta^2 - r^2 from which a relation is no straight line."""


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
    adjusted_interval: Interval | None
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
    partial_eta_squared: float
    """Share of the variance the others leave that the factor explains."""
    means: Float[np.ndarray, " levels"]
    """Adjusted, on the metric's scale, in the order of the factor's levels."""
    change: Change | None
    """None for more than two categories, which have no order."""
    is_bent: bool
    """Whether the levels' means rise and fall: eta^2 - r^2 >= 0.1 over what the other factors
    leave, a straight line does not fit (F-test, p < .05), and the means are not in order."""


def residual_squares(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> float:
    """What a least-squares fit leaves."""
    fitted, *_ = np.linalg.lstsq(x, y, rcond=None)
    return float(((y - x @ fitted) ** 2).sum())


def f_test(
    less: float, full: float, df: int, residual_df: int, total: float
) -> tuple[float, float]:
    """F and p of the terms that bring the residual squares from `less` down to `full`.

    A fit that is exact to rounding leaves rounding; both are held above 1e-12 of the total.
    """
    floor = 1e-12 * total
    gained = max(less - full, 0.0) if less - full > floor else 0.0
    f = (gained / df) / (max(full, floor) / residual_df)
    return f, float(stats.f.sf(f, df, residual_df))


def adjust(
    design: Design,
    factor: Factor,
    y: Float[np.ndarray, " n"],
    fits: Float[np.ndarray, "draws p"],
) -> Adjusted | None:
    """Test a factor within the additive model, `fits` being its fits; None where it cannot be."""
    if not factor.estimable or design.residual_df < FEWEST_RESIDUAL:
        return None
    full = residual_squares(design.x, y)
    less = residual_squares(design.without(factor), y)
    df, total = len(factor.columns), float(((y - y.mean()) ** 2).sum())
    f, p = f_test(less, full, df, design.residual_df, total)
    return Adjusted(
        factor=factor,
        df=df,
        residual_df=design.residual_df,
        f=f,
        p=p,
        partial_eta_squared=max(less - full, 0.0) / less if less > 0 else 0.0,
        means=contrasts(design, factor) @ fits[0],
        change=_change(design, factor, y, fits),
        is_bent=_is_bent(design, factor, y, fits[0]),
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
    design: Design,
    factor: Factor,
    y: Float[np.ndarray, " n"],
    fits: Float[np.ndarray, "draws p"],
) -> Change | None:
    both = ends(factor)
    if both is None:
        return None
    first, last = both
    weights = _weights(len(y))
    at = np.column_stack([factor.codes == first, factor.codes == last]).astype(float)
    counts = weights @ at
    sums = weights @ (at * y[:, None])
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    raw = means[:, 1] - means[:, 0]
    rows = contrasts(design, factor)
    between = rows[last] - rows[first]
    adjusted = fits @ between
    return Change(
        factor.levels[first],
        factor.levels[last],
        float(raw[0]),
        resampling.interval(raw[1:]),
        float(adjusted[0]),
        resampling.interval(adjusted[1:]),
        float(_p_of_contrasts(design, y, between[None, :], adjusted[:1])[0]),
    )


def _weights(n: int) -> np.ndarray:
    """All observations once, then the draws."""
    return np.vstack([np.ones(n, dtype=np.int64), resampling.bootstrap(n)])


def fits(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "draws p"]:
    """The least-squares coefficients of all observations, then of every bootstrap draw.

    NaN where a draw cannot tell them apart, and in a single row where there are too few
    observations to test anything.
    """
    if x.shape[0] - x.shape[1] < FEWEST_RESIDUAL:
        return np.full((1, x.shape[1]), np.nan)
    weights = _weights(len(y))
    n, p = x.shape
    products = (x[:, :, None] * x[:, None, :]).reshape(n, p * p)
    grams = (weights @ products).reshape(-1, p, p)
    eigenvalues = np.linalg.eigvalsh(grams)
    found = np.full((len(weights), p), np.nan)
    regular = eigenvalues[:, 0] > 1e-9 * eigenvalues[:, -1]
    sides = (weights @ (x * y[:, None]))[regular]
    found[regular] = np.linalg.solve(grams[regular], sides[:, :, None])[:, :, 0]
    return found


def _is_bent(
    design: Design,
    factor: Factor,
    y: Float[np.ndarray, " n"],
    fitted: Float[np.ndarray, " p"],
) -> bool:
    levels = [i for i, level in enumerate(factor.levels) if level != INACTIVE]
    if factor.hyperparameter.kind == "categorical" or len(levels) < 3:
        return False
    rows = contrasts(design, factor)
    steps = np.sign(np.diff(rows[levels] @ fitted))
    if abs(steps.sum()) == len(steps):
        return False
    active = np.isin(factor.codes, levels)
    own = (rows @ fitted)[factor.codes[active]]
    rest = (y - design.x @ fitted)[active] + own
    line = _level_numbers(factor)
    places = line[factor.codes[active]]
    total = ((rest - rest.mean()) ** 2).sum()
    if total <= 0:
        return False
    eta = ((own - own.mean()) ** 2).sum() / total
    r = np.corrcoef(places, rest)[0, 1]
    # the line runs through the levels' numbers; inactive observations keep a level of their own
    straight = np.where(factor.codes >= 0, line[factor.codes], 0.0)
    extra = [straight] + [(factor.codes == i) * 1.0 for i in set(range(len(line))) - set(levels)]
    reduced = np.column_stack([design.without(factor), *extra])
    less, full = residual_squares(reduced, y), residual_squares(design.x, y)
    _, p = f_test(less, full, len(levels) - 2, design.residual_df, float(total))
    return bool(eta - r**2 >= BEND and p < CLAIMED)


def _level_numbers(factor: Factor) -> Float[np.ndarray, " levels"]:
    """Each level's place on the hyperparameter's scale, centred: the mean of its trials'."""
    one = factor.hyperparameter
    numbers = one.numbers
    places = [numbers[one.at(level)].mean() for level in factor.levels if level != INACTIVE]
    centred = np.array(places) - np.mean(places)
    return np.append(centred, np.zeros(len(factor.levels) - len(places)))


def best(design: Design, found: Adjusted, y: Float[np.ndarray, " n"], direction: str) -> Best:
    """The best adjusted mean and the next one, tested among all pairs of levels."""
    rows = contrasts(design, found.factor)
    order = np.argsort(-found.means if direction == "up" else found.means, kind="stable")
    pairs = [(i, j) for a, i in enumerate(order) for j in order[a + 1 :]]
    between = np.array([rows[j] - rows[i] for i, j in pairs])
    gaps = np.array([found.means[j] - found.means[i] for i, j in pairs])
    p = holm(_p_of_contrasts(design, y, between, gaps))[: len(order) - 1].max()
    levels = found.factor.levels
    i, j = order[0], order[1]
    return Best(levels[i], levels[j], float(found.means[i]), float(found.means[j]), float(p))


def _p_of_contrasts(
    design: Design,
    y: Float[np.ndarray, " n"],
    rows: Float[np.ndarray, "m p"],
    values: Float[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Two-sided t-tests that contrasts of the coefficients are 0; an exact fit leaves rounding."""
    total = float(((y - y.mean()) ** 2).sum())
    variance = max(residual_squares(design.x, y), 1e-12 * total) / design.residual_df
    inverse = np.linalg.inv(design.x.T @ design.x)
    errors = np.sqrt(variance * np.einsum("ij,jk,ik->i", rows, inverse, rows))
    return 2 * stats.t.sf(np.abs(values) / errors, design.residual_df)


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Holm's adjustment of p-values that are tested together."""
    order = np.argsort(p, kind="stable")
    raised = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted
