"""How the points of a sweep are found."""

import re
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Field, field_validator, model_validator

from sae_sweep.config.base import Count, OpenFraction, Positive, Strict
from sae_sweep.config.names import METRIC_NAMES, nearest
from sae_sweep.records import METRICS

Sampler = Literal["tpe", "gp", "nsga2", "qmc", "random"]

OBJECTIVES = [
    one.name for one in METRICS.values() if one.direction != "none" and one.kind != "diagnostic"
]
"""What a search can minimise or maximise."""

CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=|==)\s*([-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)\s*", re.I)


class Constraint(NamedTuple):
    """What a trial must satisfy to be chosen."""

    metric: str
    comparison: str
    """<=, >= or ==."""
    bound: float

    def violation(self, value: float) -> float:
        """How far a value is from satisfying it; 0 or less where it does."""
        over = value - self.bound
        match self.comparison:
            case "<=":
                return over
            case ">=":
                return -over
            case _:
                return abs(over)


class SearchConfig(Strict):
    """How points are found."""

    kind: Literal["grid", "random", "optuna", "target"] = "grid"
    """grid: every point; random: draws in every cell of the grid axes; optuna; target: an L0."""

    samples: Count = 16
    """random: draws a cell."""

    seed: int = 0
    """Seed of the draws."""

    sampler: Sampler = "tpe"
    """optuna: tpe, gp, nsga2, qmc or random."""

    trials: Count = 20
    """optuna, target: trials in all, seeds and every start of the sweep counted."""

    objective: Annotated[list[str], Field(min_length=1)] | None = None
    """optuna: a metric, in the direction in which it is better, or several: [fvu, l0]."""

    target: OpenFraction | None = None
    """Share of latents that are to be active (l0_fraction); optuna, target."""

    target_count: Positive | None = None
    """Latents per token that are to be active (l0), in place of search.target."""

    tolerance: OpenFraction = 0.1
    """target: how far l0 may be from the target, relative to it."""

    history: bool = True
    """target: learn from comparable trials of earlier sweeps."""

    constraints: list[str] = Field(default_factory=list)
    """optuna: what a trial must satisfy, e.g. ["dead_features <= 0.2", "always_on == 0"]."""

    per: list[str] | None = None
    """optuna: grid axes that have a study a level; all of them where null, the others are drawn."""

    at_once: Count | None = None
    """optuna, target: trials under way together; where null one a slot, on a GPU four."""

    @property
    def targets(self) -> dict[str, float | None]:
        """Both forms of the target, by name."""
        return {"target": self.target, "target_count": self.target_count}

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_several(cls, written: Any) -> Any:
        return [written] if isinstance(written, str) else written

    @field_validator("objective")
    @classmethod
    def _known_objectives(cls, names: list[str] | None) -> list[str] | None:
        for name in names or []:
            if name not in METRICS:
                hint = nearest(name, OBJECTIVES, METRIC_NAMES)
                raise ValueError(f"search.objective={name}: no such metric; {hint}")
            if name not in OBJECTIVES:
                raise ValueError(
                    f"search.objective={name}: neither more nor less of it is better; choose of "
                    f"{', '.join(OBJECTIVES)}"
                )
        if names and len(set(names)) < len(names):
            raise ValueError(f"search.objective={names}: a metric stands twice; keep one")
        return names

    @field_validator("sampler", mode="before")
    @classmethod
    def _known_sampler(cls, name: Any) -> Any:
        known = list(get_args(Sampler))
        if name not in known:
            hint = nearest(str(name), known)
            raise ValueError(
                f"search.sampler={name}: no such sampler; {hint} (there are {', '.join(known)})"
            )
        return name

    @field_validator("target", mode="before")
    @classmethod
    def _share(cls, target: Any) -> Any:
        if isinstance(target, int | float) and not 0 < target < 1:
            raise ValueError(
                f"search.target={target:g} is no share of the latents between 0 and 1: write 5 % "
                f"as 0.05, and a count of latents per token as search.target_count={target:g}"
            )
        return target

    @field_validator("constraints")
    @classmethod
    def _readable_constraints(cls, written: list[str]) -> list[str]:
        for one in written:
            read_constraint(one)
        return written

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        targets = [self.target, self.target_count]
        if None not in targets:
            raise ValueError(
                f"search.target={self.target:g} and search.target_count={self.target_count:g} "
                "both set the target: give one of them"
            )
        has_target = targets != [None, None]
        if has_target and self.objective is not None:
            raise ValueError(
                f"search.objective={self.objective} with a target: the distance from the target "
                "is the objective; leave one of them out, or write a bound as a constraint"
            )
        if self.kind == "target" and not has_target:
            raise ValueError(
                "search.kind=target without a target: give search.target=0.05 (a share of the "
                "latents) or search.target_count=50 (latents per token)"
            )
        if self.kind == "target" and self.constraints:
            raise ValueError(
                f"search.constraints={self.constraints} with search.kind=target: it seeks the L0 "
                "alone; use search=optuna with search.target and the constraints"
            )
        if self.kind == "optuna" and not has_target and self.objective is None:
            raise ValueError(
                "search.kind=optuna without an objective: give search.objective=fvu, several as "
                "[fvu,l0], or search.target=0.05"
            )
        return self


def read_constraint(written: str) -> Constraint:
    """Read a constraint.

    Raises:
        ValueError: not METRIC <= NUMBER, or no such metric.
    """
    found = CONSTRAINT.fullmatch(written)
    if found is None:
        raise ValueError(
            f'search.constraints="{written}" cannot be read: write a metric, <=, >= or ==, and a '
            'number, e.g. "dead_features <= 0.2"'
        )
    name, comparison, bound = found[1], found[2], float(found[3])
    if name not in METRICS:
        hint = nearest(name, list(METRICS), METRIC_NAMES)
        raise ValueError(f'search.constraints="{written}": no such metric; {hint}')
    return Constraint(name, comparison, bound)
