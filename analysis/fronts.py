"""Trials that no other beats, for objectives that are named."""

from typing import NamedTuple

import numpy as np

from analysis.study import Study
from sae_sweep.records import METRICS, Metric
from sae_sweep.rules.dominance import Direction, pareto


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
    """Reconstruction against sparsity, then against dead latents and width: what of it varies."""
    second = "l0" if study.l0_varies else "dead_features"
    wanted = [["fvu", second], ["fvu", "dead_features", "n_latents"]]
    varying = [
        [name for name in names if name == "fvu" or _varies(study, name)] for names in wanted
    ]
    distinct = [names for i, names in enumerate(varying) if names not in varying[:i]]
    return [front(study, names) for names in distinct if len(names) > 1]


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
