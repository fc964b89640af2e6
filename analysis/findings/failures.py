"""Failed runs as an outcome of their own: which settings go with them."""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from analysis.statistics.multiplicity import CLAIMED
from analysis.statistics.shares import Share, p_of_levels, permuted, share
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study, once


class Failing(NamedTuple):
    """A hyperparameter, or a pair, and the share of failed runs."""

    hyperparameter: Hyperparameter
    second: Hyperparameter | None
    """The other of a pair."""
    levels: tuple[tuple[str, ...], ...]
    """Those that occur, in order; of a pair both."""
    runs: tuple[Share, ...]
    """Of each of these."""
    within: str | None
    """The hyperparameter that goes with failures most, inside whose levels the others are tested;
    None where none does by itself."""
    p: float
    """Permutation test over configurations; NaN where it cannot be tested."""
    q: float = float("nan")
    """Adjusted over all settings and pairs (Holm)."""

    @property
    def is_claimed(self) -> bool:
        """Whether the share depends on the level."""
        return self.q < CLAIMED


@once
def of_settings(study: Study) -> list[Failing]:
    """One per hyperparameter and per pair; none where no run, or every run, failed."""
    counted, lost = study.ended, study.ruined
    if not lost.any() or lost[counted].all():
        return []
    places = np.flatnonzero(counted)
    _, first, cluster = np.unique(
        study.trials["configuration"].to_numpy()[places], return_index=True, return_inverse=True
    )
    shares = np.bincount(cluster, weights=lost[places]) / np.bincount(cluster)
    settings = study.hyperparameters
    codes = [np.array([one.order.index(one.levels[i]) for i in places[first]]) for one in settings]
    drawn = permuted(shares)
    plain = [p_of_levels(shares, code, drawn=drawn) for code in codes]
    lead = int(np.nanargmin(plain)) if np.isfinite(plain).any() else None
    if lead is not None and not plain[lead] * len(settings) < CLAIMED:
        lead = None
    strata = None if lead is None else codes[lead]
    held = None if lead is None else settings[lead].name
    drawn = permuted(shares, strata)
    found = []
    for i, one in enumerate(settings):
        p = plain[i] if i == lead else p_of_levels(shares, codes[i], strata, drawn)
        levels, runs = _by_level(study, places, one)
        found.append(Failing(one, None, levels, runs, None if i == lead else held, p))
    for (i, one), (j, other) in combinations(enumerate(settings), 2):
        both = codes[i] * len(other.order) + codes[j]
        p = p_of_levels(shares, both, strata, drawn)
        levels, runs = _by_level(study, places, one, other)
        found.append(Failing(one, other, levels, runs, held, p))
    return found


def _by_level(
    study: Study, places: np.ndarray, *settings: Hyperparameter
) -> tuple[tuple[tuple[str, ...], ...], tuple[Share, ...]]:
    """The levels that occur among the runs that ended, and the share of each."""
    lost = study.ruined
    counts: dict[tuple[str, ...], list[int]] = {}
    for place in places:
        here = counts.setdefault(tuple(one.levels[place] for one in settings), [0, 0])
        here[0] += int(lost[place])
        here[1] += 1
    orders = [{level: i for i, level in enumerate(one.order)} for one in settings]
    ordered = sorted(
        counts, key=lambda key: [order[level] for order, level in zip(orders, key, strict=True)]
    )
    return tuple(ordered), tuple(share(*counts[key]) for key in ordered)
