"""Seeds of one configuration: what is noise, and what they share with other configurations.

A seed that several configurations were run with shifts them together (the same data order, the
same initial draw), so it is a block: y = mean of the configuration + shift of the seed + noise.
Comparisons of configurations rest on the noise within blocks.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

TOLERANCE = 1e-9


class Replicates(NamedTuple):
    """One metric of every trial, split into configurations, shared seeds and noise."""

    y: Float[np.ndarray, " n"]
    """Of the trials."""
    cluster: Int[np.ndarray, " n"]
    """The configuration of each trial, 0 to C - 1."""
    blocks: Float[np.ndarray, "n b"]
    """Columns for the shared seeds, independent of the configurations; none where none is shared.
    """
    means: Float[np.ndarray, " configurations"]
    """Of the configurations, at the average seed."""
    counts: Int[np.ndarray, " configurations"]
    """Trials of each."""
    left: Float[np.ndarray, " n"]
    """What configurations and blocks leave of each trial."""
    squares: float
    """Of `left`, the sum."""
    df: int
    """Degrees of freedom of `squares`."""
    shifts: Float[np.ndarray, " seeds"]
    """Of the shared seeds: what each adds to all configurations, 0 for the first."""
    spreads: Float[np.ndarray, " configurations"]
    """Each configuration's own sd within the blocks; NaN with a single trial."""

    @property
    def variance(self) -> float | None:
        """Of the noise, pooled; None without replicates."""
        return self.squares / self.df if self.df else None


def replicates(
    y: Float[np.ndarray, " n"], cluster: Int[np.ndarray, " n"], seeds: Int[np.ndarray, " n"]
) -> Replicates:
    """Fit configuration + seed by least squares.

    Args:
        y: the metric of every trial, on its scale.
        cluster: the configuration of each, numbered from 0 without gaps.
        seeds: the seed of each, as any number; equal numbers are the same seed.
    """
    if not len(y):
        nothing, none = np.zeros(0), np.zeros(0, dtype=np.int64)
        return Replicates(
            y, none, np.zeros((0, 0)), nothing, none, nothing, 0.0, 0, nothing, nothing
        )
    counts = np.bincount(cluster)
    _, places = np.unique(seeds, return_inverse=True)
    dummies = np.eye(places.max() + 1)[places]
    users = [len(np.unique(cluster[places == seed])) for seed in range(places.max() + 1)]
    dummies = dummies[:, np.array(users) > 1]
    within = dummies - _means(dummies, cluster)[cluster]
    chosen = _independent(within)
    # about their average: a configuration that lacks a seed is brought to the average of all
    blocks, within = dummies[:, chosen] - dummies[:, chosen].mean(axis=0), within[:, chosen]
    plain = _means(y[:, None], cluster)[:, 0]
    centred = y - plain[cluster]
    shifts = np.linalg.lstsq(within, centred, rcond=None)[0] if within.size else np.zeros(0)
    left = centred - within @ shifts
    means = _means((y - blocks @ shifts)[:, None], cluster)[:, 0]
    df = len(y) - len(counts) - blocks.shape[1]
    squares = float((left**2).sum())
    if squares < 1e-24 * max(float((y**2).sum()), 1e-300):
        squares, left = 0.0, np.zeros_like(left)
    own = np.bincount(cluster, weights=left**2)
    # the share of a residual's variance that the fit of the blocks leaves, as in a balanced design
    kept = df / max(len(y) - len(counts), 1)
    free = np.where(counts > 1, (counts - 1) * (kept if kept > 0 else np.nan), np.nan)
    return Replicates(
        y,
        cluster,
        blocks,
        means,
        counts,
        left,
        squares,
        df,
        np.append(0.0, shifts),
        np.sqrt(own / free),
    )


def _means(values: Float[np.ndarray, "n c"], cluster: Int[np.ndarray, " n"]) -> np.ndarray:
    counts = np.bincount(cluster)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, cluster, values)
    return sums / counts[:, None]


def _independent(x: Float[np.ndarray, "n c"]) -> list[int]:
    """Columns that span x, the first of equals."""
    kept: list[int] = []
    basis = np.zeros((x.shape[0], 0))
    for j in range(x.shape[1]):
        rest = x[:, j] - basis @ (basis.T @ x[:, j])
        rest -= basis @ (basis.T @ rest)
        size = np.linalg.norm(rest)
        if size > TOLERANCE * np.sqrt(len(rest)):
            kept.append(j)
            basis = np.column_stack([basis, rest / size])
    return kept


@lru_cache(maxsize=64)
def least_gap(configurations: int, df: int, level: float = 0.05) -> float:
    """How many standard errors of a difference tell two of many configurations apart.

    Tukey's studentised range over sqrt(2): with the probability 1 - level no two of equally good
    configurations are told apart, however many pairs are looked at.
    """
    if configurations < 2:
        return float("nan")
    return float(stats.studentized_range.ppf(1 - level, configurations, df) / 2**0.5)
