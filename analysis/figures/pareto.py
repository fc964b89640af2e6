"""Reconstruction against sparsity: the front, what it beats, and what diverged."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.fronts import Front, fronts
from analysis.study import Study
from sae_sweep.records import METRICS

NAME = "pareto_frontier"
OFFSETS = ((6, 6), (6, -13), (-13, 6), (-13, -13), (0, 10), (0, -18))
"""Where a label may stand, in points from its dot."""
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
    figure, (axes,) = style.new(1, 1, (7.5, 5))
    beaten = study.ranked.drop(index=front.uids)
    axes.scatter(
        beaten[across.name],
        beaten["fvu"],
        s=24,
        color=style.GREY,
        label=f"beaten ({len(beaten)})",
    )
    best = study.trials.loc[front.uids]
    axes.plot(
        best[across.name], best["fvu"], color=style.COLOURS[0], linewidth=1, drawstyle="steps-post"
    )
    axes.scatter(
        best[across.name],
        best["fvu"],
        s=48,
        color=style.COLOURS[0],
        edgecolor="white",
        label=f"on the front ({len(best)} of {front.n})",
        zorder=3,
    )
    style.metric_axis(axes, METRICS["fvu"], bool((study.ranked["fvu"] > 0).all()))
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
    figure.legend(loc="outside lower left", ncols=3)
    _labels(axes, front, study)
    return [style.save(figure, folder, NAME)]


def _unranked(study: Study, across: str, axes: Axes) -> None:
    """Mark at the upper edge what has no fvu below 1, at its l0 or else at its k."""
    lost = study.trials[study.where("diverged") | study.worse_than_mean]
    x = lost[across].fillna(lost["k"]) if across == "l0" else lost[across]
    x = x.dropna()
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
    points = study.trials.loc[front.uids, [front.objectives[1].name, "fvu"]].to_numpy(dtype=float)
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
