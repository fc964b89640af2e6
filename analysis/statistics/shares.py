"""Shares of runs by level: intervals, and whether they differ between levels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from statsmodels.stats.proportion import proportion_confint

PERMUTATIONS = 9_999


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


def p_of_levels(
    shares: Float[np.ndarray, " configurations"],
    codes: Int[np.ndarray, " configurations"],
    strata: Int[np.ndarray, " configurations"] | None = None,
) -> float:
    """Permutation test that a configuration's share does not depend on its level.

    The statistic is the sum of squares between the levels. Configurations are permuted whole, since
    the seeds of one are no independent evidence; within `strata`, where another setting is held.
    NaN where all shares are equal.
    """
    if np.ptp(shares) == 0:
        return float("nan")
    levels = np.eye(codes.max() + 1)[codes]
    levels = levels[:, levels.sum(axis=0) > 0]
    held = np.zeros(len(codes), dtype=np.int64) if strata is None else strata
    for one in np.unique(held):
        levels[held == one] -= levels[held == one].mean(axis=0)
    # squares of the levels' sums within strata, weighted by the inverse of their information
    weight = np.linalg.pinv(levels.T @ levels, hermitian=True)
    rng = np.random.default_rng(0)
    order = np.lexsort((np.arange(len(codes)), held))
    keys = rng.random((PERMUTATIONS, len(codes))) + held[order]
    drawn = np.empty((PERMUTATIONS, len(codes)))
    drawn[:, order] = shares[order][np.argsort(keys, axis=1, kind="stable")]
    seen, chance = shares @ levels, drawn @ levels
    own = float(seen @ weight @ seen)
    others = np.einsum("ij,jk,ik->i", chance, weight, chance)
    return float((1 + (others >= own * (1 - 1e-9)).sum()) / (1 + PERMUTATIONS))
