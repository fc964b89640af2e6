"""Settings that a sweep varied, with each trial's value and level."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from sae_sweep.records import LEFT_OUT, TrialRecord
from sae_sweep.records.store import Member

SEEDS = ("train.seed_init", "train.seed_data")
"""Replicates of a configuration, not settings to compare."""

INACTIVE = "(inactive)"
MANY = 8
"""Distinct numbers above which levels are quarters of the trials instead of values."""


@dataclass(frozen=True)
class Hyperparameter:
    """A setting that differs between trials."""

    key: str
    """As in the settings, e.g. sae.k."""
    name: str
    """Its last part, or the whole key where two would be called the same."""
    kind: Literal["numeric", "conditional", "categorical"]
    """conditional: a number that not every trial uses."""
    given: list[Any]
    """One per trial; None where the setting has no effect."""
    levels: list[str]
    """One per trial: the value as text, or its range."""
    order: list[str]
    """The distinct levels, ascending; the inactive one last."""

    def at(self, level: str) -> Bool[np.ndarray, " n"]:
        """The trials at a level."""
        return np.asarray(self._levels == level, dtype=bool)

    @cached_property
    def _levels(self) -> np.ndarray:
        return np.array(self.levels, dtype=object)

    @property
    def is_log(self) -> bool:
        """Whether its numbers span so much that only their ratios are comparable."""
        numbers = [value for value in self.given if value is not None]
        return self.kind != "categorical" and min(numbers) > 0 and max(numbers) >= 4 * min(numbers)

    @cached_property
    def numbers(self) -> Float[np.ndarray, " n"]:
        """The values on the hyperparameter's own scale; NaN where inactive."""
        values = np.array([math.nan if one is None else float(one) for one in self.given])
        return np.log10(values) if self.is_log else values


def find(members: Sequence[Member]) -> list[Hyperparameter]:
    """The settings that vary, in the order of the axes."""
    keys = list(dict.fromkeys(key for member in members for key in member.assignment))
    columns = {key: _values(key, members) for key in keys if key not in SEEDS}
    varying = {key: values for key, values in columns.items() if len(set(map(str, values))) > 1}
    shared = Counter(key.rsplit(".", maxsplit=1)[-1] for key in varying)
    found = []
    for key, values in varying.items():
        short = key.rsplit(".", maxsplit=1)[-1]
        levels, order = _levels(values)
        name = short if shared[short] == 1 else key
        found.append(Hyperparameter(key, name, _kind(values), values, levels, order))
    return found


def _values(key: str, members: Sequence[Member]) -> list[Any]:
    """A setting's value in every trial.

    The resolved settings leave out what has no effect. So a setting that some trials record and
    others do not is inactive in the others, unless they were given the default at which it is
    left out; one that none records (expansion_factor, which is resolved to n_latents) is active
    in all.
    """
    recorded = [_is_recorded(key, member.trial) for member in members]
    active = (
        [
            is_recorded or (key in LEFT_OUT and member.assignment.get(key) == LEFT_OUT[key])
            for is_recorded, member in zip(recorded, members, strict=True)
        ]
        if any(recorded)
        else [True] * len(members)
    )
    return [
        member.assignment.get(key) if acts else None
        for member, acts in zip(members, active, strict=True)
    ]


def _is_recorded(key: str, trial: TrialRecord) -> bool:
    part: Any = trial.config
    for name in key.split("."):
        if not isinstance(part, dict) or name not in part:
            return False
        part = part[name]
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(values: list[Any]) -> Literal["numeric", "conditional", "categorical"]:
    active = [value for value in values if value is not None]
    if not all(_is_number(value) for value in active):
        return "categorical"
    return "numeric" if len(active) == len(values) else "conditional"


def _levels(values: list[Any]) -> tuple[list[str], list[str]]:
    """The level of every trial, and the distinct levels in order."""
    active = [value for value in values if value is not None]
    if all(_is_number(value) for value in active):
        distinct = sorted({float(value) for value in active})
        names = _ranges(active) if len(distinct) > MANY else {one: f"{one:g}" for one in distinct}
        levels = [INACTIVE if value is None else names[float(value)] for value in values]
        order = list(dict.fromkeys(names[one] for one in distinct))
    else:
        levels = [INACTIVE if value is None else str(value) for value in values]
        order = sorted(set(levels) - {INACTIVE})
    return levels, order + [INACTIVE] * (INACTIVE in levels)


def _ranges(values: list[Any]) -> dict[float, str]:
    """Each number's quarter of the trials, named by its ends; equal numbers stay together."""
    numbers = np.sort(np.array(values, dtype=float))
    starts = np.unique(numbers[np.arange(4) * len(numbers) // 4])
    quarter = np.searchsorted(starts, numbers, side="right")
    names = {}
    for number, i in zip(numbers, quarter, strict=True):
        inside = numbers[quarter == i]
        names[float(number)] = f"{inside[0]:.3g} to {inside[-1]:.3g}"
    return names
