"""What the sweep asked for, and what that keeps it from telling apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.blocks import Block, Claim
from analysis.coverage import ASSOCIATED, INFLATED, Pair, factorial, inflations, pairs
from analysis.hyperparameters import Hyperparameter
from analysis.markdown import MISSING, counted, escaped, listed, number, table
from analysis.study import Study


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


def coverage(study: Study) -> list[Block]:
    """Levels with their counts, warnings, and the cells of every pair folded away."""
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
    header = ["hyperparameter", "and", "Cramér's V", "empty cells", "configurations a cell"]
    yield "<details><summary>Every pair of hyperparameters</summary>"
    yield table(header, rows, left=2)
    yield "</details>"
