"""Style of figures: colours that are safe for colour blindness and grey print."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.statistics.resampling import Interval
from analysis.study.table import Study
from sae_sweep.records import Metric

GREY = "#9a9a9a"
BLACK = "#222222"
RED = "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7a5c00")
"""After Okabe and Ito, https://jfly.uni-koeln.de/color/."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))

LONGEST = 44
"""Characters of a label in a figure."""

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.edgecolor": "#8a8a90",
    "axes.labelcolor": "#55555a",
    "xtick.color": "#8a8a90",
    "ytick.color": "#8a8a90",
    "xtick.labelcolor": "#55555a",
    "ytick.labelcolor": "#55555a",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "path.simplify": True,
    # names come from users: a dollar sign is a dollar sign
    "text.parse_math": False,
}


def applied() -> AbstractContextManager[None]:
    """The style, for as long as a figure is made and saved."""
    return mpl.rc_context(STYLE)


def new(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of panels, row by row."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


class Drawn(NamedTuple):
    """A figure in a file."""

    name: str
    """Of the file, without its suffix."""
    caption: str


def save(figure: Figure, folder: Path, name: str, caption: str) -> Drawn:
    """Write the figure as PNG, without the date and the library that would change its bytes."""
    layout = figure.get_layout_engine()
    if layout is not None:  # once: savefig would lay it out and draw it two times
        layout.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(folder / f"{name}.png", dpi=140, metadata={"Software": None})
    return Drawn(name, caption)


def fitted(label: str) -> str:
    """A trial's label, cut where it would leave its figure no room."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def widths(study: Study) -> dict[float, str]:
    """A colour for each width of the study's dictionaries: the same in every figure.

    Up to six are told apart by their hue; more run from dark to light.
    """
    known = sorted(study.trials["n_latents"].dropna().unique())
    if len(known) <= len(COLOURS):
        return dict(zip(known, COLOURS, strict=False))
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(known)))
    return {m: mpl.colors.to_hex(shade) for m, shade in zip(known, shades, strict=True)}


def shades(study: Study, n_latents: "pd.Series[float]") -> list[str]:
    """The colour of each point's width; grey where that is unknown."""
    known = widths(study)
    return [known.get(m, GREY) for m in n_latents]


def width_legend(study: Study) -> list[Artist]:
    """A legend's patch for each width; none where there is a single one."""
    known = widths(study)
    shown = known.items() if len(known) > 1 else []
    return [Patch(color=colour, label=f"n_latents {m:,.0f}") for m, colour in shown]


def named(metric: Metric) -> str:
    """A metric with its unit; ticks say the percent of a share, and a ratio has none."""
    return metric.name if metric.unit in ("share", "ratio") else f"{metric.name} ({metric.unit})"


def metric_axis(axes: Axes, metric: Metric, positive: bool) -> None:  # noqa: FBT001
    """Name the y axis; log where the metric's scale is and its values allow it."""
    axes.set_ylabel(named(metric))
    if metric.scale == "log" and positive:
        axes.set_yscale("log")
        plain_ticks(axes, "y", share=metric.unit == "share")
    elif metric.unit == "share":
        top = max(axes.get_ylim()[1], 0.001)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]) if positive else -0.03 * top, top)
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, min_n_ticks=2))
        axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: percent(value)))


def percent(value: float) -> str:
    """A share as a tick."""
    return f"{100 * value:.4g} %"


def plain_ticks(axes: Axes, which: str, *, share: bool = False) -> None:
    """Write the ticks of a log axis as plain numbers, also where it spans under a decade."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    written = percent if share else "{:g}".format
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 300:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5), numticks=50))
        axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: written(value)))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


class End(NamedTuple):
    """Where a line ends, and what it is called there."""

    y: float
    name: str
    colour: Any


GAP = 12.0
"""Points between two names at the ends of lines."""


def name_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write the lines' names right of the axes, at the height where each ends, none over another.

    Called last: the heights are those of the finished axes.
    """
    if not ends:
        return
    axes.figure.canvas.figure.draw_without_rendering()
    points = 72 / axes.figure.dpi
    heights = axes.transData.transform([(axes.get_xlim()[1], one.y) for one in ends])[:, 1]
    wanted = heights * points
    order = np.argsort(-wanted, kind="stable")
    placed = wanted.copy()
    for above, below in pairwise(order):
        placed[below] = min(placed[below], placed[above] - GAP)
    # names pushed below the axes go up again together
    low = axes.bbox.y0 * points
    placed += max(0.0, low - placed.min()) if len(ends) * GAP < axes.bbox.height * points else 0.0
    for one, height, place in zip(ends, wanted, placed, strict=True):
        axes.annotate(
            one.name,
            (1, one.y),
            xycoords=("axes fraction", "data"),
            xytext=(6, place - height),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=one.colour,
            annotation_clip=False,
        )


def interval_bar(
    axes: Axes, y: float, value: float, interval: Interval | None, colour: str
) -> None:
    """Draw an estimate as a dot with its interval as a line."""
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=2)
    axes.plot([value], [y], "o", color=colour, markersize=6)
