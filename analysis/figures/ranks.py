"""How sure the places of the first configurations are."""

from pathlib import Path

import matplotlib as mpl

from analysis.figures import style
from analysis.ranking import lowest, rank_ranges
from analysis.study import Study
from sae_sweep.records import METRICS

NAME = "rank_stability"
TOP = 10


def draw(study: Study, folder: Path) -> list[str]:
    """The ranks by fvu of the first ten, with the ranges that noise leaves; none without noise."""
    rows = lowest(study, "fvu")
    names = [str(uid) for uid in rows.index[:TOP]]
    ranges = rank_ranges(study, [METRICS["fvu"]], names) if len(names) > 1 else {}
    if not ranges:
        return []
    figure, (axes,) = style.new(1, 1, (7.5, 1.2 + 0.36 * len(names)))
    for i, uid in enumerate(names):
        low, high = ranges[uid]
        axes.plot([low, high], [i, i], color=style.COLOURS[0], linewidth=5, alpha=0.35)
        axes.plot([low, high], [i, i], "|", color=style.COLOURS[0], markersize=9)
        axes.plot(i + 1, i, "o", color=style.BLACK, markersize=5)
    labels = [style.fitted(study.member(uid).trial.label) for uid in names]
    axes.set_yticks(range(len(names)), [f"{i}  {one}" for i, one in enumerate(labels, start=1)])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel(f"rank by fvu of {len(rows)}: dot observed, bar 95 % of draws")
    axes.set_title("Rank stability under the noise between seeds", loc="left")
    return [style.save(figure, folder, NAME)]
