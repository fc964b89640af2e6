"""The response of l0 to a penalty's weight, and the weight for a target l0."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.context import ReportContext
from analysis.page import style
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, counted, escaped, listed, number, table
from analysis.study.table import Study
from analysis.topics.response import fits
from analysis.topics.response.fits import MOST_FITTED, Curve
from analysis.topics.response.suggest import (
    FARTHEST,
    LEAST_ALPHAS,
    LEAST_ALPHAS_A_WIDTH,
    LEAST_WIDTHS,
)
from sae_sweep.rules.response import POOR


def _of(curve: str) -> str:
    return f"{escaped(curve)}: " if curve else ""


@dataclass(frozen=True)
class AlphaForTarget:
    """The penalty's weight that meets the sweep's target at one width."""

    setting: str
    """The weight's name."""
    curve: str
    n_latents: int
    target: float
    low: float
    middle: float
    high: float

    @property
    def words(self) -> str:
        """Median and interval."""
        return (
            f"{_of(self.curve)}**{self.setting} {number(self.middle, 3)}** meets l0_fraction "
            f"{number(self.target)} at n_latents {self.n_latents:,}, 95 % interval "
            f"{number(self.low, 3)} to {number(self.high, 3)}"
        )


@dataclass(frozen=True)
class TargetOutOfReach:
    """A target too far from what was trained."""

    setting: str
    curve: str
    n_latents: int
    target: float
    lowest: float
    highest: float

    @property
    def words(self) -> str:
        """What was trained."""
        return (
            f"{_of(self.curve)}n_latents {self.n_latents:,}: no {self.setting} is named for "
            f"l0_fraction {number(self.target)}, which lies more than {FARTHEST:g} decades beyond "
            f"trials of l0_fraction {number(self.lowest)} to {number(self.highest)}"
        )


@dataclass(frozen=True)
class TooFewAlphas:
    """Why no curve is fitted: too few points."""

    setting: str
    curve: str
    alphas: int

    @property
    def words(self) -> str:
        """The count."""
        return (
            f"{_of(self.curve)}no curve is fitted: {self.alphas:,} distinct {self.setting}, and it "
            f"needs {LEAST_ALPHAS}"
        )


@dataclass(frozen=True)
class NotMonotone:
    """Why no curve is fitted: two trials contradict a falling response."""

    setting: str
    curve: str
    alpha: float
    n_latents: int
    l0_fraction: float
    other_alpha: float
    other_n_latents: int
    other_l0_fraction: float

    @property
    def words(self) -> str:
        """The two trials."""
        return (
            f"{_of(self.curve)}no curve is fitted: the response is not monotone, l0_fraction "
            f"{number(self.l0_fraction)} at {self.setting} {number(self.alpha)} (n_latents "
            f"{self.n_latents:,}) and {number(self.other_l0_fraction)} at "
            f"{number(self.other_alpha)} ({self.other_n_latents:,}), where it should fall"
        )


@dataclass(frozen=True)
class PoorFit:
    """A curve that misses one of its trials by much."""

    curve: str
    residual: float

    @property
    def words(self) -> str:
        """By how much."""
        return (
            f"{_of(self.curve)}the fit misses a trial by {number(self.residual, 2)} standard "
            "deviations: do not rely on it"
        )


@dataclass(frozen=True)
class WidthLaw:
    """How the penalty's weight changes with the width at a fixed share of active latents."""

    setting: str
    curve: str
    l0_fraction: float
    low: float
    middle: float
    high: float
    widths: int

    @property
    def words(self) -> str:
        """The power with its interval."""
        return (
            f"{_of(self.curve)}**{self.setting} goes as n_latents to the power "
            f"{number(self.middle, 2)}** at l0_fraction {number(self.l0_fraction)}, 95 % interval "
            f"{number(self.low, 2)} to {number(self.high, 2)}, from {self.widths:,} widths"
            + ("; no change with the width is detected" if self.low < 0 < self.high else "")
        )


@dataclass(frozen=True)
class NoWidthLaw:
    """Why there is no power of the width."""

    setting: str
    curve: str
    widths: int

    @property
    def words(self) -> str:
        """The count."""
        return (
            f"{_of(self.curve)}how {self.setting} changes with n_latents is not estimable: "
            f"{counted(self.widths, 'width')} with {LEAST_ALPHAS_A_WIDTH} values of it or more, "
            f"and it needs {LEAST_WIDTHS}"
        )


@dataclass(frozen=True)
class MoreCurves:
    """How many curves are not shown."""

    shown: int
    hidden: int

    @property
    def words(self) -> str:
        """The counts."""
        return f"{counted(self.hidden, 'more curve')}: the {self.shown:,} of most trials are shown"


def penalty_response(context: ReportContext) -> list[Block]:
    """The response of l0 to a penalty's weight, width by width."""
    study = context.study
    found, hidden = fits.curves(study)
    if not found:
        return []
    settings = listed(list(dict.fromkeys(curve.setting for curve in found)))
    note = (
        "All finished trials whose L0 a penalty sets, ranked or not. A curve is of trials that "
        f"differ in {settings}, width and seeds alone; it falls by construction, its uncertainty "
        "contains what the shape cannot know and l0's own oscillation at the end of training. The "
        f"slope is d ln l0 / d ln {settings} in the middle of the width's values. Of a curve's "
        "trials at most "
        f"{MOST_FITTED} are fitted, chosen at random."
    )
    rows = [
        [
            escaped(curve.name) or MISSING,
            f"{fit.n_latents:,}",
            f"{len(fit.known):,}",
            f"{number(fit.known[0].l1_alpha)} to {number(fit.known[-1].l1_alpha)}",
            f"{number(max(one.l0_fraction for one in fit.known))} to "
            f"{number(min(one.l0_fraction for one in fit.known))}",
            number(fit.slope, 3),
        ]
        for curve in found
        for fit in curve.fits
    ]
    header = ["curve", "n_latents", "trials", settings, "l0_fraction", "slope"]
    shown = [table(header, rows)] if rows else []
    claims = [claim for curve in found for claim in _claims(study, curve)]
    claims += [MoreCurves(len(found), hidden)] if hidden else []
    drawn = context.picture("response", "l0_fraction over the penalty's weight")
    return [f"## Response of l0 to {settings}", note, *shown, *claims, *drawn]


def _claims(study: Study, curve: Curve) -> list[Claim]:
    if curve.rise is not None:
        one, other = curve.rise
        here = one.l1_alpha, one.n_latents, one.l0_fraction
        there = other.l1_alpha, other.n_latents, other.l0_fraction
        return [NotMonotone(curve.setting, curve.name, *here, *there), *_width_law(study, curve)]
    if not curve.fits:
        return [TooFewAlphas(curve.setting, curve.name, curve.alphas)]
    found: list[Claim] = []
    for fit in curve.fits:
        target = fits.target(study, fit.n_latents)
        if target is None:
            continue
        alpha, shares = fit.alpha(target), [one.l0_fraction for one in fit.known]
        if alpha is None:
            ends = min(shares), max(shares)
            found.append(TargetOutOfReach(curve.setting, curve.name, fit.n_latents, target, *ends))
        else:
            found.append(AlphaForTarget(curve.setting, curve.name, fit.n_latents, target, *alpha))
    residual = curve.fits[0].posterior.worst_residual
    if residual > POOR:
        found.append(PoorFit(curve.name, residual))
    return [*found, *_width_law(study, curve)]


def alphas_for_target(study: Study) -> list[Claim]:
    """The penalty's weight that meets the target of a search, or why none is named."""
    return [
        claim
        for curve in fits.curves(study).shown
        for claim in _claims(study, curve)
        if isinstance(claim, AlphaForTarget | TargetOutOfReach | TooFewAlphas | NotMonotone)
    ]


def width_laws(study: Study) -> list[Claim]:
    """How the penalty's weight changes with the width, or why that is not estimable."""
    return [claim for curve in fits.curves(study).shown for claim in _width_law(study, curve)]


def _width_law(study: Study, curve: Curve) -> list[Claim]:
    """The power of the width, where the sweep has several."""
    if len({one.n_latents for one in curve.known}) < 2:
        return []
    if curve.estimable_widths < LEAST_WIDTHS:
        return [NoWidthLaw(curve.setting, curve.name, curve.estimable_widths)]
    if not curve.fits:
        return []
    shares = [one.l0_fraction for one in curve.known if one.l0_fraction > 0]
    middle = math.exp(sum(map(math.log, shares)) / len(shares))
    share = fits.target(study, curve.fits[0].n_latents) or middle
    power = curve.fits[0].posterior.exponent(share)
    return [WidthLaw(curve.setting, curve.name, share, *power, curve.estimable_widths)]


NAME = "response"
CAPTION = "l0 over the penalty's weight, with the fitted curves"
FEWEST = 3
"""Points without a fit that make a figure."""


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """Draw the curve of most trials: points, median, 95 % band, the weight for a target."""
    found = [one for one in fits.curves(study, most=1).shown if one.known]
    if not found:
        return []
    curve, colours = found[0], style.widths(study)
    if not curve.fits and len(curve.known) < FEWEST:
        return []
    figure, (axes,) = style.new(1, 1, (8.2, 4.8))
    shades = [colours[one.n_latents] for one in curve.known]
    alphas, shares = zip(*((one.l1_alpha, one.l0_fraction) for one in curve.known), strict=True)
    axes.scatter(alphas, shares, s=22, color=shades)
    names = []
    for fit in curve.fits:
        colour, posterior = colours[fit.n_latents], fit.posterior
        ends = np.log([fit.known[0].l1_alpha, fit.known[-1].l1_alpha])
        inside = (posterior.grid >= ends[0] - 0.7) & (posterior.grid <= ends[1] + 0.7)
        low, middle, high = np.exp(np.quantile(posterior.paths, [0.025, 0.5, 0.975], axis=0))
        along = np.exp(posterior.grid[inside])
        axes.plot(along, middle[inside], color=colour)
        names.append(style.End(float(middle[inside][-1]), f"n_latents {fit.n_latents:,}", colour))
        axes.fill_between(along, low[inside], high[inside], color=colour, alpha=0.15, linewidth=0)
        target = fits.target(study, fit.n_latents)
        if target is None:
            continue
        axes.axhline(target, color=style.GREY, linestyle=":", linewidth=1)
        if (alpha := fit.alpha(target)) is not None:
            axes.plot([alpha[0], alpha[2]], [target, target], color=colour, linewidth=4, alpha=0.6)
            axes.plot(alpha[1], target, "D", color="white", markeredgecolor=colour, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    style.plain_ticks(axes, "x")
    style.plain_ticks(axes, "y", share=True)
    axes.set_xlabel(curve.setting)
    axes.set_ylabel("l0_fraction")
    name = f" ({curve.name})" if curve.name else ""
    axes.set_title(f"Response of l0 to {curve.setting}{name}; band: 95 %", loc="left")
    style.name_ends(axes, names)
    return [style.save(figure, folder, NAME, CAPTION)]
