"""Interactions: whether one hyperparameter's effect depends on another, and the best levels."""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.statistics.adjusted import groups, is_balanced, residual_squares
from analysis.statistics.design import Design, Factor
from analysis.statistics.fits import Fit, fit
from analysis.statistics.replicates import Replicates
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.samples import Sample
from sae_sweep.records import Metric

MOST_EMPTY = 0.2
"""Share of the pair's cells without an observation above which only its bend is tested."""
FEWEST_PER_PARAMETER = 3
"""Configurations beyond the parameters, interaction included, that a test without seeds needs."""
FEWEST_PER_CELL = 3
"""Configurations of every cell that a test of all cells without seeds needs: the variance of a cell
is not seen in fewer."""
LEVEL = 0.05


class BestOf(NamedTuple):
    """The best level of one hyperparameter at a level of the other."""

    at: str
    """The other's level."""
    level: str
    mean: float
    """On the metric's scale."""


class Pair(NamedTuple):
    """Two hyperparameters on one metric."""

    first: Hyperparameter
    second: Hyperparameter
    metric: Metric
    gain: float
    """Share of the metric's variance that the pair explains beyond the additive model."""
    f: float
    df: int
    p: float
    """Twice the smaller p of two tests: of all products of the levels, and of the product of the
    levels' places alone, which sees a moving optimum or a turned slope with one parameter."""
    q: float
    """Adjusted over all tests of the page; NaN until all are known."""
    moves: bool
    """Whether the best level of `first` differs between two levels of `second`, each of the two
    better than the other where it is best (Holm over the pairs of levels)."""
    best: tuple[BestOf, ...]
    """Of `first`, at each level of `second`."""

    @property
    def is_claimed(self) -> bool:
        """Whether the report claims it."""
        return self.q < LEVEL

    @property
    def figure(self) -> str:
        """The name of its heatmap."""
        pair = f"{self.first.name}_{self.second.name}".replace(".", "_")
        return f"interaction_{self.metric.name}_{pair}"


def of_metric(one: Sample, design: Design) -> Iterator[Pair]:
    """Test every pair that the sweep lets be tested on one metric."""
    balanced = bool(design.factors) and is_balanced(design, one.seen)
    less = residual_squares(design.x, one.y)
    total = float(((one.y - one.y.mean()) ** 2).sum())
    for a, b in combinations(design.factors, 2):
        if not (a.estimable and b.estimable):
            continue
        a, b = _ordered(a, b)
        fits = [
            _fitted(design, columns, one.seen, balanced=balanced)
            for columns in _candidates(design, a, b, replicated=bool(one.seen.df))
        ]
        tested = [each for each in fits if each is not None]
        results = [_test(design, each) for each in tested]
        known = [(p, f, df) for p, f, df in results if not np.isnan(p)]
        if not known:
            continue
        p, f, df = min(known)
        gain = max(less - residual_squares(tested[0].x, one.y), 0.0) / total
        found = [_moved(design, one.metric, a, b, each) for each in tested]
        # what all cells say needs no form; that of the places alone may bend where there is none
        moves, best = found[0]
        yield Pair(
            a.hyperparameter,
            b.hyperparameter,
            one.metric,
            gain,
            f,
            df,
            min(1.0, len(known) * p),
            np.nan,
            moves,
            best,
        )


def _ordered(a: Factor, b: Factor) -> tuple[Factor, Factor]:
    """The one whose best level is asked for, then the one at whose levels it is asked."""
    rank = {"train": 0, "sae": 1}

    def place(one: Factor) -> tuple[int, bool]:
        section = one.hyperparameter.key.partition(".")[0]
        is_size = one.hyperparameter.key in ("sae.k", "sae.n_latents", "sae.expansion_factor")
        return rank.get(section, 2), is_size

    return (a, b) if place(a) <= place(b) else (b, a)


def _candidates(
    design: Design, a: Factor, b: Factor, *, replicated: bool
) -> Iterator[Float[np.ndarray, "n c"]]:
    if _empty(a, b) <= MOST_EMPTY and (replicated or _fewest(a, b) >= FEWEST_PER_CELL):
        yield products(design, a, b)
    places = [_places(one) for one in (a, b)]
    if all(one is not None for one in places) and max(len(a.levels), len(b.levels)) > 2:
        yield (places[0] * places[1])[:, None]  # type: ignore[operator]


def _places(one: Factor) -> Float[np.ndarray, " n"] | None:
    """Each configuration's level as a centred number, 0 where inactive; None for categories.

    Two categories have an order.
    """
    if one.hyperparameter.kind == "categorical":
        return None if len(one.levels) > 2 else one.coding[one.codes][:, 0]
    active = [level for level in one.levels if level != INACTIVE]
    if len(active) < 2:
        return None
    numbers = one.hyperparameter.numbers
    means = np.array([numbers[one.hyperparameter.at(level)].mean() for level in active])
    centred = (means - means.mean()) / np.ptp(means)
    return np.append(centred, np.zeros(len(one.levels) - len(active) + 1))[one.codes]


def products(design: Design, a: Factor, b: Factor) -> Float[np.ndarray, "n c"]:
    """The columns of a pair's interaction: every column of one by every one of the other."""
    left, right = design.x[:, a.columns], design.x[:, b.columns]
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)


def _fewest(a: Factor, b: Factor) -> int:
    """Observations of the pair's rarest cell that has one."""
    _, counts = np.unique(np.stack([a.codes, b.codes]), axis=1, return_counts=True)
    return int(counts.min())


def _empty(a: Factor, b: Factor) -> float:
    """Share of the pair's cells without an observation."""
    both = (a.codes >= 0) & (b.codes >= 0)
    occupied = len(set(zip(a.codes[both], b.codes[both], strict=True)))
    return 1 - occupied / (len(a.levels) * len(b.levels))


def _fitted(
    design: Design, columns: Float[np.ndarray, "n c"], seen: Replicates, *, balanced: bool
) -> Fit | None:
    """The additive model with the columns that it does not span already."""
    basis, _ = np.linalg.qr(design.x)
    kept = []
    for column in columns.T:
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        size = float(np.linalg.norm(rest))
        if size > 1e-7 * max(float(np.linalg.norm(column)), 1.0):
            kept.append(column)
            basis = np.column_stack([basis, rest / size])
    if not kept:
        return None
    whole = np.column_stack([design.x, *kept])
    found = fit(whole, seen, groups(design), balanced=balanced)
    spare = len(seen.counts) - whole.shape[1]
    has_seeds = any(one.kind == "pure" for one in found.covariances)
    if not found.covariances or (not has_seeds and spare < FEWEST_PER_PARAMETER):
        return None
    return found


def _test(design: Design, found: Fit) -> tuple[float, float, int]:
    """p, F and degrees of freedom of the columns beyond the additive model."""
    base, whole = design.x.shape[1], found.x.shape[1]
    f, p = found.p_joint(np.eye(whole)[base:])
    return p, f, whole - base


def _moved(
    design: Design, metric: Metric, a: Factor, b: Factor, found: Fit
) -> tuple[bool, tuple[BestOf, ...]]:
    """Whether the best level of `a` surely changes with `b`, and which it is at each of them."""
    sign = -1.0 if metric.direction == "up" else 1.0
    rows, seen = _cells(design, a, b, found)
    cells = rows @ found.coefficients
    best: list[tuple[int, int]] = []
    for j in range(len(b.levels)):
        there = [i for i in range(len(a.levels)) if seen[i, j]]
        if there:
            best.append((min(there, key=lambda i: sign * cells[i, j]), j))
    chosen = tuple(BestOf(b.levels[j], a.levels[i], float(cells[i, j])) for i, j in best)
    tests = []
    for (i, j), (k, m) in combinations(best, 2):
        if i == k or not (seen[k, j] and seen[i, m]):
            tests.append(1.0)
            continue
        both = found.p_each(np.array([rows[k, j] - rows[i, j], rows[i, m] - rows[k, m]]))
        tests.append(float(both.max()) / 2)
    return bool(tests) and min(tests) * len(tests) < LEVEL, chosen


def _cells(design: Design, a: Factor, b: Factor, found: Fit) -> tuple[np.ndarray, np.ndarray]:
    """The fit's row of each of the pair's cells, and which cells were run.

    Other factors stand at the mean of their levels.
    """
    others = [i for one in design.factors if one not in (a, b) for i in one.columns]
    rows = np.zeros((len(a.levels), len(b.levels), found.x.shape[1]))
    seen = np.zeros(rows.shape[:2], dtype=bool)
    for i, j in np.ndindex(*seen.shape):
        inside = np.flatnonzero((a.codes == i) & (b.codes == j))
        if len(inside):
            seen[i, j] = True
            rows[i, j] = found.x[inside[0]]
            rows[i, j, others] = 0.0
    return rows, seen
