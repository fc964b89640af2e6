"""Draws of configurations, the same in every table: bootstrap, permutations, halves."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 999
PERMUTATIONS = 9_999
HALVES = 100
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
