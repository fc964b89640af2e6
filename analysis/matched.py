"""Reconstruction at equal sparsity: fvu as a curve over l0, a class of autoencoders each."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator

from analysis.study import Study

LEAST_POINTS = 3
"""Distinct l0 without which a class has no curve."""
MOST_VALUES = 5
"""l0 at which classes are compared."""
MOST_CLASSES = 12


class Curve(NamedTuple):
    """fvu over l0 of one kind and width, between the smallest and the largest l0 that it has."""

    kind: str
    n_latents: int
    n: int
    """Ranked trials."""
    l0: Float[np.ndarray, " points"]
    """Distinct to two digits, ascending: the geometric mean of the trials that share it."""
    fvu: Float[np.ndarray, " points"]
    """Their geometric mean fvu."""

    @property
    def name(self) -> str:
        """Kind and width."""
        return f"{self.kind} {self.n_latents:,}"

    def at(self, l0: float) -> float:
        """The fvu at an l0 inside the range: monotone cubic interpolation, both logarithmic.

        Fritsch and Butland 1984 (PCHIP): it follows the points without overshooting them.
        """
        assert self.l0[0] <= l0 <= self.l0[-1], f"{l0} is outside {self.name}"
        curve = PchipInterpolator(np.log(self.l0), np.log(self.fvu))
        return math.exp(float(curve(math.log(l0))))


class Matched(NamedTuple):
    """What can be compared at equal l0."""

    curves: list[Curve]
    """By kind, then width; those with enough points."""
    refused: list[Curve]
    """Those with fewer than `LEAST_POINTS`."""
    common: list[float]
    """l0 inside every curve's range, ascending; empty where the ranges have none in common."""


def matched(study: Study) -> Matched | None:
    """The curves of every kind and width; None where there are not two, or none has points enough.

    Of more than `MOST_CLASSES` those of most trials.
    """
    if study.tasks > 1:
        return None
    ranked = study.ranked
    if "l0" not in ranked or ranked.empty:
        return None
    kinds = [record.config.get("sae", {}).get("kind", "unknown") for record in study.records]
    table = pd.DataFrame(
        {"kind": kinds, "n_latents": study.trials["n_latents"].to_numpy()}, index=study.trials.index
    ).loc[ranked.index]
    table = table.assign(l0=ranked["l0"], fvu=ranked["fvu"]).dropna()
    table = table[(table["l0"] > 0) & (table["fvu"] > 0)]
    number = table.groupby(["kind", "n_latents"], sort=True).ngroup()
    sizes = number.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    found = [_curve(table[number == one]) for one in sorted(sizes.index[:MOST_CLASSES])]
    curves = [one for one in found if len(one.l0) >= LEAST_POINTS]
    refused = [one for one in found if len(one.l0) < LEAST_POINTS]
    if len(found) < 2 or not curves:
        return None
    return Matched(curves, refused, _common(curves) if len(curves) > 1 else [])


def _curve(rows: pd.DataFrame) -> Curve:
    # trials of one k differ in the last digits of l0 by chance, and are one point
    shared = rows["l0"].map(lambda l0: float(f"{l0:.1e}"))
    logs = pd.DataFrame(np.log(rows[["l0", "fvu"]].to_numpy()), columns=["l0", "fvu"])
    means = logs.groupby(shared.to_numpy()).mean()
    # exp(log(100)) is not 100: without its last digits the end of a range would not be inside it
    l0 = np.array([float(f"{math.exp(one):.10g}") for one in means["l0"]])
    kind, n_latents = str(rows["kind"].iloc[0]), int(rows["n_latents"].iloc[0])
    return Curve(kind, n_latents, len(rows), l0, np.exp(means["fvu"].to_numpy()))


def _common(curves: list[Curve]) -> list[float]:
    """Values that no curve must be prolonged for: points of one of them, or round ones between."""
    low, high = max(one.l0[0] for one in curves), min(one.l0[-1] for one in curves)
    if low > high:
        return []
    points = [[float(x) for x in one.l0 if low <= x <= high] for one in curves]
    # whole numbers are values of k
    inside = max(points, key=lambda each: (sum(x.is_integer() for x in each), len(each)))
    if len(inside) < 2:
        inside = [float(f"{x:.1e}") for x in np.geomspace(low, high, MOST_VALUES)]
        inside = sorted({x for x in inside if low <= x <= high} or {math.sqrt(low * high)})
    chosen = np.linspace(0, len(inside) - 1, min(MOST_VALUES, len(inside))).round().astype(int)
    return [inside[i] for i in chosen]
