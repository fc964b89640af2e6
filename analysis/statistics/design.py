"""A sweep's hyperparameters as the columns of an additive model."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg

from analysis.study.hyperparameters import INACTIVE, Hyperparameter

TOLERANCE = 1e-9
"""Share of a column that must be its own to count as another dimension."""


class Factor(NamedTuple):
    """One hyperparameter's part of a design."""

    hyperparameter: Hyperparameter
    levels: list[str]
    """Those that occur, in order; the inactive one only where no other factor says so already."""
    codes: Int[np.ndarray, " n"]
    """The level of each observation; -1 where inactive and said by another factor."""
    coding: Float[np.ndarray, "levels c"]
    """The columns' values at each level; they sum to 0 over the levels."""
    columns: list[int]
    """Its columns' places in the design; empty where it has fewer than two levels."""
    aliased: bool
    """Whether other factors can stand for it, so that its effect has no estimate."""

    @property
    def estimable(self) -> bool:
        """Whether the design tells its effect from the others'."""
        return bool(self.columns) and not self.aliased


class Design(NamedTuple):
    """The additive model u = b0 + sum_j f_j(level of factor j)."""

    x: Float[np.ndarray, "n p"]
    """Of full column rank: what others can stand for is left out."""
    factors: list[Factor]
    wanted: int
    """Columns before those were left out that others can stand for."""
    by_seeds: frozenset[str]
    """Names of the hyperparameters that are told apart from all others, but not from the seeds."""

    def without(self, factor: Factor) -> Float[np.ndarray, "n q"]:
        """The design of the other factors."""
        return np.delete(self.x, factor.columns, axis=1)

    @property
    def aliased(self) -> list[str]:
        """Names of the hyperparameters that cannot be told apart."""
        return [one.hyperparameter.name for one in self.factors if one.aliased]

    @property
    def is_too_small(self) -> bool:
        """Whether there are no more observations than columns: then all seem to change together."""
        return self.x.shape[0] <= self.wanted

    @property
    def residual_df(self) -> int:
        """Observations less parameters."""
        return self.x.shape[0] - self.x.shape[1]


def design(
    hyperparameters: list[Hyperparameter],
    rows: Int[np.ndarray, " n"],
    islands: Int[np.ndarray, " n"] | None = None,
) -> Design:
    """Code the hyperparameters over some of the trials, given by their places.

    Args:
        hyperparameters: those of the sweep.
        rows: a trial of each configuration.
        islands: groups of configurations that differ by what their seeds add, held as a factor
            without a name.
    """
    factors = _factors(hyperparameters, rows)
    parts = [_expanded(one) for one in factors]
    plain = np.hstack([np.ones((len(rows), 1)), *parts])
    x = plain
    if islands is not None:
        groups = np.eye(islands.max() + 1)[islands]
        x = np.hstack([plain, (groups - groups.mean(axis=0))[:, 1:]])
    rank = _rank(x)
    starts = np.cumsum([1, *(part.shape[1] for part in parts)])
    kept = _independent(x, rank)
    found, by_seeds = [], set()
    for factor, start, part in zip(factors, starts, parts, strict=False):
        span = range(start, start + part.shape[1])
        aliased = _rank(np.delete(x, list(span), axis=1)) + part.shape[1] > rank
        if aliased and islands is not None:
            others = _rank(np.delete(plain, list(span), axis=1)) + part.shape[1]
            by_seeds |= {factor.hyperparameter.name} if others == _rank(plain) else set()
        columns = [kept.index(column) for column in span if column in kept]
        found.append(factor._replace(columns=columns, aliased=aliased))
    return Design(x[:, kept], found, x.shape[1], frozenset(by_seeds))


def _factors(hyperparameters: list[Hyperparameter], rows: Int[np.ndarray, " n"]) -> list[Factor]:
    """Each hyperparameter's levels and coding; whether inactive is a level of its own."""
    factors = [_factor(one, rows, [INACTIVE]) for one in hyperparameters]
    for i, one in enumerate(hyperparameters):
        inactive = np.array([one.levels[row] == INACTIVE for row in rows], dtype=float)
        if not inactive.any() or inactive.all():
            continue
        others = [_expanded(other) for j, other in enumerate(factors) if j != i]
        explained = np.hstack([np.ones((len(rows), 1)), *others])
        if _rank(np.column_stack([explained, inactive])) > _rank(explained):
            factors[i] = _factor(one, rows, [])
    return factors


def _factor(one: Hyperparameter, rows: Int[np.ndarray, " n"], left_out: list[str]) -> Factor:
    here = [one.levels[row] for row in rows]
    occurring = set(here) - set(left_out)
    levels = [level for level in one.order if level in occurring]
    place = {level: i for i, level in enumerate(levels)}
    codes = np.array([place.get(level, -1) for level in here], dtype=np.int64)
    width = max(len(levels) - 1, 0)
    coding = np.vstack([np.eye(width), np.full((1, width), -1.0)])[: len(levels)]
    return Factor(one, levels, codes, coding, [], aliased=False)


def _expanded(factor: Factor) -> Float[np.ndarray, "n c"]:
    """A factor's columns over all observations; 0, the mean of its levels, where it is inactive."""
    nothing = np.zeros((1, factor.coding.shape[1]))
    return np.vstack([factor.coding, nothing])[factor.codes]


def _rank(x: Float[np.ndarray, "n p"]) -> int:
    return int(np.linalg.matrix_rank(x, tol=TOLERANCE * max(x.shape) ** 0.5)) if x.size else 0


def _independent(x: Float[np.ndarray, "n p"], rank: int) -> list[int]:
    """Columns that span the design."""
    if rank == x.shape[1]:
        return list(range(rank))
    _, _, order = linalg.qr(x, mode="economic", pivoting=True)
    return sorted(int(column) for column in order[:rank])
