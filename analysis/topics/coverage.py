"""Coverage of the design: combinations of settings that were run, and confounded settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy import stats
from scipy.stats import contingency

from analysis.context import ReportContext
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, counted, escaped, listed, number, table
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.table import Study

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
    """One trial per requested configuration, whatever its status."""
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


@dataclass(frozen=True)
class Asked:
    """How much of the full grid was asked for."""

    combinations: int
    possible: int
    left_out: tuple[str, ...]
    """Hyperparameters that are not active throughout."""

    @property
    def words(self) -> str:
        """The sentence."""
        besides = (
            f", {listed([escaped(one) for one in self.left_out])} left aside"
            if self.left_out
            else ""
        )
        return (
            f"{self.combinations:,} of the {self.possible:,} combinations of levels were asked for "
            f"({100 * self.combinations / self.possible:.3g} %{besides})."
        )


@dataclass(frozen=True)
class Associated:
    """Two hyperparameters whose levels go together."""

    first: str
    second: str
    cramers_v: float
    empty: int
    cells: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.first)} and {escaped(self.second)}** go together (Cramér's V = "
            f"{self.cramers_v:.2f}; {self.empty:,} of {self.cells:,} cells are empty): their plain "
            "means and correlations are mixed up."
        )


@dataclass(frozen=True)
class Inflated:
    """A number that the other hyperparameters predict."""

    hyperparameter: str
    factor: float | None
    """Variance inflation; None where the others give it exactly."""

    @property
    def words(self) -> str:
        """The sentence."""
        name = escaped(self.hyperparameter)
        if self.factor is None:
            return f"**{name}** follows exactly from the other numbers."
        return (
            f"**{name}** is predicted by the other numbers (variance inflation "
            f"{number(self.factor, 3)}): its adjusted effect is imprecise."
        )


@dataclass(frozen=True)
class Diverged:
    """How many trials diverged, of those that ended."""

    diverged: int
    ended: int
    low: float
    high: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"{self.diverged:,} of {counted(self.ended, 'trial')} that ended diverged "
            f"({100 * self.diverged / self.ended:.3g} %, 95 % interval "
            f"{100 * self.low:.3g} to {100 * self.high:.3g} %): no ranked figure includes them."
        )


def coverage(context: ReportContext) -> list[Block]:
    """Levels with their counts, warnings, and the cells of every pair folded away."""
    study = context.study
    if not study.hyperparameters or study.trials.empty:
        return []
    found, inflated = pairs(study), inflations(study)
    note = (
        "Configurations at each level, whatever became of them. VIF: variance inflation by the "
        f"other numbers. Warned of: Cramér's V above {ASSOCIATED}, VIF above {INFLATED:g}."
    )
    rows = [
        [escaped(one.name), f"{len(one.order):,}", _levels(study, one), _vif(one, inflated)]
        for one in study.hyperparameters
    ]
    levels = table(["hyperparameter", "levels", "configurations at each", "VIF"], rows, left=1)
    return [
        "## Coverage",
        note,
        *_claims(study, found, inflated),
        levels,
        *_cells(found),
    ]


def _levels(study: Study, one: Hyperparameter) -> str:
    configurations = study.trials["configuration"].to_numpy()
    return ", ".join(
        f"{escaped(level)}: {len(np.unique(configurations[one.at(level)])):,}"
        for level in one.order
    )


def _vif(one: Hyperparameter, inflated: dict[str, float]) -> str:
    factor = inflated.get(one.name)
    if factor is None:
        return MISSING
    return "∞" if np.isinf(factor) else number(round(factor, 2), 3)


def _claims(study: Study, found: list[Pair], inflated: dict[str, float]) -> Iterator[Claim]:
    grid = factorial(study)
    if grid.possible:
        yield Asked(grid.asked, grid.possible, tuple(grid.conditional))
    for one in found:
        if one.association > ASSOCIATED:
            empty = int((one.counts == 0).sum())
            names = one.first.name, one.second.name
            yield Associated(*names, one.association, empty, one.counts.size)
    for name, factor in inflated.items():
        if factor > INFLATED:
            yield Inflated(name, None if np.isinf(factor) else factor)
    ended = int((study.where("done") | study.where("diverged") | study.where("stopped")).sum())
    diverged = int(study.where("diverged").sum())
    if diverged:
        bounds = stats.binomtest(diverged, ended).proportion_ci(method="wilson")
        yield Diverged(diverged, ended, float(bounds.low), float(bounds.high))


def _cells(found: list[Pair]) -> Iterator[str]:
    if not found:
        return
    rows = [
        [
            escaped(one.first.name),
            escaped(one.second.name),
            MISSING if np.isnan(one.association) else f"{one.association:.2f}",
            f"{int((one.counts == 0).sum()):,} of {one.counts.size:,}",
            f"{int(one.counts.min()):,} to {int(one.counts.max()):,}",
        ]
        for one in found
    ]
    header = ["hyperparameter", "and", "Cramér's V", "empty cells", "configurations per cell"]
    yield "<details><summary>Every pair of hyperparameters</summary>"
    yield table(header, rows, left=2)
    yield "</details>"
