"""Every trial as a dot over each hyperparameter, with the levels' medians."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.hyperparameters import Hyperparameter
from analysis.study import Study
from sae_sweep.records import Metric

COLUMNS = 3


def draw(study: Study, folder: Path) -> list[str]:
    """One figure a main metric; none where nothing varies or nothing is ranked."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    return [_draw(study, metric, folder) for metric in study.main_metrics]


def _draw(study: Study, metric: Metric, folder: Path) -> str:
    n = len(study.hyperparameters)
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    figure, panels = style.new(rows, columns, (1 + 3.4 * columns, 0.4 + 2.9 * rows))
    for axes, hyperparameter in zip(panels, study.hyperparameters, strict=False):
        _panel(study, metric, hyperparameter, axes)
    for axes in panels[n:]:
        axes.set_axis_off()
    title = f"{metric.name}: a dot a ranked trial, a bar each level's median"
    if len(study.trials[study.where("diverged") | study.worse_than_mean]):
        title += ", x at the edge: diverged or fvu >= 1"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    if handles := style.width_legend(study):
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    return style.save(figure, folder, f"effects_{metric.name}")


def _panel(study: Study, metric: Metric, hyperparameter: Hyperparameter, axes: Axes) -> None:
    order = hyperparameter.order
    places = np.array([order.index(level) for level in hyperparameter.levels], dtype=float)
    values = study.trials[metric.name].to_numpy(dtype=np.float64)
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    # spread by golden ratio: dots of one level do not cover each other, and always lie the same
    spread = (np.arange(len(places)) * 0.618 % 1 - 0.5) * 0.5
    size, alpha = (14, 0.6) if counted.sum() < 300 else (4, 0.3)
    dots = (places + spread)[counted]
    shades = style.shades(study, study.trials["n_latents"][counted])
    axes.scatter(dots, values[counted], s=size, color=shades, alpha=alpha)
    for i, level in enumerate(order):
        inside = values[counted & hyperparameter.at(level)]
        if len(inside):
            axes.hlines(np.median(inside), i - 0.36, i + 0.36, color=style.BLACK, linewidth=2)
    axes.margins(y=0.1)
    style.metric_axis(axes, metric, bool((values[counted] > 0).all()))
    lost = study.where("diverged") | study.worse_than_mean
    axes.scatter(
        (places + spread)[lost],
        np.full(lost.sum(), 0.98),
        transform=axes.get_xaxis_transform(),
        s=20,
        marker="x",
        color=style.RED,
    )
    slanted = max(map(len, order)) * len(order) > 34
    axes.set_xticks(
        range(len(order)), order, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_xlabel(hyperparameter.name)
