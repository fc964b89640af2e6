"""What the model loses with an SAE in it, and its rank agreement with fvu."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.context import ReportContext
from analysis.findings.beside_fvu import FEWEST, beside, measured, measured_rows, orders
from analysis.findings.fronts import fronts
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import number
from analysis.study.table import Study
from sae_sweep.records import Metric
from sae_sweep.records.metrics import IN_MODEL

TITLE = "The model with the SAE in it"


@dataclass(frozen=True)
class WithoutSae:
    """What the model does as it is and with its activations ablated: the scale of all figures."""

    figures: tuple[tuple[str, float], ...]
    """By the names of metrics."""

    @property
    def words(self) -> str:
        """The sentence."""
        told = ", ".join(f"{name} {number(value)}" for name, value in self.figures)
        return f"**Without an SAE:** {told}."


def headline(study: Study) -> list[Metric]:
    """The one that is shown beside fvu: loss where there is a head, else the output's cosine."""
    found = measured(study, IN_MODEL)
    by_name = {one.name: one for one in found}
    return [by_name[name] for name in ("ce_loss_increase", "output_cosine") if name in by_name][:1]


def in_model(context: ReportContext) -> list[Block]:
    """A row for each recommended configuration and each on the first front."""
    study = context.study
    metrics = measured(study, IN_MODEL)
    rows = measured_rows(study, metrics)
    if rows.empty:
        return []
    note = (
        "The SAE's reconstruction stands in place of the activations of all text tokens, on the "
        "same validation windows for every trial; special tokens keep their activations. "
        f"{len(rows):,} of {len(study.configurations) or len(study.ranked):,} have been measured."
    )
    claims: list[Block] = [*_without(study), *orders(study, metrics, rows)]
    pictures = context.picture(NAME, CAPTION)
    return [f"## {TITLE}", note, *claims, beside(study, metrics, rows), *pictures]


def _without(study: Study) -> Iterator[WithoutSae]:
    """The clean and ablated passes, where all trials share them."""
    names = [f"ce_{one}" for one in ("clean", "zero", "mean")]
    names += [f"output_cosine_{one}" for one in ("zero", "mean")]
    found = []
    for name in (one for one in names if one in study.ranked):
        values = study.ranked[name].dropna().unique()
        if len(values) == 1:
            found.append((name, float(values[0])))
    if found:
        yield WithoutSae(tuple(found))


NAME = "in_model"
CAPTION = "what the model loses with an SAE in it, over fvu"


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """A point for each configuration: the headline metric over fvu, hue by width."""
    found = headline(study)
    if not found or study.configurations.empty:
        return []
    metric = found[0]
    points = study.configurations.dropna(subset=["fvu", metric.name])
    if len(points) < FEWEST:
        return []
    figure, (axes,) = style.new(1, 1, (6.5, 4.5))
    on_front = np.isin(points.index, [uid for one in fronts(study)[:1] for uid in one.uids])
    for chosen, edge, label in (
        (~on_front, "none", "beaten in the first front"),
        (on_front, style.BLACK, "on the first front"),
    ):
        rows = points[chosen]
        if len(rows):
            colours = style.shades(study, rows["n_latents"])
            axes.scatter(rows["fvu"], rows[metric.name], s=36, color=colours, edgecolor=edge)
            face = style.GREY
            axes.scatter([], [], s=36, color=face, edgecolor=edge, label=f"{label} ({len(rows)})")
    axes.set_xlabel("fvu (ratio)")
    axes.set_xscale("log")
    style.plain_ticks(axes, "x")
    axes.set_ylabel(f"{metric.name} ({metric.unit}; {metric.direction} is better)")
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=[*handles, *style.width_legend(study)], loc="outside lower left", ncols=2)
    return [style.save(figure, folder, NAME, CAPTION)]
