"""The latents that belong to one group: how often each fires in every group."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from analysis import groups
from analysis.figures import style
from analysis.groups import PREFIX
from analysis.ranking import picks
from analysis.study import Study

NAME = "groups"
MOST_ROWS = 60


def draw(study: Study, folder: Path) -> list[str]:
    """A row a specific latent of the first recommended trial that has any, a column a group."""
    for uid in dict.fromkeys(pick.uid for pick in picks(study)):
        latents, figures = groups.latents(study, uid), groups.figures(study, uid)
        if latents is None or figures is None:
            continue
        found = groups.compare(latents, figures)
        if found is not None and len(found.specific):
            return [_draw(study.member(uid).trial.label, found, latents.set_index("id"), folder)]
    return []


def _draw(label: str, found: groups.Latents, latents: pd.DataFrame, folder: Path) -> str:
    # as many of each group as have room, so that no group is pushed out by another
    each = max(1, MOST_ROWS // len(found.names))
    rows = found.specific.groupby("group", sort=False).head(each)
    columns = [PREFIX + name for name in found.names]
    values = latents.loc[rows["id"], columns].to_numpy(dtype=np.float64)
    size = (3.2 + 0.75 * len(columns), max(3.2, 1.6 + 0.16 * len(rows)))
    figure, (axes,) = style.new(1, 1, size)
    smallest = values[values > 0].min()
    colours = mpl.colormaps["cividis"].with_extremes(bad="white")
    shown = np.where(values > 0, values, np.nan)
    norm = LogNorm(min(smallest, values.max() / 10), values.max())
    image = axes.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="none")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), found.names, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows["id"].astype(str).tolist(), fontsize=6)
    axes.set_ylabel("latent")
    axes.set_title(
        f"{style.fitted(label)}: {len(rows)} of {len(found.specific)} specific latents", loc="left"
    )
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("share of tokens (white: 0)")
    return style.save(figure, folder, NAME)
