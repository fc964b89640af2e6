"""How l0 responds to a penalty in this sweep: one fit per width, and what meets the target."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from analysis.study.settings import text
from analysis.study.table import Study
from analysis.topics.response.suggest import FARTHEST, LEAST_ALPHAS, estimable
from sae_sweep.records import PENALTIES, TrialRecord, l0_setting
from sae_sweep.rules import history, response
from sae_sweep.rules.response import Observation, Posterior

MOST_CURVES = 3
LEAST_SEARCHED = 3
"""Distinct weights from which a search's curve is fitted."""
MOST_WIDTHS = 6
MOST_FITTED = 60
"""Trials of a curve that are fitted; of more, so many at random: time grows with their cube."""


class Fit(NamedTuple):
    """One width of one curve."""

    n_latents: int
    known: list[Observation]
    """Its own trials, ascending in l1_alpha."""
    posterior: Posterior
    """From all widths of the curve."""

    @property
    def slope(self) -> float:
        """Slope d ln l0 / d ln l1_alpha at the geometric middle of the width's l1_alpha."""
        first, last = self.known[0].l1_alpha, self.known[-1].l1_alpha
        return self.posterior.slope((math.log(first) + math.log(last)) / 2)

    def alpha(self, target: float) -> tuple[float, float, float] | None:
        """The l1_alpha that meets a share, low end, median, high end; None far from the data."""
        low, middle, high = self.posterior.interval(target)
        if not 0 < middle < math.inf:
            return None
        first, last = self.known[0].l1_alpha, self.known[-1].l1_alpha
        beyond = max(math.log10(first / middle), math.log10(middle / last))
        return None if beyond > FARTHEST else (low, middle, high)


class Curve(NamedTuple):
    """Trials that differ in one penalty's weight, width and seeds alone.

    An observation's `l1_alpha` is that weight, whatever its name.
    """

    setting: str
    """The name of the penalty's weight: l1_alpha, l0_coeff."""
    name: str
    """What sets them apart from the sweep's other curves; empty where there is one."""
    known: list[Observation]
    fits: list[Fit]
    """Empty where no curve is fitted."""
    rise: tuple[Observation, Observation] | None
    """Two trials that contradict a falling response."""

    @property
    def alphas(self) -> int:
        """Distinct l1_alpha."""
        return len({one.l1_alpha for one in self.known})

    @property
    def estimable_widths(self) -> int:
        """Widths with enough l1_alpha for the width's power."""
        return len(estimable(self.known))


class Curves(NamedTuple):
    """Those of most trials, and what is not shown."""

    shown: list[Curve]
    hidden: int
    """Further curves."""


def curves(study: Study, most: int = MOST_CURVES) -> Curves:
    """The sweep's curves, those of most trials first; none unless it varies a penalty's weight."""
    if not {f"sae.{one}" for one in PENALTIES} & {one.key for one in study.hyperparameters}:
        return Curves([], 0)
    groups = history.curves(filter(_is_usable, study.records))
    # a search draws around its target, where its last trials say more than as many of a grid
    least = LEAST_ALPHAS if target(study, 1) is None else LEAST_SEARCHED
    shown = [
        _curve("" if len(groups) == 1 else _name(study, group), group, least)
        for group in groups[:most]
    ]
    return Curves(shown, max(0, len(groups) - most))


def target(study: Study, n_latents: int) -> float | None:
    """The share of active latents that a search looked for; None where none did."""
    settings = study.run.config.get("search", {})
    if settings.get("target_count") is not None:
        return float(settings["target_count"]) / n_latents
    return None if settings.get("target") is None else float(settings["target"])


def _is_usable(record: TrialRecord) -> bool:
    """As for a search; an imported trial need not name its kind, since an l1_alpha says it."""
    sae = {"kind": "l1", **record.config.get("sae", {})}
    named = dataclasses.replace(record, config={**record.config, "sae": sae})
    return sae.get("n_latents") is not None and history.is_usable(named)


def _curve(name: str, records: list[TrialRecord], least: int) -> Curve:
    known = sorted(map(history.observation, records))
    rise = response.rise(known)
    fits = []
    if rise is None and len({one.l1_alpha for one in known}) >= least:
        ends = known[0].l1_alpha, known[-1].l1_alpha
        chosen = np.random.default_rng(0).permutation(len(known))[:MOST_FITTED]
        fitted = [known[i] for i in sorted(chosen)]
        for width in sorted({one.n_latents for one in known})[:MOST_WIDTHS]:
            own = [one for one in known if one.n_latents == width]
            fits.append(Fit(width, own, response.fit(fitted, width, ends)))
    moves = l0_setting({"kind": "l1", **records[0].config.get("sae", {})})
    assert moves is not None
    return Curve(moves.name, name, known, fits, rise)


def _name(study: Study, records: list[TrialRecord]) -> str:
    """The settings of a curve that the sweep varies and a curve does not."""
    free = {f"{section}.{name}" for section, names in history.FREE.items() for name in names}
    free.add("sae.expansion_factor")
    (at,) = (i for i, one in enumerate(study.records) if one.uid == records[0].uid)
    shown = [one for one in study.hyperparameters if one.key not in free]
    return ", ".join(f"{one.name} {text(one.given[at])}" for one in shown)
