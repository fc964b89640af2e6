"""What became of the trials at every level of every hyperparameter."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.hyperparameters import Hyperparameter
from analysis.study import Study

NAME = "status_map"
COLUMNS = 2
OUTCOMES = (
    ("ranked", style.COLOURS[0], ""),
    ("done, no rank", style.COLOURS[4], "//"),
    ("stopped", style.COLOURS[2], ".."),
    ("diverged", style.RED, "xx"),
    ("failed or oom", style.BLACK, ""),
    ("not ended", style.GREY, ""),
)
"""Each with its colour and hatch, in the order in which they are stacked."""
KINDS = {"failed": "failed or oom", "oom": "failed or oom", "done": "done, no rank"}
KINDS |= dict.fromkeys(("queued", "running", "interrupted"), "not ended")


def draw(study: Study, folder: Path) -> list[str]:
    """A bar a level, stacked by outcome; none where nothing varies or every trial is ranked."""
    kinds = study.trials["status"].map(lambda one: KINDS.get(one, one))
    kinds = kinds.mask(study.trials["ranked"], "ranked")
    if not study.hyperparameters or bool(study.trials["ranked"].all()):
        return []
    columns = min(COLUMNS, len(study.hyperparameters))
    rows = -(-len(study.hyperparameters) // columns)
    most = max(len(one.order) for one in study.hyperparameters)
    size = (1 + 3.9 * columns, 0.9 + rows * (0.8 + 0.28 * most))
    figure, panels = style.new(rows, columns, size)
    for axes, one in zip(panels, study.hyperparameters, strict=False):
        _panel(one, kinds.to_numpy(), axes)
    for axes in panels[len(study.hyperparameters) :]:
        axes.set_axis_off()
    figure.suptitle("Trials by outcome at each level", fontsize=11, x=0.01, ha="left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4)
    return [style.save(figure, folder, NAME)]


def _panel(one: Hyperparameter, kinds: np.ndarray, axes: Axes) -> None:
    places = np.arange(len(one.order))
    left = np.zeros(len(one.order))
    for name, colour, hatch in OUTCOMES:
        counts = np.array([((kinds == name) & one.at(level)).sum() for level in one.order])
        if (kinds == name).any():
            bars = axes.barh(
                places, counts, 0.7, left, color=colour, label=name, hatch=hatch, edgecolor="white"
            )
            shown = [str(n) if n else "" for n in counts]
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
            texts = axes.bar_label(
                bars, shown, label_type="center", color="white", fontsize=9, bbox=box
            )
            for text, n in zip(texts, counts, strict=True):
                text.set_visible(bool(n))
        left += counts
    axes.set_yticks(places, one.order)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_title(one.name, loc="left")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("trials")
