"""Raw correlations of a metric with one hyperparameter, with their uncertainty."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analysis.statistics import resampling
from analysis.statistics.resampling import FEWEST, Interval
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.samples import Sample, varies

PERMUTED_UP_TO = 500
"""Configurations above which Student's t stands for the permutations of Spearman's test."""
DISAGREE = 0.2
"""Distance of Pearson's from Spearman's correlation from which the report says so."""
NOTABLE = 0.1
"""Size below which the sign of a correlation says nothing."""


class Correlation(NamedTuple):
    """One hyperparameter against one metric, a configuration being one observation."""

    n: int
    """Configurations in which the hyperparameter is active and the metric known."""
    pearson: float
    """Both on their scales; NaN where `remark` says why, and for categories."""
    pearson_interval: Interval | None
    """95 %, bootstrap over configurations; None where n is too small."""
    spearman: float
    spearman_interval: Interval | None
    epsilon_squared: float
    """Of categories: Kruskal-Wallis H / (n - 1); NaN for numbers."""
    p: float
    """Of Spearman's permutation test, or of Kruskal-Wallis; NaN where there is none."""
    remark: str
    """Why there is no figure; empty otherwise."""

    @property
    def disagree(self) -> bool:
        """Whether the two correlations disagree."""
        signs = self.pearson * self.spearman < 0
        size = max(abs(self.pearson), abs(self.spearman))
        return (signs and size >= NOTABLE) or abs(self.pearson - self.spearman) > DISAGREE


def correlation(one: Sample, hyperparameter: Hyperparameter) -> Correlation:
    """Correlate a metric with a hyperparameter where that is active."""
    levels = np.array(hyperparameter.levels, dtype=object)[one.rows]
    active = levels != INACTIVE
    y, levels = one.y[active], levels[active]
    if remark := _remark(y, levels):
        return _without_figures(len(y), remark)
    if hyperparameter.kind == "categorical":
        groups = [y[levels == level] for level in dict.fromkeys(levels)]
        test = stats.kruskal(*groups)
        share = float(test.statistic / (len(y) - 1))
        return _without_figures(len(y), "")._replace(epsilon_squared=share, p=float(test.pvalue))
    x = hyperparameter.numbers[one.rows][active]
    ranks = stats.rankdata(x), stats.rankdata(y)
    return Correlation(
        n=len(y),
        pearson=_correlation(x, y),
        pearson_interval=correlation_interval(x, y),
        spearman=_correlation(*ranks),
        spearman_interval=correlation_interval(*ranks),
        epsilon_squared=math.nan,
        p=_spearman_p(*ranks),
        remark="",
    )


def _remark(y: Float[np.ndarray, " n"], levels: np.ndarray) -> str:
    if len(y) < 2:
        return "n too small"
    if len(set(levels)) < 2:
        return "one value"
    return "" if varies(y) else "metric constant"


def _without_figures(n: int, remark: str) -> Correlation:
    return Correlation(n, math.nan, None, math.nan, None, math.nan, math.nan, remark)


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def correlation_interval(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Interval | None:
    """95 % percentile bootstrap of a correlation; None below four configurations.

    Given ranks it is Spearman's: they are taken once, so a draw is a weighting of the
    configurations and all draws are one product.
    """
    n = len(x)
    if n < FEWEST:
        return None
    a, b = x - x.mean(), y - y.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    sums = np.stack([a, b, a * a, b * b, a * b]) @ resampling.bootstrap(n).T
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = sums / n
    squares = sum_aa - sum_a**2, sum_bb - sum_b**2
    varied = (squares[0] > 1e-12) & (squares[1] > 1e-12)
    spread = np.sqrt(squares[0] * squares[1], out=np.full_like(sum_a, np.nan), where=varied)
    return resampling.interval(np.clip((sum_ab - sum_a * sum_b) / spread, -1, 1))


def _spearman_p(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of the correlation of ranks."""
    n = len(x)
    if n > PERMUTED_UP_TO:
        return float(stats.pearsonr(x, y).pvalue)
    a, b = x - x.mean(), y - y.mean()
    drawn = np.abs(b[resampling.permutations(n)] @ a)
    extreme = int((drawn >= abs(a @ b) * (1 - 1e-9)).sum())
    return (1 + extreme) / (1 + resampling.PERMUTATIONS)
