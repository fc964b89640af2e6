"""Interactions of hyperparameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.effect_tests import Effects
from analysis.findings.pairs import FEWEST_PER_PARAMETER, MOST_EMPTY, Pair
from analysis.page import style, wording
from analysis.page.blocks import Block
from analysis.page.markdown import counted, escaped, number, table
from analysis.study import scales
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import METRICS, Metric

SHOWN = 3
"""Interactions, the first of those claimed, that are drawn."""
LISTED = 10


@dataclass(frozen=True)
class Interacts:
    """A claimed interaction of two hyperparameters."""

    first: str
    second: str
    metric: str
    moves: bool
    """Whether the best level of `first` surely changes with `second`."""
    best: tuple[tuple[str, str, float], ...]
    """At each level of `second`: the best level of `first`, and the metric there, in its unit."""
    share: float
    """Of the metric's variance, beyond the additive model."""
    survivors: bool
    """Whether some runs came to nothing, so that only those are compared that did not."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        first, second = escaped(self.first), escaped(self.second)
        alive = " among surviving runs" if self.survivors else ""
        tail = (
            f"{100 * self.share:.2g} % of its variance beyond the additive model{alive}, "
            f"q {wording.equals(self.q)}"
        )
        levels = "; ".join(
            f"{escaped(level)} at {second} {escaped(at)} ({number(value, 3)})"
            for at, level, value in self.best
        )
        if self.moves:
            return (
                f"**The best {first} depends on {second}** ({self.metric}): {levels}. The two "
                f"explain {tail}."
            )
        return (
            f"**{first} and {second}:** the effect of one on {self.metric} depends on the other "
            f"({tail}); {first} with the {'lowest' if self._is_low else 'highest'} mean: {levels}."
        )

    @property
    def _is_low(self) -> bool:
        return METRICS[self.metric].direction != "up"


@dataclass(frozen=True)
class NoInteraction:
    """No pair that was tested is claimed."""

    tests: int
    largest_share: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"No interaction is detectable: of {counted(self.tests, 'test')}, the largest share of "
            f"variance beyond the additive model is {100 * self.largest_share:.2g} %."
        )


def claim_of(one: Pair, estimates: Effects) -> Interacts:
    """The sentence of one pair."""
    # a fitted mean of zeros is zero but for its last digits
    best = tuple(
        (each.at, each.level, round(scales.back(one.metric, each.mean), 12) + 0.0)
        for each in one.best
    )
    names = one.first.name, one.second.name, one.metric.name
    return Interacts(*names, one.moves, best, one.gain, bool(estimates.failing), one.q)


def interaction_section(context: ReportContext) -> list[Block]:
    """The pairs that were tested; those that are claimed, with a heatmap each."""
    study = context.study
    if len(study.hyperparameters) < 2 or study.ranked.empty:
        return []
    estimates = effect_tests.estimate(study)
    if not estimates.pairs:
        return []
    note = (
        "Share of a metric's variance that a pair's products explain beyond the additive model, "
        "with its F-test (of all products, or of the product of the levels' places alone, "
        "whichever is clearer; p is doubled for that); q in one family with the effects. Not "
        f"tested: pairs with more than {100 * MOST_EMPTY:.0f} % of their cells empty, and without "
        f"seeds those with fewer than {FEWEST_PER_PARAMETER} configurations beyond the parameters. "
        "The best level moves where, at two levels of the other, each of two levels is better than "
        "the other (Holm)."
    )
    claims: list[Block] = [claim_of(one, estimates) for one in estimates.claimed_pairs]
    drawn = [
        line
        for one in estimates.claimed_pairs[:SHOWN]
        for line in context.picture(one.figure, f"{one.metric.name} by both")
    ]
    header = ["metric", "pair", "share of variance", "F", "q"]
    shown = table(header, [_row(one) for one in estimates.pairs[:LISTED]], left=2)
    fold = ["<details><summary>The largest of all tested</summary>", shown, "</details>"]
    silent = NoInteraction(len(estimates.pairs), estimates.pairs[0].gain)
    return ["## Interactions", note, *(claims or [silent]), *drawn, *fold]


def _row(one: Pair) -> list[str]:
    return [
        one.metric.name,
        f"{escaped(one.first.name)}, {escaped(one.second.name)}",
        f"{100 * one.gain:.2g} %",
        f"{one.f:.3g} ({one.df})",
        wording.probability(one.q),
    ]


SPARSITY = ("sae.k", "sae.l1_alpha")
WIDTH = ("sae.n_latents", "sae.expansion_factor")
HEATMAP = "medians over sparsity and width"
PAIR = "means over two hyperparameters whose effects do not add up"


class Cells(NamedTuple):
    """A metric over two hyperparameters."""

    across: Hyperparameter
    up: Hyperparameter
    middle: Literal["median", "mean"]
    """What is shown of the trials in a cell; a mean is taken on the metric's scale."""
    middles: np.ndarray
    """[levels up, levels across], NaN where no ranked trial is."""
    counts: np.ndarray
    """Ranked trials with a value in each cell."""


def cells(study: Study, metric: Metric) -> Cells | None:
    """The medians over everything else; None unless the sweep varies sparsity and width."""
    varied = {one.key: one for one in study.hyperparameters}
    across = next((varied[key] for key in SPARSITY if key in varied), None)
    up = next((varied[key] for key in WIDTH if key in varied), None)
    return None if across is None or up is None else cells_of(study, metric, across, up, "median")


def cells_of(
    study: Study,
    metric: Metric,
    across: Hyperparameter,
    up: Hyperparameter,
    middle: Literal["median", "mean"],
) -> Cells:
    """A metric over two hyperparameters; an interaction is one of means."""
    values = study.trials[metric.name].to_numpy(dtype=np.float64)
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    middles = np.full((len(up.order), len(across.order)), np.nan)
    counts = np.zeros(middles.shape, dtype=int)
    for i, row in enumerate(up.order):
        for j, column in enumerate(across.order):
            inside = counted & up.at(row) & across.at(column)
            counts[i, j] = inside.sum()
            if counts[i, j]:
                own = values[inside]
                mean = scales.back(metric, float(scales.onto(metric, own).mean()))
                middles[i, j] = mean if middle == "mean" else np.median(own)
    return Cells(across, up, middle, middles, counts)


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One heatmap per main metric, and one for each of the largest claimed interactions."""
    drawn = []
    for metric in study.main_metrics:
        found = cells(study, metric)
        if found is not None and found.counts.any():
            drawn.append(_draw(metric, found, folder, f"heatmap_{metric.name}", HEATMAP))
    for one in effect_tests.estimate(study).claimed_pairs[:SHOWN]:
        found = cells_of(study, one.metric, one.first, one.second, "mean")
        drawn.append(_draw(one.metric, found, folder, one.figure, PAIR))
    return drawn


def _draw(metric: Metric, found: Cells, folder: Path, name: str, caption: str) -> style.Drawn:
    rows, columns = found.middles.shape
    figure, (axes,) = style.new(1, 1, (max(3.6, 1.4 + 1.1 * columns), 1.2 + 0.62 * rows))
    norm = _norm(metric, found.middles)
    colours = mpl.colormaps["cividis"]
    axes.imshow(found.middles, cmap=colours, norm=norm, aspect="auto", origin="lower")
    shown = 100 * found.middles if metric.unit == "share" else found.middles
    unit = " %" if metric.unit == "share" else ""
    for i in range(rows):
        for j in range(columns):
            if found.counts[i, j]:
                red, green, blue, _ = colours(norm(found.middles[i, j]))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                ink = "white" if dark else style.BLACK
                value, n = f"{number(shown[i, j], 3)}{unit}", f"n = {found.counts[i, j]}"
                axes.text(j, i + 0.12, value, ha="center", va="center", color=ink)
                axes.text(j, i - 0.24, n, ha="center", va="center", fontsize=7.5, color=ink)
            else:
                _hatch(axes, i, j)
    axes.grid(visible=False)
    axes.set_xticks(range(columns), found.across.order)
    axes.set_yticks(range(rows), found.up.order)
    axes.set_xlabel(found.across.name)
    axes.set_ylabel(found.up.name)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = scales.MEAN_NAMES[metric.scale] if found.middle == "mean" else found.middle
    axes.set_title(f"{style.named(metric)}: {middle}", loc="left")
    return style.save(figure, folder, name, caption)


def _norm(metric: Metric, values: np.ndarray) -> Normalize:
    low, high = np.nanmin(values), np.nanmax(values)
    if low == high:
        low, high = low - 0.5 * abs(low) - 1e-9, high + 0.5 * abs(high) + 1e-9
    if metric.scale == "log" and low > 0:
        return LogNorm(low, high)
    return Normalize(low, high)


def _hatch(axes: Axes, i: int, j: int) -> None:
    axes.add_patch(
        Rectangle(
            (j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", edgecolor=style.GREY, linewidth=0
        )
    )


def heatmaps(context: ReportContext) -> list[Block]:
    """Sparsity by width, one figure per metric."""
    study = context.study
    shown = [
        line
        for metric in study.main_metrics
        for line in context.picture(
            f"heatmap_{metric.name}", f"{metric.name} by sparsity and width"
        )
    ]
    if not shown:
        return []
    note = "Median over all other settings, with the number of ranked trials; hatched: none."
    return ["## Sparsity by width", note, *shown]
