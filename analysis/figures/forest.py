"""Raw beside adjusted changes, the best of each level, and shares of variance, with intervals."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import scales, verdicts
from analysis.adjusted import Change
from analysis.figures import style
from analysis.hyperparameters import Hyperparameter
from analysis.importance import enough, importances
from analysis.levels import isolated
from analysis.resampling import Interval
from analysis.samples import varies
from analysis.study import Study
from sae_sweep.records import Metric

COLUMNS = 3


def draw(study: Study, folder: Path) -> list[str]:
    """Forests and isolation plots a metric, and one figure of importance."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    drawn = []
    for metric in verdicts.outcomes(study):
        drawn += _forest(study, metric, folder)
        drawn += _isolation(study, metric, folder)
    return drawn + _importance(study, folder)


def _forest(study: Study, metric: Metric, folder: Path) -> list[str]:
    """A row a hyperparameter: the change from its first to its last level, both ways."""
    effects = verdicts.judge(study).of(metric)
    rows = [
        (one.hyperparameter.name, one.adjusted.change)
        for one in effects
        if one.adjusted is not None and one.adjusted.change is not None
    ]
    if len(rows) < 2:
        return []
    figure, (axes,) = style.new(1, 1, (6.4, 1.6 + 0.55 * len(rows)))
    for i, (_, change) in enumerate(rows):
        _bar(axes, i - 0.13, change.raw, change.raw_interval, style.GREY)
        _bar(axes, i + 0.13, change.adjusted, change.adjusted_interval, style.COLOURS[0])
    axes.axvline(0, color=style.BLACK, linewidth=1)
    axes.set_yticks(range(len(rows)), [_row_name(name, change) for name, change in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: scales.change(metric, value))
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_xlabel(f"change of {metric.name}")
    figure.suptitle(f"{metric.name}: first to last level", fontsize=11, x=0.01, ha="left")
    names = {"raw": style.GREY, "with the others held": style.COLOURS[0]}
    handles = [Line2D([], [], color=colour, marker="o", label=of) for of, colour in names.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return [style.save(figure, folder, f"forest_{metric.name}")]


def _row_name(name: str, change: Change) -> str:
    return f"{name}\n{change.first} to {change.last}"


def _bar(axes: Axes, y: float, value: float, interval: Interval | None, colour: str) -> None:
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=2)
    axes.plot([value], [y], "o", color=colour, markersize=6)


def _isolation(study: Study, metric: Metric, folder: Path) -> list[str]:
    """The best trial of each level, and what as many trials as the rarest level has would reach."""
    shown = study.hyperparameters
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure, panels = style.new(rows, columns, (1 + 3.2 * columns, 0.5 + 2.6 * rows))
    for axes, one in zip(panels, shown, strict=False):
        _isolated(axes, study, one, metric)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"{metric.name}: best trial of each level (dot); expected best at equal n (bar)",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return [style.save(figure, folder, f"isolation_{metric.name}")]


def _isolated(axes: Axes, study: Study, one: Hyperparameter, metric: Metric) -> None:
    found = isolated(study, one, metric)
    best = np.array([level.best for level in found])
    places = np.arange(len(found))
    axes.hlines(
        [level.at_equal_n for level in found],
        places - 0.25,
        places + 0.25,
        color=style.BLACK,
        linewidth=2,
    )
    axes.plot(places, best, "o", color=style.COLOURS[0])
    slanted = max((len(level.name) for level in found), default=0) * len(found) > 34
    between = ", " if slanted else "\n"
    names = [f"{level.name}{between}n={level.n}" for level in found]
    axes.set_xticks(
        places, names, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.margins(y=0.15)
    axes.set_xlabel(one.name)
    style.metric_axis(axes, metric, bool(len(best) and (best > 0).all()))


def _importance(study: Study, folder: Path) -> list[str]:
    """A panel a metric: partial eta^2 with the range over random halves."""
    judged = verdicts.judge(study)
    usable = [
        one
        for one in verdicts.outcomes(study)
        if enough(judged.designs[one.name]) and varies(judged.samples[one.name].y)
    ]
    n = len(study.hyperparameters)
    if not usable or n < 2:
        return []
    figure, panels = style.new(1, len(usable), (1 + 3.6 * len(usable), 1.1 + 0.45 * n))
    for axes, metric in zip(panels, usable, strict=True):
        found = importances(judged.designs[metric.name], judged.samples[metric.name].y).found
        for i, one in enumerate(found):
            _bar(axes, i, one.share, one.interval, style.COLOURS[0])
        axes.set_yticks(range(len(found)), [one.factor.hyperparameter.name for one in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("partial η², 5 to 95 % of random halves")
        axes.set_title(metric.name, loc="left")
    return [style.save(figure, folder, "importance")]
