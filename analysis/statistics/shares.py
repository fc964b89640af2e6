"""Shares of runs by level: intervals, and whether they differ between levels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from statsmodels.stats.proportion import proportion_confint

PERMUTATIONS = 9_999
LARGEST = 8_000_000
"""Numbers drawn for one test; of many configurations there are fewer permutations."""


class Share(NamedTuple):
    """How many of some runs were lost."""

    lost: int
    n: int
    interval: tuple[float, float]
    """95 %, Wilson's."""

    @property
    def value(self) -> float:
        """The share."""
        return self.lost / self.n


def share(lost: int, n: int) -> Share:
    """A share with its interval."""
    low, high = proportion_confint(lost, n, method="wilson")
    return Share(lost, n, (float(low), float(high)))


def permuted(
    shares: Float[np.ndarray, " configurations"],
    strata: Int[np.ndarray, " configurations"] | None = None,
) -> Float[np.ndarray, "permutations configurations"]:
    """Permute the shares at random, within `strata` where another setting is held."""
    n = len(shares)
    held = np.zeros(n, dtype=np.int64) if strata is None else strata
    rng = np.random.default_rng(0)
    order = np.lexsort((np.arange(n), held))
    keys = rng.random((min(PERMUTATIONS, LARGEST // max(n, 1)), n)) + held[order]
    drawn = np.empty(keys.shape)
    drawn[:, order] = shares[order][np.argsort(keys, axis=1, kind="stable")]
    return drawn


def p_of_levels(
    shares: Float[np.ndarray, " configurations"],
    codes: Int[np.ndarray, " configurations"],
    strata: Int[np.ndarray, " configurations"] | None = None,
    drawn: Float[np.ndarray, "permutations configurations"] | None = None,
) -> float:
    """Permutation test that a configuration's share does not depend on its level.

    The statistic is the sum of squares between the levels. Configurations are permuted whole, since
    the seeds of one are no independent evidence; within `strata`, where another setting is held.
    NaN where all shares are equal.

    Args:
        shares: of the runs of each configuration that were lost.
        codes: the level of each.
        strata: the level of each in the setting that is held.
        drawn: `permuted` shares of the same strata, where several tests share them.
    """
    if np.ptp(shares) == 0:
        return float("nan")
    _, places = np.unique(codes, return_inverse=True)
    levels = np.eye(places.max() + 1)[places]
    held = np.zeros(len(codes), dtype=np.int64) if strata is None else strata
    for one in np.unique(held):
        levels[held == one] -= levels[held == one].mean(axis=0)
    if drawn is None:
        drawn = permuted(shares, strata)
    # squares of the levels' sums within strata, weighted by the inverse of their information
    weight = np.linalg.pinv(levels.T @ levels, hermitian=True)
    seen, chance = shares @ levels, drawn @ levels
    own, rounding = float(seen @ weight @ seen), 1e-12 * float(shares @ shares)
    others = np.einsum("ij,ij->i", chance @ weight, chance)
    return float((1 + (others >= own * (1 - 1e-9) - rounding).sum()) / (1 + len(drawn)))
