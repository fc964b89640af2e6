"""How L0 answers to l1_alpha and the width, or why that cannot be said."""

from dataclasses import dataclass

import numpy as np

from analysis.blocks import Block
from analysis.markdown import counted, listed, number
from analysis.study import Study
from analysis.suggest import LEAST_ALPHAS_A_WIDTH, LEAST_WIDTHS, estimable
from sae_sweep.rules import response
from sae_sweep.rules.response import Observation

FREE = ("sae.l1_alpha", "sae.n_latents", "sae.expansion_factor")


@dataclass(frozen=True)
class Compared:
    """What the section is about."""

    n: int
    widths: tuple[int, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        widths = listed([f"{m:,}" for m in self.widths])
        return f"{counted(self.n, 'trial')} can be compared, at n_latents {widths}."


@dataclass(frozen=True)
class NotMonotone:
    """Two trials that contradict a falling response."""

    l1_alphas: tuple[float, float]
    n_latents: tuple[int, int]
    l0_fractions: tuple[float, float]

    @property
    def words(self) -> str:
        """The sentence."""
        points = [
            f"{number(l0)} at l1_alpha {alpha:g} (n_latents {m:,})"
            for l0, alpha, m in zip(self.l0_fractions, self.l1_alphas, self.n_latents, strict=True)
        ]
        return (
            f"No curve is stated: l0_fraction is {points[0]} and {points[1]}, where it should fall."
        )


@dataclass(frozen=True)
class NoWidthLaw:
    """Too few widths for the power of the width."""

    widths: int
    estimable: int

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "has" if self.estimable == 1 else "have"
        return (
            f"No law of the width is stated: {self.estimable} of {counted(self.widths, 'width')} "
            f"{verb} {LEAST_ALPHAS_A_WIDTH} l1_alpha or more, and a power of the width needs "
            f"{LEAST_WIDTHS} such."
        )


@dataclass(frozen=True)
class WidthLaw:
    """How l1_alpha goes with the width at one L0."""

    l0_fraction: float
    exponent: float
    low: float
    high: float
    n: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"At an l0_fraction of {number(self.l0_fraction)}, the median, l1_alpha goes as "
            f"n_latents to the power {self.exponent:.2f}, 95 % interval {self.low:.2f} to "
            f"{self.high:.2f} (n={self.n:,})."
        )


def width_law(study: Study) -> list[Block]:
    """What trials that differ in l1_alpha and width alone say of both."""
    known = _observations(study)
    if len({one.l1_alpha for one in known}) < 2:
        return []
    widths = sorted({one.n_latents for one in known})
    enough = estimable(known)
    note = (
        "Over the largest group of finished trials that differ in l1_alpha, width and seeds alone. "
        "More l1_alpha should mean fewer active latents."
    )
    parts: list[Block] = [
        "## Response of L0 to l1_alpha",
        note,
        Compared(len(known), tuple(widths)),
    ]
    contradiction = response.rise(known)
    if contradiction is not None:
        first, second = contradiction
        parts.append(
            NotMonotone(
                (first.l1_alpha, second.l1_alpha),
                (first.n_latents, second.n_latents),
                (first.l0_fraction, second.l0_fraction),
            )
        )
    if len(enough) < LEAST_WIDTHS:
        return [*parts, NoWidthLaw(len(widths), len(enough))]
    return parts if contradiction is not None else [*parts, _law(known)]


def _law(known: list[Observation]) -> WidthLaw:
    alphas = [one.l1_alpha for one in known]
    middle = float(np.median([one.l0_fraction for one in known]))
    width = int(np.median([one.n_latents for one in known]))
    posterior = response.fit(known, width, (min(alphas), max(alphas)))
    low, exponent, high = posterior.exponent(middle)
    return WidthLaw(middle, exponent, low, high, len(known))


def _observations(study: Study) -> list[Observation]:
    """The largest group of finished trials that share every other setting."""
    others = [one for one in study.hyperparameters if one.key not in FREE]
    groups: dict[tuple[str, ...], list[Observation]] = {}
    for i, record in enumerate(study.records):
        sae, l0 = record.config.get("sae", {}), record.final.get("l0_fraction")
        alpha, width = sae.get("l1_alpha"), sae.get("n_latents")
        if record.status == "done" and l0 is not None and alpha and width:
            point = tuple(str(one.given[i]) for one in others)
            groups.setdefault(point, []).append(Observation(alpha, width, l0))
    return max(groups.values(), key=len, default=[])
