"""Training curves: the first trials in colour, the rest in grey."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from analysis.context import ReportContext
from analysis.findings.ranking import leaders, picks
from analysis.page import style
from analysis.page.blocks import Block
from analysis.study.table import Curve, History, Study
from sae_sweep.records import METRICS, Metric, TrialRecord

SHOWN = ("fvu", "dead_features", "loss")
ALIGNED = ("fvu", "l0", "dead_features", "loss")
COMPARED = "comparison"
MOST = 200
"""Most grey curves in one figure; of more, a regular sample is drawn."""


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One figure per metric that any trial has reported."""
    first = {uid: study.member(uid).trial.label for uid in leaders(study)[: len(style.COLOURS)]}
    rest = [str(uid) for uid in study.trials.index if uid not in first]
    sample = rest[:: -(-len(rest) // MOST) or 1]
    drawn = []
    for name in SHOWN:
        history = finite(study.history([*first, *sample], name))
        if history:
            note = f"{len(history)} of {len(study.trials)} trials"
            figure, (axes,) = style.new(1, 1, (8, 4.6))
            draw_curves(axes, METRICS[name], history, first)
            axes.set_title(f"{name} during training ({note})", loc="left")
            drawn.append(style.save(figure, folder, f"curves_{name}", "the course of training"))
    uids = dict.fromkeys(pick.uid for pick in picks(study))
    return [*drawn, *aligned([study.member(uid).trial for uid in uids], study.history, folder)]


def aligned(records: Sequence[TrialRecord], history: History, folder: Path) -> list[style.Drawn]:
    """Draw trials over one axis of tokens, one row per metric that any has reported."""
    uids = [one.uid for one in records]
    known = {name: found for name in ALIGNED if (found := finite(history(uids, name)))}
    if len(records) < 2 or not known:
        return []
    figure, panels = style.new(len(known), 1, (8.4, 0.8 + 1.9 * len(known)))
    for axes, (name, found) in zip(panels, known.items(), strict=True):
        for i, record in enumerate(records):
            if record.uid in found:
                steps, values = found[record.uid]
                axes.plot(
                    steps * record.config["train"]["batch_size"],
                    values,
                    color=style.COLOURS[i % len(style.COLOURS)],
                    linestyle=style.DASHES[i % len(style.DASHES)],
                    marker="o" if len(steps) == 1 else None,
                )
        each = np.concatenate([values[np.isfinite(values)] for _, values in found.values()])
        style.metric_axis(axes, METRICS[name], bool((each > 0).all()))
        axes.sharex(panels[0])
        axes.tick_params(labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("training tokens, repeats counted")
    names = [f"{style.fitted(one.label)} {one.uid}" for one in records]
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, label=name)
        for name, colour, dashes in zip(names, cycle(style.COLOURS), cycle(style.DASHES))
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1)
    return [style.save(figure, folder, COMPARED, "the recommended trials over training tokens")]


def finite(history: dict[str, Curve]) -> dict[str, Curve]:
    """The curves that have a point to draw."""
    return {uid: curve for uid, curve in history.items() if np.isfinite(curve[1]).any()}


def draw_curves(
    axes: Axes, metric: Metric, history: dict[str, Curve], named: dict[str, str]
) -> None:
    """Draw trials' curves: the named ones in colour with their names, the others grey."""
    grey = [np.column_stack(curve) for uid, curve in history.items() if uid not in named]
    axes.add_collection(LineCollection(grey, colors=style.GREY, linewidths=0.7, alpha=0.5))
    coloured = [uid for uid in named if uid in history]
    for i, uid in enumerate(coloured):
        steps, values = history[uid]
        turn = i % len(style.COLOURS)
        axes.plot(
            steps,
            values,
            color=style.COLOURS[turn],
            linestyle=style.DASHES[turn],
            linewidth=1.8,
            marker="o" if len(steps) == 1 else None,
        )
    finite = np.concatenate([values[np.isfinite(values)] for _, values in history.values()])
    axes.autoscale_view()
    style.metric_axis(axes, metric, bool((finite > 0).all()))
    axes.set_xlabel("step")
    names = [style.fitted(named[uid]) for uid in coloured]
    style.name_ends(axes, _ends(history, coloured, names))


def _ends(history: dict[str, Curve], uids: Sequence[str], names: Sequence[str]) -> list[style.End]:
    """The last finite point of each trial's curve, in its colour."""
    found = []
    for i, (uid, name) in enumerate(zip(uids, names, strict=True)):
        values = history[uid][1]
        last = values[np.isfinite(values)][-1:]
        colour = style.COLOURS[i % len(style.COLOURS)]
        found += [style.End(float(value), name, colour) for value in last]
    return found


def training_curves(context: ReportContext) -> list[Block]:
    """Curves of the metrics during training."""
    shown = [
        line
        for name in ("fvu", "dead_features", "loss")
        for line in context.picture(f"curves_{name}", f"{name} during training")
    ]
    if not shown:
        return []
    note = (
        "As reported while training: fvu and dead_features over the first validation tokens, loss "
        "over a batch. In colour the recommended trials, then the front; the others in grey. "
        "Losses of different coefficients are not comparable."
    )
    return ["## Training curves", note, *shown]
