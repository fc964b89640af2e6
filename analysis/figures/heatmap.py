"""Sparsity by width: the median of a metric in every cell, with its count."""

from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from analysis.figures import style
from analysis.hyperparameters import Hyperparameter
from analysis.interactions import SHOWN, interactions
from analysis.markdown import number
from analysis.study import Study
from sae_sweep.records import Metric

SPARSITY = ("sae.k", "sae.l1_alpha")
WIDTH = ("sae.n_latents", "sae.expansion_factor")


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


def draw(study: Study, folder: Path) -> list[str]:
    """One heatmap a main metric, and one for each of the largest interactions claimed."""
    drawn = []
    for metric in study.main_metrics:
        found = cells(study, metric)
        if found is not None and found.counts.any():
            drawn.append(_draw(metric, found, folder, f"heatmap_{metric.name}"))
    for one in interactions(study).claimed[:SHOWN]:
        found = cells_of(study, one.metric, one.first, one.second)
        drawn.append(_draw(one.metric, found, folder, one.figure))
    return drawn


def _draw(metric: Metric, found: Cells, folder: Path, name: str) -> str:
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
    return style.save(figure, folder, name)


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
