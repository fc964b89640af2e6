"""Which combinations of settings a sweep asked for, and what it therefore cannot tell apart."""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.stats import contingency

from analysis.hyperparameters import INACTIVE, Hyperparameter
from analysis.study import Study

ASSOCIATED = 0.3
"""Cramer's V above which the plain means of two hyperparameters are mixed up."""
INFLATED = 5.0
"""Variance inflation above which the others predict a hyperparameter."""


class Pair(NamedTuple):
    """Two hyperparameters over the configurations in which both are active."""

    first: Hyperparameter
    second: Hyperparameter
    counts: Int[np.ndarray, "levels levels"]
    """Configurations in each cell; rows are the first's levels."""
    association: float
    """Cramer's V: 0 where every level of one meets those of the other alike, 1 where one gives the
    other away; NaN where either has one level."""

    @property
    def rows(self) -> list[str]:
        """The first's levels."""
        return _active(self.first)

    @property
    def columns(self) -> list[str]:
        """The second's levels."""
        return _active(self.second)


class Factorial(NamedTuple):
    """How much of the full grid the sweep asked for."""

    asked: int
    possible: int
    conditional: list[str]
    """Hyperparameters left out, since not all combinations with them exist."""


def _active(one: Hyperparameter) -> list[str]:
    return [level for level in one.order if level != INACTIVE]


def _rows(study: Study) -> Int[np.ndarray, " n"]:
    """A trial of each configuration that was asked for, whatever became of it."""
    return np.unique(study.trials["configuration"].to_numpy(), return_index=True)[1]


def factorial(study: Study) -> Factorial:
    """Combinations of levels asked for, of those that the levels allow."""
    whole = [one for one in study.hyperparameters if INACTIVE not in one.order]
    points = {tuple(one.levels[row] for one in whole) for row in _rows(study)}
    possible = int(np.prod([len(one.order) for one in whole], dtype=object)) if whole else 0
    rest = [one.name for one in study.hyperparameters if INACTIVE in one.order]
    return Factorial(len(points) if whole else 0, possible, rest)


def pairs(study: Study) -> list[Pair]:
    """Every two hyperparameters."""
    rows = _rows(study)
    places = {
        one.key: np.array([_place(one, one.levels[row]) for row in rows])
        for one in study.hyperparameters
    }
    return [
        _pair(a, b, places[a.key], places[b.key]) for a, b in combinations(study.hyperparameters, 2)
    ]


def _place(one: Hyperparameter, level: str) -> int:
    return -1 if level == INACTIVE else one.order.index(level)


def _pair(a: Hyperparameter, b: Hyperparameter, i: np.ndarray, j: np.ndarray) -> Pair:
    both = (i >= 0) & (j >= 0)
    counts = np.zeros((len(_active(a)), len(_active(b))), dtype=np.int64)
    np.add.at(counts, (i[both], j[both]), 1)
    present = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    association = np.nan
    if min(present.shape) > 1:
        association = float(contingency.association(present, method="cramer"))
    return Pair(a, b, counts, association)


def inflations(study: Study) -> dict[str, float]:
    """1 / (1 - R^2) of each number that is active throughout, by the others; inf where exact."""
    rows = _rows(study)
    numbers = {
        one.name: one.numbers[rows] for one in study.hyperparameters if one.kind == "numeric"
    }
    numbers = {name: x for name, x in numbers.items() if np.ptp(x) > 0}
    if len(numbers) < 2 or len(rows) <= len(numbers):
        return {}
    found = {}
    for name, x in numbers.items():
        others = [other for key, other in numbers.items() if key != name]
        design = np.column_stack([np.ones(len(rows)), *others])
        fitted, *_ = np.linalg.lstsq(design, x, rcond=None)
        left = ((x - design @ fitted) ** 2).sum() / ((x - x.mean()) ** 2).sum()
        found[name] = float(1 / left) if left > 1e-12 else float("inf")
    return found
