"""Trials that no other beats, for objectives that are named."""

import difflib
from typing import NamedTuple

import numpy as np

from analysis.study import Study
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS, Metric
from sae_sweep.rules.dominance import Direction, pareto

OBJECTIVES = [one.name for one in METRICS.values() if one.direction != "none"]


class Front(NamedTuple):
    """The Pareto front of the ranked trials."""

    objectives: list[Metric]
    uids: list[str]
    """Its trials, ascending in the objectives after the first."""
    n: int
    """Ranked trials that have every objective."""

    @property
    def name(self) -> str:
        """The objectives with their directions."""
        return ", ".join(f"{one.name} {one.direction}" for one in self.objectives)


def fronts(study: Study) -> list[Front]:
    """Reconstruction against sparsity, then against dead latents and width: what of it varies.

    Then those that were asked for.
    """
    second = "l0" if study.l0_varies else "dead_features"
    wanted = [["fvu", second], ["fvu", "dead_features", "n_latents"]]
    if "l0" not in study.ranked:  # not measured: its setting stands for it
        wanted.insert(0, ["fvu", "k"])
    varying = [
        [name for name in names if name == "fvu" or _varies(study, name)] for names in wanted
    ]
    usual = [names for names in varying if len(names) > 1]
    every = [*usual, *map(list, study.objectives)]
    return [front(study, names) for i, names in enumerate(every) if names not in every[:i]]


def refuse_unknown(study: Study) -> None:
    """Refuse objectives that no trial has.

    Raises:
        BadInput: names those that there are.
    """
    for name in (name for names in study.objectives for name in names):
        if name not in study.trials or study.trials[name].isna().all():
            there = [one for one in OBJECTIVES if one in study.trials]
            there = [one for one in there if study.trials[one].notna().any()]
            raise BadInput(
                f"--objectives {name}: no trial of {study.run.name} has it; there are "
                f"{', '.join(there)}"
            )


def objectives(text: str) -> tuple[str, ...]:
    """Read names of objectives, separated by commas.

    Raises:
        BadInput: fewer than two, one twice, or one that is no metric with a direction.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in OBJECTIVES:
            close = difflib.get_close_matches(name, OBJECTIVES, n=3, cutoff=0.5)
            raise BadInput(
                f"--objectives {text}: {name} is no metric with a better direction; did you mean "
                f"{' or '.join(close or OBJECTIVES)}?"
            )
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"--objectives {text}: give two different metrics or more, e.g. fvu,k")
    return names


def front(study: Study, names: list[str]) -> Front:
    """The front for objectives by name."""
    objectives = [METRICS[name] for name in names]
    points = study.ranked.dropna(subset=names)
    directions: list[Direction] = ["up" if one.direction == "up" else "down" for one in objectives]
    mask = pareto(points[names].to_numpy(dtype=np.float64), directions)
    ordered = points[mask].sort_values([*names[1:], "fvu", "label"], kind="stable")
    return Front(objectives, [str(uid) for uid in ordered.index], len(points))


def _varies(study: Study, name: str) -> bool:
    return name in study.ranked and study.ranked[name].nunique() > 1
