"""Whether the effect of one hyperparameter depends on another's level."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from analysis.context import ReportContext
from analysis.findings import verdicts
from analysis.page import style, wording
from analysis.page.blocks import Block
from analysis.page.markdown import counted, escaped, number, table
from analysis.statistics.adjusted import f_test, residual_squares
from analysis.statistics.design import Design, Factor
from analysis.statistics.multiplicity import CLAIMED, q_values
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.samples import varies
from analysis.study.table import Study, once
from sae_sweep.records import Metric

SHOWN = 3
"""Interactions, the largest of those claimed, that are drawn."""
MOST_EMPTY = 0.2
"""Share of the pair's cells without an observation above which it is not tested."""
FEWEST_RESIDUAL = 10
"""Configurations beyond the parameters, interaction included, that a test needs."""


class Interaction(NamedTuple):
    """Two hyperparameters on one metric."""

    first: Hyperparameter
    second: Hyperparameter
    metric: Metric
    gain: float
    """Share of the metric's variance that the pair explains beyond the additive model."""
    f: float
    df: int
    residual_df: int
    p: float
    q: float
    """Adjusted over all pairs and metrics tested."""
    is_claimed: bool
    """q below .05, and the effect of one of the two on the metric is claimed."""

    @property
    def figure(self) -> str:
        """The name of its heatmap."""
        pair = f"{self.first.name}_{self.second.name}".replace(".", "_")
        return f"interaction_{self.metric.name}_{pair}"


class Interactions(NamedTuple):
    """All pairs on all main metrics."""

    found: list[Interaction]
    """Largest share of variance first."""
    skipped: int
    """Pairs and metrics that were not tested."""

    @property
    def tests(self) -> int:
        """How many were tested together."""
        return len(self.found)

    @property
    def claimed(self) -> list[Interaction]:
        """Those that the report speaks of."""
        return [one for one in self.found if one.is_claimed]


@once
def interactions(study: Study) -> Interactions:
    """Test every pair that the sweep lets be tested."""
    judged = verdicts.judge(study)
    found, pairs = [], 0
    for metric in verdicts.outcomes(study):
        design, y = judged.designs[metric.name], judged.samples[metric.name].y
        pairs += len(list(combinations(design.factors, 2)))
        if varies(y):
            found += list(_of_metric(metric, design, y))
    q = q_values(np.array([one.p for one in found]))
    tested = [
        one._replace(
            q=float(value),
            is_claimed=value < CLAIMED
            and any(judged.get(h, one.metric).is_claimed for h in (one.first, one.second)),
        )
        for one, value in zip(found, q, strict=True)
    ]
    tested.sort(key=lambda one: -one.gain)
    return Interactions(tested, pairs - len(tested))


def _of_metric(metric: Metric, design: Design, y: Float[np.ndarray, " n"]) -> Iterator[Interaction]:
    less = residual_squares(design.x, y)
    total = float(((y - y.mean()) ** 2).sum())
    for a, b in combinations(design.factors, 2):
        if not (a.estimable and b.estimable) or _empty(a, b) > MOST_EMPTY:
            continue
        x = np.hstack([design.x, products(design, a, b)])
        df = int(np.linalg.matrix_rank(x)) - design.x.shape[1]
        residual_df = design.residual_df - df
        if df < 1 or residual_df < FEWEST_RESIDUAL:
            continue
        full = residual_squares(x, y)
        f, p = f_test(less, full, df, residual_df, total)
        yield Interaction(
            a.hyperparameter,
            b.hyperparameter,
            metric,
            max(less - full, 0.0) / total,
            f,
            df,
            residual_df,
            p,
            np.nan,
            is_claimed=False,
        )


def products(design: Design, a: Factor, b: Factor) -> Float[np.ndarray, "n c"]:
    """The columns of a pair's interaction: every column of one by every one of the other."""
    left, right = design.x[:, a.columns], design.x[:, b.columns]
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)


def _empty(a: Factor, b: Factor) -> float:
    """Share of the pair's cells without an observation."""
    both = (a.codes >= 0) & (b.codes >= 0)
    occupied = len(set(zip(a.codes[both], b.codes[both], strict=True)))
    return 1 - occupied / (len(a.levels) * len(b.levels))


LISTED = 10


@dataclass(frozen=True)
class Interacts:
    """A pair whose effects do not add up."""

    first: str
    second: str
    metric: str
    share: float
    """Of the metric's variance, beyond the additive model."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.first)} and {escaped(self.second)}:** the effect of one on "
            f"{self.metric} depends on the other's level: together they explain "
            f"{100 * self.share:.2g} % of its variance beyond the additive model "
            f"(q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class NoInteraction:
    """No pair that was tested is claimed."""

    tests: int
    largest_share: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"No interaction is claimed: of {counted(self.tests, 'test')}, the largest share of "
            f"variance beyond the additive model is {100 * self.largest_share:.2g} %."
        )


def interaction_section(context: ReportContext) -> list[Block]:
    """The pairs that were tested; those that are claimed, with a heatmap each."""
    study = context.study
    if len(study.hyperparameters) < 2 or study.ranked.empty:
        return []
    tested = interactions(study)
    if not tested.found:
        return []
    note = (
        "Share of a metric's variance that a pair's products explain beyond the additive model, "
        f"with its F-test; q over the {counted(tested.tests, 'test')} (Benjamini-Yekutieli). Not "
        f"tested, {tested.skipped:,}: pairs with more than {100 * MOST_EMPTY:.0f} % of their cells "
        f"empty or fewer than {FEWEST_RESIDUAL} configurations beyond the parameters. Claimed at q "
        f"< {CLAIMED} where one of the two has a claimed effect on the metric."
    )
    claims: list[Block] = [
        Interacts(one.first.name, one.second.name, one.metric.name, one.gain, one.q)
        for one in tested.claimed
    ]
    drawn = [
        line
        for one in tested.claimed[:SHOWN]
        for line in context.picture(one.figure, f"{one.metric.name} by both")
    ]
    header = ["metric", "pair", "share of variance", "F", "q"]
    shown = table(header, [_row(one) for one in tested.found[:LISTED]], left=2)
    fold = ["<details><summary>The largest of all tested</summary>", shown, "</details>"]
    silent = NoInteraction(tested.tests, tested.found[0].gain)
    return ["## Interactions", note, *(claims or [silent]), *drawn, *fold]


def _row(one: Interaction) -> list[str]:
    return [
        one.metric.name,
        f"{escaped(one.first.name)}, {escaped(one.second.name)}",
        f"{100 * one.gain:.2g} %",
        f"{one.f:.3g} ({one.df}, {one.residual_df})",
        wording.probability(one.q),
    ]


SPARSITY = ("sae.k", "sae.l1_alpha")
WIDTH = ("sae.n_latents", "sae.expansion_factor")
HEATMAP = "medians over sparsity and width"
PAIR = "medians over two hyperparameters whose effects do not add up"


class Cells(NamedTuple):
    """A metric over two hyperparameters."""

    across: Hyperparameter
    up: Hyperparameter
    medians: np.ndarray
    """[levels up, levels across], NaN where no ranked trial is."""
    counts: np.ndarray
    """Ranked trials with a value in each cell."""


def cells(study: Study, metric: Metric) -> Cells | None:
    """The medians over everything else; None unless the sweep varies sparsity and width."""
    varied = {one.key: one for one in study.hyperparameters}
    across = next((varied[key] for key in SPARSITY if key in varied), None)
    up = next((varied[key] for key in WIDTH if key in varied), None)
    return None if across is None or up is None else cells_of(study, metric, across, up)


def cells_of(study: Study, metric: Metric, across: Hyperparameter, up: Hyperparameter) -> Cells:
    """The medians of a metric over two hyperparameters."""
    values = study.trials[metric.name].to_numpy(dtype=np.float64)
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    medians = np.full((len(up.order), len(across.order)), np.nan)
    counts = np.zeros(medians.shape, dtype=int)
    for i, row in enumerate(up.order):
        for j, column in enumerate(across.order):
            inside = counted & up.at(row) & across.at(column)
            counts[i, j] = inside.sum()
            if counts[i, j]:
                medians[i, j] = np.median(values[inside])
    return Cells(across, up, medians, counts)


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One heatmap a main metric, and one for each of the largest interactions claimed."""
    drawn = []
    for metric in study.main_metrics:
        found = cells(study, metric)
        if found is not None and found.counts.any():
            drawn.append(_draw(metric, found, folder, f"heatmap_{metric.name}", HEATMAP))
    for one in interactions(study).claimed[:SHOWN]:
        found = cells_of(study, one.metric, one.first, one.second)
        drawn.append(_draw(one.metric, found, folder, one.figure, PAIR))
    return drawn


def _draw(metric: Metric, found: Cells, folder: Path, name: str, caption: str) -> style.Drawn:
    rows, columns = found.medians.shape
    figure, (axes,) = style.new(1, 1, (2.6 + 1.1 * columns, 1.7 + 0.75 * rows))
    norm = _norm(metric, found.medians)
    colours = mpl.colormaps["cividis"]
    image = axes.imshow(found.medians, cmap=colours, norm=norm, aspect="auto", origin="lower")
    for i in range(rows):
        for j in range(columns):
            if found.counts[i, j]:
                red, green, blue, _ = colours(norm(found.medians[i, j]))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                text = f"{number(found.medians[i, j], 3)}\nn={found.counts[i, j]}"
                ink = "white" if dark else style.BLACK
                axes.text(j, i, text, ha="center", va="center", fontsize=9, color=ink)
            else:
                _hatch(axes, i, j)
    axes.grid(visible=False)
    axes.set_xticks(range(columns), found.across.order)
    axes.set_yticks(range(rows), found.up.order)
    axes.set_xlabel(found.across.name)
    axes.set_ylabel(found.up.name)
    axes.set_title(f"{metric.name}: median over the rest", loc="left")
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(f"{metric.name} ({metric.unit})")
    if isinstance(norm, LogNorm):
        style.plain_ticks(bar.ax, "y")
    return style.save(figure, folder, name, caption)


def _norm(metric: Metric, medians: np.ndarray) -> Normalize:
    low, high = np.nanmin(medians), np.nanmax(medians)
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
    """Sparsity by width, a figure a metric."""
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
