"""Variance components: noise between seeds, and shifts by shared seeds.

A seed that several configurations were run with shifts them together (the same data order, the
same initial draw), so it is a block: y = mean of the configuration + shift of the seed + noise.
Comparisons of configurations rest on the noise within blocks.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.sparse.csgraph import connected_components

TOLERANCE = 1e-9
DOUBT = 0.25
"""p of the shared seeds' shifts below which they may be real."""


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
    plain_squares: float
    """Of what the configurations alone leave of each trial, the sum."""
    shift: float
    """Sd of what the shared seeds add to all configurations; 0 where no configuration shows it."""
    shift_df: int
    """Its degrees of freedom."""
    sets: Int[np.ndarray, " configurations"]
    """Equal numbers: the same seeds."""
    islands: Int[np.ndarray, " configurations"]
    """Configurations that shared seeds link, directly or through others, have one number, from 1;
    those linked to none have 0. Where seeds shift all, islands differ by their seeds too."""
    spreads: Float[np.ndarray, " configurations"]
    """Each configuration's own sd within the blocks; NaN with a single trial."""

    @property
    def variance(self) -> float | None:
        """Of the noise, pooled; None without replicates."""
        return self.squares / self.df if self.df else None

    @property
    def is_divided(self) -> bool:
        """Whether seeds may pass for settings: islands, and no evidence that seeds shift nothing.

        The shifts count as nothing where an F-test against the noise within blocks does not come
        near them.
        """
        if self.islands.max(initial=0) < 1 or len(np.unique(self.islands)) < 2:
            return False
        if not (self.df and self.shift_df):
            return True
        added = self.plain_squares - self.squares
        f = added / self.shift_df / max(self.squares / self.df, 1e-300)
        return float(stats.f.sf(f, self.shift_df, self.df)) < DOUBT


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
            y=y,
            cluster=none,
            blocks=np.zeros((0, 0)),
            means=nothing,
            counts=none,
            left=nothing,
            squares=0.0,
            df=0,
            plain_squares=0.0,
            shift=0.0,
            shift_df=0,
            sets=none,
            islands=none,
            spreads=nothing,
        )
    counts = np.bincount(cluster)
    _, places = np.unique(seeds, return_inverse=True)
    used = np.zeros((len(counts), places.max() + 1), dtype=bool)
    used[cluster, places] = True
    dummies = np.eye(used.shape[1])[places][:, used.sum(axis=0) > 1]
    within = dummies - _means(dummies, cluster)[cluster]
    chosen = _independent(within)
    plain = _means(y[:, None], cluster)[:, 0]
    centred = y - plain[cluster]
    # the shortest of all solutions: the shifts of an island sum to 0
    all_shifts = np.linalg.lstsq(within, centred, rcond=None)[0] if within.size else np.zeros(0)
    # about their average: a configuration that lacks a seed is brought to the average of all
    blocks, within = dummies[:, chosen] - dummies[:, chosen].mean(axis=0), within[:, chosen]
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
        y=y,
        cluster=cluster,
        blocks=blocks,
        means=means,
        counts=counts,
        left=left,
        squares=squares,
        df=df,
        plain_squares=float((centred**2).sum()),
        shift=float(np.sqrt((all_shifts**2).sum() / max(len(chosen), 1))),
        shift_df=len(chosen),
        sets=np.unique(used, axis=0, return_inverse=True)[1].reshape(-1),
        islands=_islands(used),
        spreads=np.sqrt(own / free),
    )


def _islands(used: Bool[np.ndarray, "configurations seeds"]) -> Int[np.ndarray, " configurations"]:
    """The configurations that shared seeds link, numbered from 1; 0 for those linked to none."""
    linked = (used.astype(np.int64) @ used.T) > 0
    _, found = connected_components(linked, directed=False)
    sizes = np.bincount(found)
    numbers = np.cumsum(sizes > 1) * (sizes > 1)
    return numbers[found].astype(np.int64)


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
