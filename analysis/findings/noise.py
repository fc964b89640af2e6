"""The noise floor: the spread of trials that differ in their seed alone."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.design import design
from analysis.statistics.replicates import Replicates, least_gap
from analysis.statistics.resampling import permutation_gap
from analysis.study.samples import Sample, sample
from analysis.study.table import Study, once
from sae_sweep.records import Metric

FEWEST_PERMUTED = 8
"""Degrees of freedom from which the permutation test is used for the noise's tails."""
FEWEST = 3
"""Degrees of freedom from which the sd of a level counts."""
LEVEL = 0.05
"""Of the test of equal variances, of the intervals, and of what counts as told apart."""


class Floor(NamedTuple):
    """The noise of one metric, pooled over configurations, on the metric's scale.

    Seeds that several configurations share are blocks: a shift that a seed gives to all of them is
    no noise of their comparison.
    """

    metric: Metric
    configurations: int
    """With at least two seeds, over which the figures below are pooled."""
    degrees_of_freedom: int
    sd: float
    """Between seeds of one configuration, within the blocks."""
    interval: tuple[float, float]
    """Of the sd, 95 %, by chi-squared."""
    p_equal: float | None
    """Of Levene's test (about the median) that configurations share one sd; None where no two
    have three seeds. Where seeds are shared, twice the smaller p of what is left within the blocks
    and of the plain deviations: blocks spread the noise of a noisy configuration over all."""
    half: str | None
    """Where that is rejected: "lower" or "upper", the half of the configurations, by their mean,
    in which the sd is larger; the figures are of that half."""
    compared: int
    """Configurations on the page: no two of them that are equally good are told apart anywhere on
    it, with 95 % probability."""
    metrics: int
    """Metrics in which they are compared, which share the 5 %."""
    spreads: "pd.Series[float]"
    """Each configuration's own sd, or that of one of its levels, by its number."""
    shift: float
    """Sd of what seeds do to all configurations that share them."""
    shift_df: int
    """Its degrees of freedom."""
    sets: "pd.Series[int]"
    """By a configuration's number; equal: the same seeds."""
    permuted: float = 0.0
    """How many standard errors of a difference tell a configuration with a single seed apart by a
    permutation test, which assumes no distribution; 0 where none has one."""

    @property
    def detectable(self) -> float:
        """Two single trials that lie closer are not told apart."""
        return float(self.between(1, 1))

    @property
    def errors(self) -> float:
        """How many standard errors of a difference tell two configurations apart (Tukey)."""
        pairs = max(self.compared, 2)
        return least_gap(pairs, self.degrees_of_freedom, LEVEL / max(self.metrics, 1))

    def between(self, seeds: "np.ndarray | int", others: "np.ndarray | int") -> np.ndarray:
        """The least difference of two means over so many seeds that counts."""
        n, m = np.asarray(seeds), np.asarray(others)
        single = max(self.errors, self.permuted)
        errors = np.where(np.minimum(n, m) > 1, self.errors, single)
        return errors * self.sd * np.sqrt(1 / n + 1 / m)

    def apart(self, rows: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
        """The least difference that counts of each of some configurations from each of others.

        A configuration whose own seeds lie farther apart than the pooled sd is held to its own, one
        with a single seed to the permutation test too.

        Returns:
            [rows, others].
        """
        own, their = (
            self.spreads.reindex(each["configuration"]).fillna(0).clip(lower=self.sd).to_numpy()
            for each in (rows, others)
        )
        seeds, their_seeds = (each["seeds"].to_numpy() for each in (rows, others))
        gap = self.errors * np.maximum(own[:, None], their[None, :])
        single = np.minimum(seeds[:, None], their_seeds[None, :]) == 1
        gap = np.where(single, np.maximum(gap, self.permuted * self.sd), gap)
        # where two have other seeds, the seeds' common shifts do not cancel
        sets, their_sets = (
            self.sets.reindex(each["configuration"]).to_numpy() for each in (rows, others)
        )
        unlike = sets[:, None] != their_sets[None, :]
        if self.shift and unlike.any():
            level = LEVEL / max(self.metrics, 1)
            shifts = least_gap(max(self.sets.nunique(), 2), self.shift_df, level) * self.shift
            gap = np.where(unlike, np.hypot(gap, shifts), gap)
        return gap * np.sqrt(1 / seeds[:, None] + 1 / their_seeds[None, :])


@once
def floor(study: Study, metric: Metric) -> Floor | None:
    """The noise floor; None where no configuration has two seeds with a value."""
    if metric.name not in study.scaled:
        return None
    one = sample(study, metric)
    seen = one.seen
    if not seen.df:
        return None
    p_equal = _p_equal(seen)
    if p_equal is None or p_equal >= LEVEL:
        pooled = _pooled(study, one, p_equal, None)
        return pooled and pooled._replace(permuted=_permuted(study, one, pooled))
    is_upper = seen.means > np.median(seen.means)
    halves = [
        found
        for inside, name in ((~is_upper, "lower"), (is_upper, "upper"))
        if (found := _pooled(study, one, p_equal, name, inside)) is not None
    ]
    larger = max(halves, key=lambda found: found.sd)
    return larger._replace(permuted=_permuted(study, one, larger))


def _permuted(study: Study, one: Sample, found: Floor) -> float:
    """Standard errors for single seeds by permutation, of the trials and of their residuals.

    The trials are exchangeable where nothing has an effect. Effects larger than the noise hide the
    noise's distribution, which shows in the residuals of an additive model of the settings.
    """
    seen = one.seen
    if not (seen.counts == 1).any() or seen.df < FEWEST_PERMUTED:
        return 0.0
    level = LEVEL / max(found.metrics, 1)
    x = design(study.hyperparameters, one.rows).x
    fitted = x @ np.linalg.lstsq(x, seen.means, rcond=None)[0]
    of_trials = (seen.means[seen.cluster], (seen.means - fitted)[seen.cluster])
    return max(permutation_gap(means + seen.left, seen.counts, level) for means in of_trials)


def _pooled(
    study: Study,
    one: Sample,
    p_equal: float | None,
    half: str | None,
    inside: "np.ndarray | None" = None,
) -> Floor | None:
    seen = one.seen
    chosen = np.ones(len(seen.counts), dtype=bool) if inside is None else inside
    squares = float((seen.left[chosen[seen.cluster]] ** 2).sum())
    free = int((seen.counts[chosen] - 1).sum())
    # the blocks take their share of the degrees of freedom
    degrees = round(free * seen.df / max(int((seen.counts - 1).sum()), 1))
    if degrees < 1:
        return None
    high, low = np.sqrt(squares / stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], degrees))
    numbers = study.trials["configuration"].to_numpy()[one.rows]
    measured = [each for each in study.main_metrics if each.name in study.scaled]
    return Floor(
        one.metric,
        int((seen.counts[chosen] > 1).sum()),
        degrees,
        math.sqrt(squares / degrees),
        (float(low), float(high)),
        p_equal,
        half,
        len(study.configurations),
        len(measured),
        pd.Series(_spreads(study, one), index=numbers),
        seen.shift,
        seen.shift_df,
        pd.Series(seen.sets, index=numbers),
    )


def _spreads(study: Study, one: Sample) -> np.ndarray:
    """Each configuration's own sd, or that of a level that it has, whichever is larger.

    Two seeds say little of a configuration, the configurations of its level say more.
    """
    seen = one.seen
    free = (seen.counts - 1).astype(float)
    found = np.nan_to_num(seen.spreads)
    squares = found**2 * free
    for setting in study.hyperparameters:
        codes = np.array([setting.order.index(setting.levels[row]) for row in one.rows])
        degrees = np.bincount(codes, weights=free)
        sums = np.bincount(codes, weights=squares)
        pooled = np.sqrt(sums / np.maximum(degrees, 1))
        found = np.maximum(found, np.where(degrees >= FEWEST, pooled, 0.0)[codes])
    return found


def _p_equal(seen: Replicates) -> float | None:
    several = np.flatnonzero(seen.counts > 2)
    residuals = [seen.left]
    if seen.blocks.shape[1]:
        plain = np.bincount(seen.cluster, weights=seen.y) / seen.counts
        residuals.append(seen.y - plain[seen.cluster])
    tested = [_levene([left[seen.cluster == i] for i in several]) for left in residuals]
    known = [p for p in tested if p is not None]
    return min(1.0, len(known) * min(known)) if known else None


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
