"""What the model loses with an SAE in it, and whether fvu tells the same story."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.context import ReportContext
from analysis.findings.fronts import fronts
from analysis.findings.ranking import picks
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import code, counted, number, table
from analysis.study.table import Study
from sae_sweep.records import METRICS, Metric
from sae_sweep.records.metrics import IN_MODEL

TITLE = "The model with the SAE in it"
EQUAL_L0 = 1.1
"""Configurations whose l0 differs by less than this factor are compared at equal sparsity."""
FEWEST = 4
"""Configurations below which no rank correlation is told."""
MOST_ROWS = 25


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


@dataclass(frozen=True)
class SameOrder:
    """How far fvu orders configurations as a metric of the model does."""

    metric: str
    rho: float
    """Spearman's rank correlation with fvu, above 0 where lower fvu goes with a better value."""
    n: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**fvu and {self.metric}:** rank correlation {self.rho:+.2f} over "
            f"{counted(self.n, 'configuration')}; positive: the same order of better and worse."
        )


@dataclass(frozen=True)
class Disagreement:
    """Of configurations with equal l0, the widest case of lower fvu and a worse model."""

    metric: str
    pairs: int
    """Pairs of configurations with equal l0."""
    other_order: int
    """Those in which the lower fvu goes with the worse value."""
    lower: str
    """Label of the one with the lower fvu in the widest such pair."""
    higher: str
    fvu: tuple[float, float]
    values: tuple[float, float]

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{self.metric} disagrees with fvu** in {self.other_order:,} of "
            f"{counted(self.pairs, 'pair')} of configurations with l0 equal to a tenth; widest: "
            f"{code(self.lower)} has fvu {number(self.fvu[0])} and {self.metric} "
            f"{number(self.values[0])}, {code(self.higher)} {number(self.fvu[1])} and "
            f"{number(self.values[1])}."
        )


def measured(study: Study) -> list[Metric]:
    """The metrics of the model with an SAE in it that trials of a sweep have."""
    known = {one.name for one in study.metrics}
    return [METRICS[name] for name in IN_MODEL if name in known]


def headline(study: Study) -> list[Metric]:
    """The one that is shown beside fvu: loss where there is a head, else the output's cosine."""
    found = measured(study)
    by_name = {one.name: one for one in found}
    return [by_name[name] for name in ("ce_loss_increase", "output_cosine") if name in by_name][:1]


def in_model(context: ReportContext) -> list[Block]:
    """A row for each recommended configuration and each on the first front."""
    study = context.study
    metrics = measured(study)
    if not metrics or study.ranked.empty:
        return []
    rows = study.ranked if study.configurations.empty else study.configurations
    rows = rows.dropna(subset=[metrics[0].name])
    if rows.empty:
        return []
    note = (
        "The SAE's reconstruction stands in place of the activations of all text tokens, on the "
        "same validation windows for every trial; special tokens keep their activations. "
        f"{len(rows):,} of {len(study.configurations) or len(study.ranked):,} have been measured."
    )
    claims: list[Block] = [*_without(study), *_orders(study, metrics, rows)]
    names = [one.name for one in metrics]
    shown, uses = _shown(study, rows), _uses(study)
    lines = [
        [
            code(study.member(uid).trial.label),
            code(uid),
            uses.get(uid, ""),
            *(number(float(rows[name][uid])) for name in ("fvu", "l0") if name in rows),
            *(number(float(rows[name][uid])) for name in names),
        ]
        for uid in shown
    ]
    header = ["trial", "uid", "picked for", *(one for one in ("fvu", "l0") if one in rows), *names]
    pictures = context.picture(NAME, CAPTION)
    return [f"## {TITLE}", note, *claims, table(header, lines, left=3), *pictures]


def _uses(study: Study) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for pick in picks(study):
        found.setdefault(pick.uid, []).append(pick.title.lower())
    return {uid: ", ".join(titles) for uid, titles in found.items()}


def _shown(study: Study, rows: pd.DataFrame) -> list[str]:
    """The recommended ones, then the first front; of several tasks all, by fvu."""
    wanted = [*_uses(study), *(uid for one in fronts(study)[:1] for uid in one.uids)]
    wanted = wanted or list(map(str, rows.sort_values(["fvu", "label"], kind="stable").index))
    return [uid for uid in dict.fromkeys(wanted) if uid in rows.index][:MOST_ROWS]


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


def _orders(
    study: Study, metrics: list[Metric], rows: pd.DataFrame
) -> Iterator[SameOrder | Disagreement]:
    if study.configurations.empty:
        return
    for metric in metrics:
        if metric.name.startswith("ce_recovered"):
            continue  # decreasing functions of ce_loss_increase: the same order
        here = rows.dropna(subset=["fvu", metric.name])
        worse = here[metric.name] * (1 if metric.direction == "down" else -1)
        varies = worse.min() < worse.max() and here["fvu"].min() < here["fvu"].max()
        if len(here) < FEWEST or not varies:
            continue
        rho = float(stats.spearmanr(here["fvu"], worse).statistic)
        yield SameOrder(metric.name, rho, len(here))
        yield from _disagreement(metric, here, worse)


def _disagreement(
    metric: Metric, rows: pd.DataFrame, worse: "pd.Series[float]"
) -> Iterator[Disagreement]:
    if "l0" not in rows:
        return
    fvu, l0, bad = (one.to_numpy(dtype=float) for one in (rows["fvu"], rows["l0"], worse))
    pairs = [
        (i, j) if fvu[i] < fvu[j] else (j, i)
        for i, j in combinations(range(len(rows)), 2)
        if max(l0[i], l0[j]) <= EQUAL_L0 * min(l0[i], l0[j]) and fvu[i] != fvu[j]
    ]
    turned = [(i, j) for i, j in pairs if bad[i] > bad[j]]
    if not turned:
        return
    i, j = max(turned, key=lambda pair: (bad[pair[0]] - bad[pair[1]], -pair[0], -pair[1]))
    labels, values = rows["label"].to_numpy(), rows[metric.name].to_numpy(dtype=float)
    yield Disagreement(
        metric.name,
        len(pairs),
        len(turned),
        str(labels[i]),
        str(labels[j]),
        (float(fvu[i]), float(fvu[j])),
        (float(values[i]), float(values[j])),
    )


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
