"""Linear models whose tests hold under unequal variance and know the noise between seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from statsmodels.regression.linear_model import OLS

from analysis.statistics.replicates import Replicates

FEWEST_RESIDUAL = 3
"""Degrees of freedom that a test needs."""
FULL_LEVERAGE = 1 - 1e-8
ROUNDING = 1e-12
"""Share of the total below which a residual is rounding."""


class Covariance(NamedTuple):
    """One estimate of the coefficients' covariance."""

    kind: str
    """pure: noise between seeds, one variance; pure, unequal: one per level of a factor;
    residual: what the model leaves, one variance; HC3: what it leaves, unequal variances."""
    matrix: Float[np.ndarray, "p p"]
    df: float
    """Of the variance, as in t."""
    is_hotelling: bool
    """Whether the matrix is so uncertain that a joint test needs Hotelling's correction."""


class Fit(NamedTuple):
    """A least-squares fit with every covariance that a test must survive."""

    x: Float[np.ndarray, "configurations p"]
    coefficients: Float[np.ndarray, " p"]
    covariances: tuple[Covariance, ...]
    """A test's p is the largest of theirs: each is exact under its own assumption, and no claim
    rests on the more favourable one. None where nothing can be tested."""

    def p_joint(self, rows: Float[np.ndarray, "q p"]) -> tuple[float, float]:
        """F and p that contrasts of the coefficients are all 0, of the least favourable test."""
        value = rows @ self.coefficients
        worst = np.nan, np.nan
        for one in self.covariances:
            f, p = _wald(value, rows @ one.matrix @ rows.T, one)
            if np.isnan(p):
                continue
            if np.isnan(worst[1]) or p > worst[1]:
                worst = f, p
        return worst

    def errors(self, rows: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "kinds m"]:
        """The standard errors of contrasts, one row per covariance."""
        return np.array(
            [
                np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, one.matrix, rows), 0))
                for one in self.covariances
            ]
        )

    def p_each(self, rows: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """Two-sided p of each contrast, of the least favourable t-test."""
        value = np.abs(rows @ self.coefficients)
        found = np.zeros(len(rows))
        for one, error in zip(self.covariances, self.errors(rows), strict=True):
            t = np.divide(value, error, out=np.full_like(value, np.inf), where=error > 0)
            t[(value == 0) & (error == 0)] = 0.0
            found = np.maximum(found, 2 * stats.t.sf(t, one.df))
        return found if self.covariances else np.full(len(rows), np.nan)

    def intervals(self, rows: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m 2"]:
        """95 % intervals of contrasts, the widest of the covariances'."""
        value = rows @ self.coefficients
        if not self.covariances:
            return np.full((len(rows), 2), np.nan)
        t = np.array([stats.t.ppf(0.975, one.df) for one in self.covariances])
        reach = (t[:, None] * self.errors(rows)).max(axis=0)
        return np.column_stack([value - reach, value + reach])


def fit(
    x: Float[np.ndarray, "configurations p"],
    seen: Replicates,
    factors: Sequence[Int[np.ndarray, " configurations"]] = (),
    *,
    balanced: bool,
) -> Fit:
    """Fit a model of the configurations to all trials, shared seeds held.

    Where configurations have several seeds, the noise between these is the denominator: what the
    model leaves holds interactions too. In a design that is not balanced an interaction can pass
    for another setting's effect, so there what the model leaves must be survived as well.

    Args:
        x: of full column rank, one row per configuration.
        seen: the trials.
        factors: the level of each configuration, by factor: with seeds, the noise may differ
            between the levels of each.
        balanced: whether every combination of the levels was run equally often.
    """
    p = x.shape[1]
    whole = np.hstack([x[seen.cluster], seen.blocks])
    coefficients, *_ = np.linalg.lstsq(whole, seen.y, rcond=None)
    left = float(((seen.y - whole @ coefficients) ** 2).sum())
    total = float(((seen.y - seen.y.mean()) ** 2).sum())
    bread = np.linalg.pinv(whole.T @ whole)[:p, :p]
    found = []
    if seen.df >= FEWEST_RESIDUAL:
        pure = max(seen.squares, ROUNDING * total) / seen.df
        found.append(Covariance("pure", pure * bread, seen.df, is_hotelling=False))
        if seen.squares > ROUNDING * total:
            found += [_pure_unequal(x, seen, codes) for codes in factors]
    lack = len(seen.counts) - np.linalg.matrix_rank(x)
    if lack >= FEWEST_RESIDUAL and not (found and balanced):
        squares = max(left - seen.squares, ROUNDING * total)
        found.append(Covariance("residual", squares / lack * bread, lack, is_hotelling=False))
        found += _hc3(x, seen.means, lack, total)
    return Fit(x, coefficients[:p], tuple(found))


def _pure_unequal(
    x: Float[np.ndarray, "configurations p"], seen: Replicates, codes: Int[np.ndarray, " c"]
) -> Covariance:
    """A variance per level of a factor, pooled over the seeds of its configurations."""
    _, places = np.unique(codes, return_inverse=True)
    free = np.bincount(places, weights=seen.counts - 1)
    squares = np.bincount(places, weights=np.nan_to_num(seen.spreads**2) * (seen.counts - 1))
    pooled = squares.sum() / free.sum()
    by_level = np.where(free > 0, squares / np.maximum(free, 1), pooled)
    variances = (by_level[places] / seen.counts) + ROUNDING * pooled
    hat = np.linalg.pinv(x)
    # Satterthwaite: of an average contrast, in which each configuration weighs the same
    per_level = np.bincount(places, weights=variances)
    df = per_level.sum() ** 2 / (per_level**2 / np.maximum(free, 1)).sum()
    return Covariance("pure, unequal", (hat * variances) @ hat.T, float(df), is_hotelling=True)


def _hc3(
    x: Float[np.ndarray, "configurations p"],
    y: Float[np.ndarray, " configurations"],
    df: int,
    total: float,
) -> list[Covariance]:
    """MacKinnon and White's HC3; none where an observation decides a coefficient alone."""
    leverage = (np.linalg.qr(x)[0] ** 2).sum(axis=1)
    if leverage.max() > FULL_LEVERAGE:
        return []
    matrix = np.asarray(OLS(y, x).fit().cov_HC3)
    floor = ROUNDING * total / max(df, 1)
    return [Covariance("HC3", matrix + floor * np.linalg.pinv(x.T @ x), df, is_hotelling=False)]


def _wald(value: np.ndarray, matrix: np.ndarray, one: Covariance) -> tuple[float, float]:
    q = len(value)
    statistic = float(value @ np.linalg.pinv(matrix, hermitian=True) @ value)
    if not one.is_hotelling:
        return statistic / q, float(stats.f.sf(statistic / q, q, one.df))
    second = one.df - q + 1
    if second < FEWEST_RESIDUAL:
        return np.nan, np.nan
    f = statistic * second / (one.df * q)
    return f, float(stats.f.sf(f, q, second))
