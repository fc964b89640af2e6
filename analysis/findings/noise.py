"""How far apart two trials lie that differ in their seed alone."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.study.table import Study, once
from sae_sweep.records import Metric

LEVEL = 0.05
"""Of the test of equal variances, of the intervals, and of what counts as told apart."""


class Floor(NamedTuple):
    """The noise of one metric, pooled over configurations, on the metric's scale."""

    metric: Metric
    configurations: int
    """With at least two seeds, over which the figures below are pooled."""
    degrees_of_freedom: int
    sd: float
    """Between seeds of one configuration."""
    interval: tuple[float, float]
    """Of the sd, 95 %, by chi-squared."""
    p_equal: float | None
    """Of Levene's test (about the median) that configurations share one sd; None where no two
    have three seeds."""
    half: str | None
    """Where that is rejected: "lower" or "upper", the half of the configurations, by their mean,
    in which the sd is larger; the figures are of that half."""

    @property
    def detectable(self) -> float:
        """Two single trials that lie closer are not told apart."""
        return float(self.between(1, 1))

    def between(self, seeds: "np.ndarray | int", others: "np.ndarray | int") -> np.ndarray:
        """The least difference of two means over so many seeds that counts (t-test)."""
        t = stats.t.ppf(1 - LEVEL / 2, self.degrees_of_freedom)
        return t * self.sd * np.sqrt(1 / np.asarray(seeds) + 1 / np.asarray(others))


@once
def floor(study: Study, metric: Metric) -> Floor | None:
    """The noise floor; None where no configuration has two seeds with a value."""
    if metric.name not in study.scaled:
        return None
    ranked = study.trials["ranked"]
    values = study.scaled.loc[ranked, metric.name].dropna()
    groups = values.groupby(study.trials.loc[values.index, "configuration"])
    seen = pd.DataFrame({"n": groups.count(), "mean": groups.mean(), "var": groups.var()})
    seen = seen[seen["n"] > 1]
    if seen.empty:
        return None
    several = set(seen.index[seen["n"] > 2])
    p_equal = _levene([values.to_numpy() for name, values in groups if name in several])
    if p_equal is None or p_equal >= LEVEL:
        return _pooled(metric, seen, p_equal, None)
    is_upper = seen["mean"] > seen["mean"].median()
    halves = [
        _pooled(metric, seen[inside], p_equal, name)
        for name, inside in (("lower", ~is_upper), ("upper", is_upper))
        if inside.any()
    ]
    return max(halves, key=lambda one: one.sd)


def _pooled(metric: Metric, seen: pd.DataFrame, p_equal: float | None, half: str | None) -> Floor:
    degrees = int((seen["n"] - 1).sum())
    squares = float((seen["var"] * (seen["n"] - 1)).sum())
    high, low = np.sqrt(squares / stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], degrees))
    sd = math.sqrt(squares / degrees)
    return Floor(metric, len(seen), degrees, sd, (float(low), float(high)), p_equal, half)


def _levene(groups: list[np.ndarray]) -> float | None:
    if len(groups) < 2 or not any(np.ptp(one) for one in groups):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        p = float(stats.levene(*groups, center="median").pvalue)
    return None if math.isnan(p) else p


def expected_extreme(n: int) -> float:
    """How many sd below their mean the lowest of n equally good values is expected."""
    x = np.linspace(-9, 9, 3601)
    density = n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)
    return float(np.trapezoid(x * density, x))
