"""fvu over l0, a curve a kind and width: what is compared at equal sparsity."""

from pathlib import Path

import numpy as np

from analysis.figures import style
from analysis.matched import LEAST_POINTS, matched
from analysis.study import Study
from sae_sweep.records import METRICS

NAME = "matched"


def draw(study: Study, folder: Path) -> list[str]:
    """Points and interpolation of every class; dotted lines where classes are compared."""
    found = matched(study)
    if found is None:
        return []
    figure, (axes,) = style.new(1, 1, (8.2, 4.8))
    kinds = sorted({one.kind for one in [*found.curves, *found.refused]})
    widths = style.widths(study)
    for one in [*found.curves, *found.refused]:
        colour, turn = widths[one.n_latents], kinds.index(one.kind) % len(style.DASHES)
        marker = style.MARKERS[turn]
        axes.plot(one.l0, one.fvu, marker, color=colour, markersize=5, linestyle="none")
        has_curve = len(one.l0) >= LEAST_POINTS
        along = np.geomspace(one.l0[0], one.l0[-1], 60).clip(one.l0[0], one.l0[-1])
        axes.plot(
            along if has_curve else [],
            [one.at(l0) for l0 in along] if has_curve else [],
            color=colour,
            linestyle=style.DASHES[turn],
            marker="none",
            label=one.name,
        )
        axes.plot(
            found.common,
            [one.at(l0) for l0 in found.common] if has_curve else [np.nan] * len(found.common),
            "o",
            color="white",
            markeredgecolor=colour,
            markersize=7,
            zorder=3,
        )
    for l0 in found.common:
        axes.axvline(l0, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set_xscale("log")
    style.plain_ticks(axes, "x")
    style.metric_axis(axes, METRICS["fvu"], positive=True)
    axes.set_xlabel("l0 (latents/token)")
    axes.set_title("fvu at equal l0; open circles: the values compared", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return [style.save(figure, folder, NAME)]
