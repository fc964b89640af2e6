"""Pareto fronts, their uncertainty under noise, and their knees."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.findings.fronts import Front, chances, costs, fronts, standings
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import code, counted, escaped, number, table
from analysis.statistics.knee import FLAT, bounds, knee
from analysis.study.table import Study
from analysis.topics.best import MOST_SETTINGS, trials_table
from sae_sweep.records import METRICS
from sae_sweep.records.metrics import GROUND_TRUTH, IN_MODEL
from sae_sweep.records.references import Reference

MOST_ON_FRONT = 30
BESIDE = ("fvu", "l0", "dead_features", "always_on", *IN_MODEL[:2], *GROUND_TRUTH[:2])
"""Metrics that are shown of references, where any has them."""


@dataclass(frozen=True)
class OnFront:
    """How many are on a front, near it, and beaten."""

    objectives: str
    n: int
    on_front: int
    within_noise: int | None
    """None where noise is unknown."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        verb = "is" if self.on_front == 1 else "are"
        what = (
            f"Pareto front ({self.objectives}): {self.on_front:,} of "
            f"{counted(self.n, 'configuration')} {verb} on it"
        )
        rest = self.n - self.on_front
        if self.within_noise is None:
            return f"{what}, {rest:,} beaten; noise unknown."
        beaten = rest - self.within_noise
        return f"{what}, {self.within_noise:,} within noise of it, {beaten:,} clearly beaten."


@dataclass(frozen=True)
class Bend:
    """Where a front bends, on the metrics' scales."""

    objectives: str
    label: str
    distance: float
    """From the line between the front's ends, both objectives as 0 to 1."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Knee of ({self.objectives}): {code(self.label)}, {number(self.distance, 3)} from the "
            "line between the ends."
        )


@dataclass(frozen=True)
class BesideReference:
    """How the configurations stand to an autoencoder that was trained elsewhere."""

    name: str
    fvu: float
    l0: float
    better: int
    """Configurations with a lower fvu and no larger an l0."""
    worse: int
    """Configurations with a higher fvu and no smaller an l0."""
    n: int

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        return (
            f"Reference {code(self.name)}: fvu {number(self.fvu)} at l0 {number(self.l0)}; of "
            f"{counted(self.n, 'configuration')} {self.better:,} have a lower fvu at no larger an "
            f"l0, {self.worse:,} a higher one at no smaller an l0."
        )


def pareto_front(context: ReportContext) -> list[Block]:
    """The fronts with their objectives, and the configurations on them."""
    study = context.study
    found = context.fronts
    if not found:
        return []
    note = (
        "A configuration is on a front when no other is as good in every objective and better in "
        "one, by their means over seeds; l0 counts to four digits. Clearly beaten: one on the "
        "front is better by more than the least detectable difference somewhere and nowhere worse "
        "by more; within noise: neither. `P(on front)`: share of draws, with the noise between "
        "seeds added anew (normal, pooled sd, seed 0; fewer draws for large fronts), that leave "
        "it unbeaten. A knee is farther than "
        f"{FLAT:g} from the line between the ends of a front of three or more."
    )
    parts: list[Block] = ["## Pareto front", note]
    for i, front in enumerate(found):
        parts += [f"### {front.name}", on_front(study, front), *_shape(study, front)]
        parts.append(_table(study, front))
        parts += context.picture("pareto_frontier", f"Pareto front: {front.name}") if i == 0 else []
    parts += _references(study)
    if any(len(front.uids) > MOST_ON_FRONT for front in found):
        parts.append(
            f"The first {MOST_ON_FRONT} of each; all in `data/pareto_optimal_configs.json`."
        )
    return parts


def _references(study: Study) -> list[Block]:
    """Autoencoders that were trained elsewhere: beside the fronts, never on them."""
    if not study.references:
        return []
    names = [name for name in BESIDE if any(name in one.metrics for one in study.references)]
    rows = [
        [
            *(code(one.name), code(one.layout), escaped(one.kind), f"{one.n_latents:,}"),
            *(number(one.value(name)) for name in names),
            escaped("; ".join(one.notes)),
        ]
        for one in study.references
    ]
    note = (
        "Autoencoders that were trained elsewhere (`python -m sae_sweep evaluate`), measured on "
        "the same validation rows as the trials. They are not ranked and on no front: data and "
        "length of their training are their own."
    )
    header = ["reference", "layout", "kind", "n_latents", *names, "notes"]
    lines = table(header, rows, left=3)
    return ["### References", note, *_beside(study), lines]


def _beside(study: Study) -> Iterator[BesideReference]:
    """Where the configurations are, of those that have both metrics."""
    rows = study.configurations
    if "l0" not in rows or "fvu" not in rows:
        return
    points = rows.dropna(subset=["fvu", "l0"])
    for one in study.references:
        fvu, l0 = one.value("fvu"), one.value("l0")
        better = (points["fvu"] < fvu) & (points["l0"] <= l0)
        worse = (points["fvu"] > fvu) & (points["l0"] >= l0)
        if math.isfinite(fvu) and math.isfinite(l0):
            counts = int(better.sum()), int(worse.sum()), len(points)
            yield BesideReference(one.name, fvu, l0, *counts)


def on_front(study: Study, front: Front) -> OnFront:
    """How the configurations stand to a front."""
    known = _is_noise_known(study, front)
    near = int((standings(study, front) == "within noise").sum()) if known else None
    return OnFront(front.name, front.n, len(front.uids), near)


def _is_noise_known(study: Study, front: Front) -> bool:
    measured = [one for one in front.objectives if one.kind != "cost"]
    return all(noise.floor(study, one) is not None for one in measured)


def _shape(study: Study, front: Front) -> list[Block]:
    """The knee of a front of two objectives, where it has one."""
    points = costs(study, front)
    edges = bounds(points.to_numpy())
    if edges is None or len(front.objectives) != 2:
        return []
    found = knee(edges.normalised(points.loc[front.uids].to_numpy()))
    if found is None:
        return []
    return [Bend(front.name, study.member(front.uids[found.place]).trial.label, found.distance)]


def _table(study: Study, front: Front) -> str:
    main = {one.name for one in study.main_metrics}
    shown = {one.name for one in study.hyperparameters[:MOST_SETTINGS]}
    rows = study.configurations.loc[front.uids]
    extra = {
        one.name: {uid: number(float(rows[one.name][uid])) for uid in front.uids}
        for one in front.objectives
        if one.name not in main | shown
    }
    found = chances(study, front)
    if found is not None:
        share, draws = found
        extra[f"P(on front), {draws:,} draws"] = {uid: f"{share[uid]:.2f}" for uid in front.uids}
    return trials_table(study, rows.head(MOST_ON_FRONT), extra)


NAME = "pareto_frontier"
CAPTION = "the first Pareto front, what is within noise of it, and what it beats"
OFFSETS = ((6, 6), (6, -13), (-13, 6), (-13, -13), (0, 10), (0, -18))
"""Where a label may stand, in points from its dot."""
MANY = 300
"""Points from which they are drawn small."""
MOST_REFERENCES = 5
"""References that are drawn."""
MOST_TICKS = 8
"""Values of k up to which they are the ticks of its axis, and of that of l0."""
LABEL_SIZE = 14
"""Points that a label keeps to itself."""


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """Draw the first front: fvu over l0, or over dead_features where l0 does not vary."""
    found = fronts(study)
    if not found or not found[0].uids or found[0].objectives[0].name != "fvu":
        return []
    front = found[0]
    across = front.objectives[1]
    points = study.configurations.dropna(subset=[across.name, "fvu"])
    figure, (axes,) = style.new(1, 1, (7.5, 5))
    _others(study, front, points, axes)
    best = points.loc[front.uids]
    positive = bool((points["fvu"] > 0).all())
    if len(front.objectives) == 2:  # else it is no staircase in these two
        axes.plot(
            best[across.name], best["fvu"], color=style.BLACK, linewidth=1, drawstyle="steps-post"
        )
        _band(study, best, across.name, axes, positive=positive)
    axes.scatter(
        best[across.name],
        best["fvu"],
        s=48,
        color=style.shades(study, best["n_latents"]),
        edgecolor=style.BLACK,
        zorder=3,
    )
    name = f"on the front ({len(best)} of {front.n})"
    axes.scatter([], [], s=48, color=style.GREY, edgecolor=style.BLACK, label=name)
    style.metric_axis(axes, METRICS["fvu"], positive)
    axes.set_xlabel(style.named(across))
    if across.scale == "log":
        axes.set_xscale("log")
        style.plain_ticks(axes, "x")
    elif across.unit == "share":
        axes.xaxis.set_major_formatter(lambda value, _: style.percent(value))
    given = sorted(study.trials["k"].dropna().unique())
    if across.name in ("l0", "k") and 1 < len(given) <= MOST_TICKS:
        axes.set_xticks(given, [f"{k:g}" for k in given])
    axes.margins(y=0.1)
    _unranked(study, across.name, axes)
    _draw_references(study, across.name, axes)
    axes.set_title(f"Pareto front: {front.name}; numbers as in the report", loc="left")
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=[*handles, *style.width_legend(study)], loc="outside lower left", ncols=3)
    _labels(axes, front, study)
    return [style.save(figure, folder, NAME, CAPTION)]


def _others(study: Study, front: Front, points: pd.DataFrame, axes: Axes) -> None:
    """What is not on the front: clearly beaten in pale, within noise of it open; hue says width."""
    stands = standings(study, front)
    known = noise.floor(study, METRICS["fvu"]) is not None
    name = "clearly beaten" if known else "beaten (noise unknown)"
    across = front.objectives[1].name
    size = 28 if len(points) < MANY else 8
    for standing, label, is_open in (
        ("clearly beaten", name, False),
        ("within noise", "within noise of the front", True),
    ):
        rows = points.loc[stands.index[stands == standing]]
        if len(rows):
            shades, alpha = style.shades(study, rows["n_latents"]), 1.0 if is_open else 0.4
            face, key = ("white", "white") if is_open else (shades, style.GREY)
            x, y = rows[across], rows["fvu"]
            axes.scatter(x, y, s=size, facecolor=face, edgecolor=shades, alpha=alpha)
            label = f"{label} ({len(rows)})"
            axes.scatter([], [], s=28, facecolor=key, edgecolor=style.GREY, label=label)


def _band(study: Study, best: pd.DataFrame, across: str, axes: Axes, *, positive: bool) -> None:
    """Shade what lies above the front by less than the least detectable difference in fvu."""
    found = noise.floor(study, METRICS["fvu"])
    if found is None or not positive or len(best) < 2:
        return
    seeds = best["seeds"].to_numpy()
    upper = best["fvu"].to_numpy() * 10.0 ** found.between(seeds, seeds)
    axes.fill_between(
        best[across],
        best["fvu"],
        upper,
        step="post",
        color=style.GREY,
        alpha=0.25,
        linewidth=0,
        label="told apart beyond this band (fvu)",
    )


def _unranked(study: Study, across: str, axes: Axes) -> None:
    """Mark at the upper edge what has no fvu below 1, at its l0 or else at its k."""
    lost = study.trials[study.where("diverged") | study.worse_than_mean]
    x = lost[across].fillna(lost["k"]) if across == "l0" else lost[across]
    unplaced = int(x.isna().sum())
    x = x.dropna()
    if unplaced:
        name = f"not shown, {across} unknown: {unplaced} diverged or fvu >= 1"
        axes.scatter([], [], marker="x", color=style.GREY, label=name)
    if len(x):
        axes.scatter(
            x,
            np.full(len(x), 0.985),
            transform=axes.get_xaxis_transform(),
            marker="x",
            color=style.RED,
            label=f"at the edge: diverged or fvu >= 1 ({len(x)})",
            zorder=4,
        )


def _draw_references(study: Study, across: str, axes: Axes) -> None:
    """Mark what was trained elsewhere, each with its name in the legend."""
    for i, one in enumerate(placed(study, "fvu", across)[:MOST_REFERENCES]):
        axes.scatter(
            [one.value(across)],
            [one.value("fvu")],
            s=70,
            marker=style.MARKERS[1 + i % (len(style.MARKERS) - 1)],
            facecolor="white",
            edgecolor=style.RED,
            linewidth=1.4,
            label=f"reference {style.fitted(one.name)}",
            zorder=5,
        )


def placed(study: Study, *names: str) -> list[Reference]:
    """The references that have all of these metrics, to be shown over them."""
    return [
        one for one in study.references if all(math.isfinite(one.value(name)) for name in names)
    ]


def _labels(axes: Axes, front: Front, study: Study) -> None:
    """Number the front's points; a number without room is left out rather than overprinted."""
    axes.figure.canvas.draw()
    names = [front.objectives[1].name, "fvu"]
    points = study.configurations.loc[front.uids, names].to_numpy(dtype=float)
    to_points = 72 / axes.figure.dpi
    dots = axes.transData.transform(points) * to_points
    taken: list[np.ndarray] = []
    for i, (point, dot) in enumerate(zip(points, dots, strict=True)):
        for offset in OFFSETS:
            place = dot + np.array(offset) + 4
            others = np.array([*taken, *np.delete(dots, i, axis=0)])
            if not len(others) or np.abs(others - place).max(axis=1).min() > LABEL_SIZE / 2 + 2:
                axes.annotate(
                    str(i + 1),
                    (point[0], point[1]),
                    xytext=offset,
                    textcoords="offset points",
                    fontsize=9,
                )
                taken.append(place)
                break
