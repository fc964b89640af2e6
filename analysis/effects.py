"""How metrics go with hyperparameters: correlations, and the levels at either end."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from analysis.hyperparameters import Hyperparameter
from analysis.levels import Level, best_and_worst, levels
from analysis.study import Study
from sae_sweep.records import Metric

RESAMPLES = 999
FEWEST = 4
"""Configurations below which an interval would say nothing."""


class Effect(NamedTuple):
    """One hyperparameter against one metric, over the ranked trials."""

    hyperparameter: Hyperparameter
    n: int
    pearson: float
    """Both on their scales; NaN where `remark` says why."""
    spearman: float
    interval: tuple[float, float] | None
    """Of Spearman's correlation, 95 %."""
    remark: str
    """Why there is no correlation or no interval; empty otherwise."""
    ends: tuple[Level, Level] | None
    """The best and the worst level."""


def effect(study: Study, hyperparameter: Hyperparameter, metric: Metric) -> Effect:
    """Correlate a hyperparameter with a metric and find its best and worst level."""
    y = study.scaled[metric.name].to_numpy()
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(y)
    ends = best_and_worst(levels(study, hyperparameter, metric), metric)
    n = int(counted.sum())
    if hyperparameter.kind != "numeric":
        reason = {"conditional": "not active in every trial", "categorical": "not a number"}
        return Effect(
            hyperparameter, n, math.nan, math.nan, None, reason[hyperparameter.kind], ends
        )
    x, y = hyperparameter.numbers[counted], y[counted]
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        constant = "n too small" if n < 2 else f"{'level' if np.ptp(x) == 0 else 'metric'} constant"
        return Effect(hyperparameter, n, math.nan, math.nan, None, constant, ends)
    interval = spearman_interval(x, y, study.trials.loc[counted, "configuration"].to_numpy())
    return Effect(
        hyperparameter,
        n,
        pearson=float(np.corrcoef(x, y)[0, 1]),
        spearman=float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]),
        interval=interval,
        remark="" if interval else f"n too small for an interval (under {FEWEST})",
        ends=ends,
    )


def spearman_interval(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], configuration: Int[np.ndarray, " n"]
) -> tuple[float, float] | None:
    """95 % percentile bootstrap of Spearman's correlation; None below four configurations.

    Whole configurations are drawn, since seeds of one are not independent evidence. Ranks are
    taken once, so a draw is a weighting of the configurations and all draws are one product.
    """
    _, cluster = np.unique(configuration, return_inverse=True)
    n_clusters = int(cluster.max()) + 1
    if n_clusters < FEWEST:
        return None
    ranks = np.stack([stats.rankdata(x), stats.rankdata(y)])
    a, b = ranks - ranks.mean(axis=1, keepdims=True)
    products = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b])
    sums = np.stack([np.bincount(cluster, weights=row) for row in products])
    draws = np.random.default_rng(0).multinomial(
        n_clusters, np.full(n_clusters, 1 / n_clusters), size=RESAMPLES
    )
    n, sum_a, sum_b, sum_aa, sum_bb, sum_ab = sums @ draws.T
    spread = (sum_aa - sum_a**2 / n) * (sum_bb - sum_b**2 / n)
    varied = spread > 1e-9 * n**4
    drawn = (sum_ab - sum_a * sum_b / n)[varied] / np.sqrt(spread[varied])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
