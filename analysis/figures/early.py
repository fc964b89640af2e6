"""How soon the order of trials is that of the end."""

from itertools import groupby
from pathlib import Path

import numpy as np

from analysis.early import signals
from analysis.figures import style
from analysis.study import Study


def draw(study: Study, folder: Path) -> list[str]:
    """Spearman's correlation with the final metric by share of training, a line a metric."""
    known = [one for one in signals(study) if not np.isnan(one.spearman)]
    if not known:
        return []
    figure, (axes,) = style.new(1, 1, (6.4, 3.8))
    for i, (name, found) in enumerate(groupby(known, key=lambda one: one.metric.name)):
        of = list(found)
        # side by side, or the intervals of metrics would cover each other
        x = np.array([100 * one.share for one in of]) * 1.04**i
        y = np.array([one.spearman for one in of])
        ends = np.array([one.interval or (one.spearman, one.spearman) for one in of])
        colour, dashes = style.COLOURS[i], style.DASHES[i]
        axes.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=4, label=name)
        axes.vlines(x, ends[:, 0], ends[:, 1], color=colour, linewidth=1.2, alpha=0.7)
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    axes.set_ylim(top=1.05)
    axes.set_xscale("log")
    ticks = sorted({100 * one.share for one in known})
    axes.set_xticks(ticks, [f"{one:g}" for one in ticks])
    axes.minorticks_off()
    axes.set_xlabel("% of a trial's steps")
    axes.set_ylabel("Spearman with the final value")
    n = sorted({one.n for one in known})
    counts = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
    axes.set_title(f"early against final metrics ({counts} configurations)", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return [style.save(figure, folder, "early_signals")]
