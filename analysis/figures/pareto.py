"""Reconstruction against sparsity: the front, what noise puts beside it, what diverged."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import noise
from analysis.figures import style
from analysis.fronts import Front, fronts, standings
from analysis.study import Study
from sae_sweep.records import METRICS

NAME = "pareto_frontier"
OFFSETS = ((6, 6), (6, -13), (-13, 6), (-13, -13), (0, 10), (0, -18))
"""Where a label may stand, in points from its dot."""
MANY = 300
"""Points from which they are drawn small."""
MOST_TICKS = 8
"""Values of k up to which they are the ticks of its axis, and of that of l0."""
LABEL_SIZE = 14
"""Points that a label keeps to itself."""


def draw(study: Study, folder: Path) -> list[str]:
    """Draw the first front: fvu over l0, or over dead_features where l0 does not vary."""
    found = fronts(study)
    if not found or not found[0].uids or found[0].objectives[0].name != "fvu":
        return []
    front = found[0]
    across = front.objectives[1]
    points = study.configurations.dropna(subset=[across.name, "fvu"])
    figure, (axes,) = style.new(1, 1, (7.5, 5))
    _others(study, front, points, axes)
    best = points.loc[front.uids]
    axes.plot(
        best[across.name], best["fvu"], color=style.BLACK, linewidth=1, drawstyle="steps-post"
    )
    positive = bool((points["fvu"] > 0).all())
    _band(study, best, across.name, axes, positive=positive)
    axes.scatter(
        best[across.name],
        best["fvu"],
        s=48,
        color=style.shades(study, best["n_latents"]),
        edgecolor=style.BLACK,
        zorder=3,
    )
    name = f"on the front ({len(best)} of {front.n})"
    axes.scatter([], [], s=48, color=style.GREY, edgecolor=style.BLACK, label=name)
    style.metric_axis(axes, METRICS["fvu"], positive)
    axes.set_xlabel(f"{across.name} ({across.unit})")
    if across.scale == "log":
        axes.set_xscale("log")
        style.plain_ticks(axes, "x")
    given = sorted(study.trials["k"].dropna().unique())
    if across.name in ("l0", "k") and 1 < len(given) <= MOST_TICKS:
        axes.set_xticks(given, [f"{k:g}" for k in given])
    axes.margins(y=0.1)
    _unranked(study, across.name, axes)
    axes.set_title(f"Pareto front: {front.name}; numbers as in the report", loc="left")
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=[*handles, *style.width_legend(study)], loc="outside lower left", ncols=2)
    _labels(axes, front, study)
    return [style.save(figure, folder, NAME)]


def _others(study: Study, front: Front, points: pd.DataFrame, axes: Axes) -> None:
    """What is not on the front: clearly beaten in pale, within noise of it open; hue says width."""
    stands = standings(study, front)
    known = noise.floor(study, METRICS["fvu"]) is not None
    name = "clearly beaten" if known else "beaten (noise unknown)"
    across = front.objectives[1].name
    size = 28 if len(points) < MANY else 8
    for standing, label, is_open in (
        ("clearly beaten", name, False),
        ("within noise", "within noise of the front", True),
    ):
        rows = points.loc[stands.index[stands == standing]]
        if len(rows):
            shades, alpha = style.shades(study, rows["n_latents"]), 1.0 if is_open else 0.4
            face, key = ("white", "white") if is_open else (shades, style.GREY)
            x, y = rows[across], rows["fvu"]
            axes.scatter(x, y, s=size, facecolor=face, edgecolor=shades, alpha=alpha)
            label = f"{label} ({len(rows)})"
            axes.scatter([], [], s=28, facecolor=key, edgecolor=style.GREY, label=label)


def _band(study: Study, best: pd.DataFrame, across: str, axes: Axes, *, positive: bool) -> None:
    """Shade what lies above the front by less than the least detectable difference in fvu."""
    found = noise.floor(study, METRICS["fvu"])
    if found is None or not positive or len(best) < 2:
        return
    seeds = best["seeds"].to_numpy()
    upper = best["fvu"].to_numpy() * 10.0 ** found.between(seeds, seeds)
    axes.fill_between(
        best[across],
        best["fvu"],
        upper,
        step="post",
        color=style.GREY,
        alpha=0.25,
        linewidth=0,
        label="told apart beyond this band (fvu)",
    )


def _unranked(study: Study, across: str, axes: Axes) -> None:
    """Mark at the upper edge what has no fvu below 1, at its l0 or else at its k."""
    lost = study.trials[study.where("diverged") | study.worse_than_mean]
    x = lost[across].fillna(lost["k"]) if across == "l0" else lost[across]
    unplaced = int(x.isna().sum())
    x = x.dropna()
    if unplaced:
        name = f"not shown, {across} unknown: {unplaced} diverged or fvu >= 1"
        axes.scatter([], [], marker="x", color=style.GREY, label=name)
    if len(x):
        axes.scatter(
            x,
            np.full(len(x), 0.985),
            transform=axes.get_xaxis_transform(),
            marker="x",
            color=style.RED,
            label=f"at the edge: diverged or fvu >= 1 ({len(x)})",
            zorder=4,
        )


def _labels(axes: Axes, front: Front, study: Study) -> None:
    """Number the front's points; a number without room is left out rather than overprinted."""
    axes.figure.canvas.draw()
    names = [front.objectives[1].name, "fvu"]
    points = study.configurations.loc[front.uids, names].to_numpy(dtype=float)
    to_points = 72 / axes.figure.dpi
    dots = axes.transData.transform(points) * to_points
    taken: list[np.ndarray] = []
    for i, (point, dot) in enumerate(zip(points, dots, strict=True)):
        for offset in OFFSETS:
            place = dot + np.array(offset) + 4
            others = np.array([*taken, *np.delete(dots, i, axis=0)])
            if not len(others) or np.abs(others - place).max(axis=1).min() > LABEL_SIZE / 2 + 2:
                axes.annotate(
                    str(i + 1),
                    (point[0], point[1]),
                    xytext=offset,
                    textcoords="offset points",
                    fontsize=9,
                )
                taken.append(place)
                break
