"""Reconstruction at equal sparsity: one curve of fvu over l0 per class of autoencoders."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.page import style
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import counted, escaped, listed, number, table
from analysis.study import scales
from analysis.study.table import Study
from sae_sweep.records import METRICS

LEAST_POINTS = 3
"""Distinct l0 without which a class has no curve."""
MOST_VALUES = 5
"""l0 at which classes are compared."""
MOST_CLASSES = 12
MOST_WIDTHS = 2
"""Widths of which the first page names the best kind."""

LEADS = {
    "fvu": ("reconstructs best", "reconstruct best", "reconstructs detectably better"),
    "dead_features": (
        "has the fewest dead latents",
        "have the fewest dead latents",
        "has detectably fewer dead latents",
    ),
}
"""What one kind is, what several are together, and what none is, by metric."""


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
    dead: Float[np.ndarray, " points"]
    """Their mean dead_features; NaN where unknown."""

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

    def dead_at(self, l0: float) -> float:
        """dead_features at an l0 inside the range, linear between the points over log l0."""
        return float(np.interp(math.log(l0), np.log(self.l0), self.dead))


class Matched(NamedTuple):
    """What can be compared at equal l0."""

    curves: list[Curve]
    """By kind, then width; those with enough points."""
    refused: list[Curve]
    """Those with fewer than `LEAST_POINTS`."""
    outside: list[Curve]
    """Those that share no l0 with the others, where more of these share one than with them."""
    common: list[float]
    """l0 inside every one of `curves`, ascending; empty where no two ranges overlap."""


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
    dead = ranked.get("dead_features", pd.Series(np.nan, index=ranked.index))
    table = table.assign(l0=ranked["l0"], fvu=ranked["fvu"]).dropna().assign(dead=dead)
    table = table[(table["l0"] > 0) & (table["fvu"] > 0)]
    number = table.groupby(["kind", "n_latents"], sort=True).ngroup()
    sizes = number.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    found = [_curve(table[number == one]) for one in sorted(sizes.index[:MOST_CLASSES])]
    curves = [one for one in found if len(one.l0) >= LEAST_POINTS]
    refused = [one for one in found if len(one.l0) < LEAST_POINTS]
    if len(found) < 2 or not curves:
        return None
    inside = _overlapping(curves)
    if len(inside) < 2:
        return Matched(curves, refused, [], [])
    return Matched(inside, refused, [one for one in curves if one not in inside], _common(inside))


def _overlapping(curves: list[Curve]) -> list[Curve]:
    """The most curves whose ranges of l0 have a value in common."""
    found = [[one for one in curves if one.l0[0] <= at.l0[0] <= one.l0[-1]] for at in curves]
    return max(found, key=len)


def _curve(rows: pd.DataFrame) -> Curve:
    # trials of one k differ in the last digits of l0 by chance, and are one point
    shared = rows["l0"].map(lambda l0: float(f"{l0:.1e}"))
    logs = pd.DataFrame(np.log(rows[["l0", "fvu"]].to_numpy()), columns=["l0", "fvu"])
    means = logs.groupby(shared.to_numpy()).mean()
    # exp(log(100)) is not 100: without its last digits the end of a range would not be inside it
    l0 = np.array([float(f"{math.exp(one):.10g}") for one in means["l0"]])
    kind, n_latents = str(rows["kind"].iloc[0]), int(rows["n_latents"].iloc[0])
    dead = rows["dead"].groupby(shared.to_numpy()).mean().to_numpy()
    return Curve(kind, n_latents, len(rows), l0, np.exp(means["fvu"].to_numpy()), dead)


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


@dataclass(frozen=True)
class AtEqualL0:
    """The two ends of the classes' fvu at one l0."""

    l0: float
    lowest: str
    lowest_fvu: float
    highest: str
    highest_fvu: float
    classes: int
    within_noise: bool | None
    """Whether single trials so far apart are not told apart; None where the noise is unknown."""

    @property
    def words(self) -> str:
        """The two, their ratio, and what the noise lets one say."""
        told = {
            True: "; less apart than two single trials must be to be told apart",
            False: "; further apart than the noise floor of two single trials",
            None: "; noise unknown",
        }[self.within_noise]
        percent = number(round(100 * (self.highest_fvu / self.lowest_fvu - 1), 6), 3)
        return (
            f"at l0 {number(self.l0)}, over {self.classes:,} classes: the lowest fvu is "
            f"{number(self.lowest_fvu)} ({escaped(self.lowest)}), the highest "
            f"{number(self.highest_fvu)} ({escaped(self.highest)}), {percent} % above it{told}"
        )


@dataclass(frozen=True)
class BestKind:
    """The kinds of one width in the order of a metric at one l0."""

    metric: str
    """fvu or dead_features."""
    n_latents: int
    l0: float
    values: tuple[tuple[str, float], ...]
    """Kind and value, the best first."""
    first_at: int
    """At how many of the l0 compared the first kind has the best value, shared or not."""
    compared: int
    tied: tuple[str, ...] | None
    """Other kinds that two single trials would not tell from the first; None: noise unknown."""

    @property
    def words(self) -> str:
        """The order, and what the noise lets one say; kinds that are not told apart share it."""
        (first, lowest), *others = self.values
        place = f"n_latents {self.n_latents:,}, l0 {number(self.l0)}"
        if all(value == lowest for _, value in others):
            kinds = escaped(listed([kind for kind, _ in self.values]))
            return (
                f"At equal L0 ({place}) {kinds} have the same {self.metric}, {number(lowest, 3)}."
            )
        order = ", ".join(f"{escaped(kind)} {number(value, 3)}" for kind, value in self.values)
        leaders = [first, *(kind for kind, value in others if value == lowest)]
        if self.tied is not None:
            leaders = [first, *(kind for kind, _ in others if kind in self.tied)]
        told = f"{escaped(first)} first at {self.first_at} of {self.compared} l0 compared"
        return (
            f"**At equal L0, {self._lead(leaders)}** ({place}: {self.metric} {order}; {told}; "
            f"{self._noise(leaders)})."
        )

    def _lead(self, leaders: list[str]) -> str:
        """What the kinds that are not told from the first have in common."""
        best, best_together, better = LEADS[self.metric]
        if len(leaders) == len(self.values):
            return f"no kind {better} than another"
        return f"{escaped(listed(leaders))} {best_together if leaders[1:] else best}"

    def _noise(self, leaders: list[str]) -> str:
        if self.tied is None:
            return "noise unknown"
        if len(leaders) == len(self.values):
            return "none told apart from the first"
        if self.tied:
            return f"not told apart from it: {escaped(listed(list(self.tied)))}"
        return "told apart from every other"


@dataclass(frozen=True)
class ElsewhereInL0:
    """Classes that are compared with none, since they share no l0."""

    ranges: tuple[tuple[str, float, float], ...]

    @property
    def words(self) -> str:
        """Their ranges."""
        parts = [
            f"{escaped(name)} (l0 {number(low)} to {number(high)})"
            for name, low, high in self.ranges
        ]
        return f"Not compared, at no l0 of the others: {listed(parts)}."


@dataclass(frozen=True)
class KindsOfOneWidth:
    """Two kinds of one width at every l0 compared."""

    n_latents: int
    first: str
    second: str
    l0: tuple[float, ...]
    ratios: tuple[float, ...]
    """fvu of the first over fvu of the second."""

    @property
    def words(self) -> str:
        """The ratios."""
        parts = [
            f"{number(ratio, 3)} at l0 {number(l0)}"
            for l0, ratio in zip(self.l0, self.ratios, strict=True)
        ]
        return (
            f"n_latents {self.n_latents:,}: fvu of {escaped(self.first)} over fvu of "
            f"{escaped(self.second)} is {listed(parts)}"
        )


@dataclass(frozen=True)
class TooFewPoints:
    """A class without a curve."""

    name: str
    trials: int
    points: int

    @property
    def words(self) -> str:
        """What it lacks."""
        return (
            f"{escaped(self.name)} has {self.points:,} distinct l0 in "
            f"{counted(self.trials, 'ranked trial')}: a curve needs {LEAST_POINTS}"
        )


@dataclass(frozen=True)
class NoCommonL0:
    """Why nothing is compared."""

    ranges: tuple[tuple[str, float, float], ...]

    @property
    def words(self) -> str:
        """Every class's range."""
        if len(self.ranges) < 2:
            names = listed([escaped(name) for name, _, _ in self.ranges])
            return f"only {names} has a curve: nothing is compared"
        parts = [
            f"{escaped(name)} {number(low)} to {number(high)}" for name, low, high in self.ranges
        ]
        return f"no l0 lies in the range of every class ({listed(parts)}): nothing is compared"


def equal_sparsity(context: ReportContext) -> list[Block]:
    """Compare the fvu of every kind and width at l0 values that all of them cover."""
    study = context.study
    found = matched(study)
    if found is None:
        return []
    note = (
        "A class is a kind and width; trials that share an l0 to two digits, whatever else differs "
        "between them, are one point (geometric means). Between the points fvu is interpolated on "
        "logarithmic scales (PCHIP), never beyond a class's own range. In brackets: ranked trials "
        "and points of the class."
    )
    refused: list[Block] = [TooFewPoints(one.name, one.n, len(one.l0)) for one in found.refused]
    title = "## fvu at equal l0"
    shown = context.picture("matched", "fvu over l0 by kind and width")
    if not found.common:
        return [title, note, NoCommonL0(_ranges(found.curves)), *refused, *shown]
    refused += [ElsewhereInL0(_ranges(found.outside))] if found.outside else []
    rows = [
        [
            f"{escaped(one.name)} ({one.n:,}, {len(one.l0):,})",
            *(number(one.at(l0)) for l0 in found.common),
        ]
        for one in found.curves
    ]
    header = ["class", *(f"l0 {number(l0)}" for l0 in found.common)]
    claims = [*_same_width(found), *(_ends(study, found, l0) for l0 in found.common)]
    return [title, note, table(header, rows), *claims, *refused, *shown]


def at_equal_l0(study: Study, metrics: list[str]) -> list[Claim]:
    """The kinds of each width at the middle of the l0 that they share, metric by metric."""
    found = matched(study)
    if found is None:
        return []
    if not found.common:
        return [NoCommonL0(_ranges(found.curves))]
    widths = sorted({one.n_latents for one in found.curves})
    claims = [
        claim
        for width in widths[:MOST_WIDTHS]
        for metric in ("fvu", "dead_features")
        if metric in metrics
        for claim in _best_kind(study, found, width, metric)
    ]
    claims = claims or [_ends(study, found, found.common[len(found.common) // 2])]
    claims += [ElsewhereInL0(_ranges(found.outside))] if found.outside else []
    return claims + [TooFewPoints(one.name, one.n, len(one.l0)) for one in found.refused][:2]


def _ranges(curves: list[Curve]) -> tuple[tuple[str, float, float], ...]:
    return tuple((one.name, float(one.l0[0]), float(one.l0[-1])) for one in curves)


def _best_kind(study: Study, found: Matched, n_latents: int, metric: str) -> list[Claim]:
    curves = [one for one in found.curves if one.n_latents == n_latents]

    def value(curve: Curve, l0: float) -> float:
        return curve.at(l0) if metric == "fvu" else curve.dead_at(l0)

    if len(curves) < 2 or any(np.isnan(value(one, found.common[0])) for one in curves):
        return []
    middle = found.common[len(found.common) // 2]
    order = sorted(curves, key=lambda one: value(one, middle))
    best, *others = order
    lowest = [min(value(one, l0) for one in curves) for l0 in found.common]
    at_best = [value(best, l0) == low for l0, low in zip(found.common, lowest, strict=True)]
    floor = noise.floor(study, METRICS[metric])
    tied = None
    if floor is not None:
        scale = METRICS[metric]
        ends = [scales.onto(scale, np.array([value(one, middle)]))[0] for one in order]
        near = [end - ends[0] <= floor.detectable for end in ends[1:]]
        tied = tuple(one.kind for one, is_near in zip(others, near, strict=True) if is_near)
    return [
        BestKind(
            metric,
            n_latents,
            middle,
            tuple((one.kind, value(one, middle)) for one in order),
            sum(at_best),
            len(at_best),
            tied,
        )
    ]


def _same_width(found: Matched) -> list[Claim]:
    """Every two kinds of each width."""
    return [
        KindsOfOneWidth(
            one.n_latents,
            one.kind,
            other.kind,
            tuple(found.common),
            tuple(one.at(l0) / other.at(l0) for l0 in found.common),
        )
        for one, other in itertools.combinations(found.curves, 2)
        if one.n_latents == other.n_latents
    ]


def _ends(study: Study, found: Matched, l0: float) -> Claim:
    def fvu(curve: Curve) -> float:
        return curve.at(l0)

    low, high = min(found.curves, key=fvu), max(found.curves, key=fvu)
    floor = noise.floor(study, METRICS["fvu"])
    apart = fvu(high) / fvu(low)
    within = None if floor is None else bool(apart < 10**floor.detectable)
    return AtEqualL0(l0, low.name, fvu(low), high.name, fvu(high), len(found.curves), within)


NAME = "matched"
CAPTION = "fvu over l0 by kind and width, and where they are compared"


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """Points and interpolation of every class; dotted lines where classes are compared."""
    found = matched(study)
    if found is None:
        return []
    figure, (axes,) = style.new(1, 1, (8.2, 4.8))
    kinds = sorted({one.kind for one in [*found.curves, *found.refused]})
    widths = style.widths(study)
    ends = []
    for one in [*found.curves, *found.refused]:
        colour, turn = widths[one.n_latents], kinds.index(one.kind) % len(style.DASHES)
        marker = style.MARKERS[turn]
        axes.plot(one.l0, one.fvu, marker, color=colour, markersize=5, linestyle="none")
        has_curve = len(one.l0) >= LEAST_POINTS
        along = np.geomspace(one.l0[0], one.l0[-1], 60).clip(one.l0[0], one.l0[-1])
        axes.plot(
            along if has_curve else [],
            [one.at(l0) for l0 in along] if has_curve else [],
            color=colour,
            linestyle=style.DASHES[turn],
            marker="none",
        )
        ends.append(style.End(one.fvu[-1], one.name, colour))
        axes.plot(
            found.common,
            [one.at(l0) for l0 in found.common] if has_curve else [np.nan] * len(found.common),
            "o",
            color="white",
            markeredgecolor=colour,
            markersize=7,
            zorder=3,
        )
    for l0 in found.common:
        axes.axvline(l0, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set_xscale("log")
    style.plain_ticks(axes, "x")
    style.metric_axis(axes, METRICS["fvu"], positive=True)
    axes.set_xlabel("l0 (latents/token)")
    axes.set_title("fvu at equal l0; open circles: the values compared", loc="left")
    style.name_ends(axes, ends)
    return [style.save(figure, folder, NAME, CAPTION)]
