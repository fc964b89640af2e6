"""Runs that came to nothing, as an outcome of its own: which settings they go with."""

from typing import NamedTuple

import numpy as np

from analysis.statistics.multiplicity import CLAIMED
from analysis.statistics.shares import Share, p_of_levels, share
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study, once


class Failing(NamedTuple):
    """One hyperparameter and the share of runs that came to nothing."""

    hyperparameter: Hyperparameter
    shares: tuple[tuple[str, Share], ...]
    """By level, in order."""
    within: str | None
    """The hyperparameter that goes with failures most, inside whose levels this one is tested."""
    p: float
    """Permutation test over configurations; NaN where it cannot be tested."""
    q: float = float("nan")
    """Adjusted over all settings."""

    @property
    def is_claimed(self) -> bool:
        """Whether the share depends on the level."""
        return self.q < CLAIMED

    @property
    def worst(self) -> tuple[str, Share]:
        """The level with the largest share."""
        return max(self.shares, key=lambda one: one[1].value)


@once
def of_settings(study: Study) -> list[Failing]:
    """One per hyperparameter; none where no run, or every run, came to nothing."""
    counted, lost = study.ended, study.ruined
    if not lost.any() or lost[counted].all():
        return []
    places = np.flatnonzero(counted)
    _, first, cluster = np.unique(
        study.trials["configuration"].to_numpy()[places], return_index=True, return_inverse=True
    )
    shares = np.bincount(cluster, weights=lost[places]) / np.bincount(cluster)
    codes = {
        one.key: np.array([one.order.index(one.levels[i]) for i in places[first]])
        for one in study.hyperparameters
    }
    plain = {key: p_of_levels(shares, code) for key, code in codes.items()}
    known = [key for key, p in plain.items() if p == p]
    lead = min(known, key=lambda key: plain[key]) if known else None
    found = []
    for one in study.hyperparameters:
        strata = None if lead in (None, one.key) else codes[lead]
        p = plain[one.key] if strata is None else p_of_levels(shares, codes[one.key], strata)
        levels = []
        for level in one.order:
            inside = counted & one.at(level)
            if inside.any():
                levels.append((level, share(int(lost[inside].sum()), int(inside.sum()))))
        held = next(
            (h.name for h in study.hyperparameters if h.key == lead and strata is not None), None
        )
        found.append(Failing(one, tuple(levels), held, p))
    return found
