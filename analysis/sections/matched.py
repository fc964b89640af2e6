"""Kinds and widths at equal l0."""

import itertools
from dataclasses import dataclass

from analysis import noise
from analysis.blocks import Block, Claim
from analysis.markdown import counted, escaped, listed, number, table
from analysis.matched import LEAST_POINTS, Curve, Matched, matched
from analysis.sections.pictures import picture
from analysis.study import Study
from sae_sweep.records import METRICS


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


def equal_sparsity(study: Study) -> list[Block]:
    """Compare the fvu of every kind and width at l0 values that all of them cover."""
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
    shown = picture(study, "matched", "fvu over l0 by kind and width")
    if not found.common:
        ranges = tuple((one.name, float(one.l0[0]), float(one.l0[-1])) for one in found.curves)
        return [title, note, NoCommonL0(ranges), *refused, *shown]
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
