"""Draws of configurations, the same in every table: bootstrap, permutations, halves."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 999
PERMUTATIONS = 9_999
HALVES = 100
SHUFFLES, FEWEST_SHUFFLES = 999, 200
"""Permutations of the trials over the configurations."""
MOST_SHUFFLED = 2_000_000
"""Values of all these together, above which there are fewer permutations."""
FEWEST = 4
"""Configurations below which an interval would say nothing."""
KEPT = 0.8
"""Share of the draws that must be computable for an interval to be given."""

Interval = tuple[float, float]


@lru_cache(maxsize=4)
def bootstrap(n: int) -> Int[np.ndarray, "draws n"]:
    """How often each of n configurations is in each draw."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


@lru_cache(maxsize=4)
def permutations(n: int) -> Int[np.ndarray, "draws n"]:
    """Orders of n configurations."""
    orders = np.tile(np.arange(n, dtype=np.int32), (PERMUTATIONS, 1))
    return np.random.default_rng(0).permuted(orders, axis=1)


@lru_cache(maxsize=4)
def halves(n: int) -> Int[np.ndarray, "draws n"]:
    """1 where a configuration is in a random half, else 0."""
    chosen = np.tile(np.arange(n) < n // 2, (HALVES, 1))
    return np.random.default_rng(0).permuted(chosen, axis=1).astype(np.int64)


def permutation_gap(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, " configurations"], level: float
) -> float:
    """How many standard errors apart a configuration with a single trial is by chance at most.

    A permutation test over all pairs. Tukey's range assumes normal noise, and a single trial does
    not tell how far out it lies. Were all configurations equal, every permutation of the trials
    over them would be as likely. In a share `level` of the permutations some configuration of one
    trial is farther from another than this, in standard errors of their difference by the variance
    within the configurations of that permutation.

    Args:
        values: of the trials.
        counts: trials of each configuration, some with 1 and some with more.
        level: the share.
    """
    draws = max(FEWEST_SHUFFLES, min(SHUFFLES, MOST_SHUFFLED // len(values)))
    # any order of the configurations: the trials are permuted over all of them
    sizes = np.sort(counts)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    drawn = np.random.default_rng(0).permuted(np.tile(values, (draws, 1)), axis=1)
    sums = np.add.reduceat(drawn, starts, axis=1)
    means = sums / sizes
    squares = (drawn**2).sum(axis=1) - (sums * means).sum(axis=1)
    sd = np.sqrt(squares.clip(min=0) / (len(values) - len(counts)))
    if not sd.any():
        return 0.0
    singles = means[:, sizes == 1]
    highest, lowest = singles.max(axis=1), singles.min(axis=1)
    apart = np.zeros(draws)
    for size in np.unique(sizes):
        others = means[:, sizes == size]
        here = np.maximum(highest - others.min(axis=1), others.max(axis=1) - lowest)
        apart = np.maximum(apart, here / np.sqrt(1 + 1 / size))
    return float(np.quantile(apart / sd.clip(min=sd[sd > 0].min()), 1 - level, method="higher"))


def interval(drawn: Float[np.ndarray, " draws"], level: float = 0.95) -> Interval | None:
    """The middle of the draws, NaN left out; None where too many are NaN."""
    known = drawn[~np.isnan(drawn)]
    if len(known) < max(KEPT * len(drawn), 1):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted_medians(
    values: Float[np.ndarray, " n"], weights: Int[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """The median of each draw: the middle value, or the mean of the middle two."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[:, order], axis=1)
    total = running[:, -1:]
    ends = [(running >= half).argmax(axis=1) for half in ((total + 1) // 2, total // 2 + 1)]
    medians = (values[order][ends[0]] + values[order][ends[1]]) / 2
    return np.where(total[:, 0] > 0, medians, np.nan)
