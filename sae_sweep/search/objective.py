"""The objectives and constraints of a search."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sae_sweep.config import Constraint, SearchConfig, read_constraint
from sae_sweep.records import METRICS, PENALTIES

SMALLEST_L0 = 1e-9
"""Of a trial without any active latent, so that its logarithm exists."""


class Objective(NamedTuple):
    """Metrics by name, or the distance of L0 from a target; and constraints."""

    names: tuple[str, ...]
    """The metrics; of a target l0_fraction or l0."""
    target: float | None
    constraints: tuple[Constraint, ...]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Which way each value is better, in Optuna's words."""
        if self.target is not None:
            return ["minimize"]
        up = [METRICS[name].direction == "up" for name in self.names]
        return ["maximize" if one else "minimize" for one in up]

    @property
    def titles(self) -> list[str]:
        """Titles of the values."""
        if self.target is not None:
            return [f"|ln({self.names[0]} / {self.target:g})|"]
        return list(self.names)

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the metrics that it needs."""
        return frozenset([*self.names, *(one.metric for one in self.constraints)])

    def values(self, metrics: dict[str, float]) -> list[float] | None:
        """One number per objective; None where one is missing."""
        found = [metrics.get(name, math.nan) for name in self.names]
        if not all(math.isfinite(value) for value in found):
            return None
        if self.target is not None:
            return [abs(math.log(max(found[0], SMALLEST_L0) / self.target))]
        return found

    def violations(self, metrics: dict[str, float]) -> dict[str, float]:
        """Violation of each constraint; 0 or less where it is satisfied."""
        return {
            f"{one.metric} {one.comparison} {one.bound:g}": one.violation(metrics[one.metric])
            for one in self.constraints
            if math.isfinite(metrics.get(one.metric, math.nan))
        }


def read_objective(search: SearchConfig) -> Objective:
    """The objective that the settings state; fvu where nothing is sought."""
    if search.kind not in ("optuna", "target"):
        return Objective(("fvu",), None, ())
    constraints = tuple(map(read_constraint, search.constraints))
    if search.target is not None:
        return Objective(("l0_fraction",), search.target, constraints)
    if search.target_count is not None:
        return Objective(("l0",), search.target_count, constraints)
    return Objective(tuple(search.objective or ()), None, constraints)


def pooled(names: Sequence[str], seeds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average metrics over the seeds of a configuration, each on its declared scale."""
    return {
        name: _mean([one[name] for one in seeds], log=METRICS[name].scale == "log")
        for name in names
        if all(name in one for one in seeds)
    }


def _mean(values: list[float], *, log: bool) -> float:
    if log and min(values) > 0:
        return math.exp(math.fsum(map(math.log, values)) / len(values))
    return math.fsum(values) / len(values)


def degenerate(search: SearchConfig, drawn: set[str]) -> str | None:
    """Warn where the optimum lies at an end of an axis whatever the data.

    Less sparsity reconstructs better: without a target, an objective of sparsity or a constraint
    the answer is the lowest weight of its penalty.
    """
    goal = read_objective(search)
    sparse = {"l0", "l0_fraction", "k"}
    reconstruction = {"fvu", "mse", "explained_variance"}
    weight = next((name for name in PENALTIES if f"sae.{name}" in drawn), None)
    if search.kind != "optuna" or weight is None:
        return None
    if not set(goal.names) <= reconstruction or goal.target is not None:
        return None
    if any(one.metric in sparse for one in goal.constraints):
        return None
    return (
        f"search.objective={', '.join(goal.names)} over sae.{weight} is degenerate: the lowest "
        f"{weight} wins, since nothing asks for sparsity; add l0 to the objectives, a constraint "
        'such as "l0_fraction <= 0.05", or seek search.target=0.05 instead'
    )
