"""Groups of tokens (language, domain): their metrics and specific latents."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from analysis.context import ReportContext
from analysis.findings.ranking import leaders, picks
from analysis.page import style
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.study.table import Study
from analysis.topics.groups import specific
from analysis.topics.groups.specific import (
    EVEN,
    LEAST_FIRED,
    LEAST_TOKENS,
    LEVEL,
    PREFIX,
    SPECIFIC,
    Latents,
)

MOST_TRIALS = 30
MOST_COLUMNS = 12
MOST_LATENTS = 5
"""Latents that are listed of each group."""
METRICS_BY_GROUP = ("fvu", "l0", "dead_features")


@dataclass(frozen=True)
class SpreadOverGroups:
    """How far a metric of one trial lies apart between groups."""

    uid: str
    label: str
    metric: str
    lowest_group: str
    lowest: float
    highest_group: str
    highest: float
    groups: int

    @property
    def words(self) -> str:
        """The two ends."""
        return (
            f"{code(self.label)}: over {self.groups:,} groups, {self.metric} is lowest in "
            f"{escaped(self.lowest_group)} ({number(self.lowest)}) and highest in "
            f"{escaped(self.highest_group)} ({number(self.highest)})"
        )


@dataclass(frozen=True)
class SpecificLatents:
    """How many latents of one trial belong to one group, to all, and by chance."""

    uid: str
    label: str
    alive: int
    everywhere: int
    even: int
    specific: int
    by_chance: float
    groups: int

    @property
    def words(self) -> str:
        """The counts."""
        return (
            f"{code(self.label)}: of {counted(self.alive, 'latent')} alive in any of the "
            f"{self.groups:,} groups, {self.everywhere:,} fire in all of them, {self.even:,} with "
            f"frequencies within a factor of {EVEN:g}; {self.specific:,} are specific to one group,"
            f" where {number(self.by_chance, 2)} are expected by chance"
        )


@dataclass(frozen=True)
class NothingByGroup:
    """Why a sweep over activations with groups has no figures by group."""

    column: str
    trials: int

    @property
    def words(self) -> str:
        """What is missing, and the way to it."""
        return (
            f"the activations have groups (`activations.group={escaped(self.column)}`), but the "
            f"folders of the {counted(self.trials, 'recommended trial')} hold no figures of two "
            "groups or more: run them again with `rerun=all`"
        )


def by_group(context: ReportContext) -> list[Block]:
    """The front's trials by group of tokens, and the latents that are specific to one."""
    study = context.study
    shown = leaders(study)[:MOST_TRIALS]
    found = {uid: table for uid in shown if (table := specific.figures(study, uid)) is not None}
    if not found:
        columns = [one.config.get("activations", {}).get("group") for one in study.records]
        column = next((one for one in columns if one), None)
        return ["## Groups", NothingByGroup(column, len(shown))] if column and shown else []
    recommended = [uid for uid in dict.fromkeys(pick.uid for pick in picks(study)) if uid in found]
    note = (
        "The recommended trials, then the first front's, within each group of validation tokens. A "
        "group's fvu is measured against the mean of all validation tokens, not its own: a group "
        "that lies far from it has a large denominator, so its fvu may be lower though it is "
        "reconstructed no better. dead_features counts the latents that are silent in the group: "
        "more of them the fewer tokens it has."
    )
    spreads: list[Block] = [
        claim
        for uid in recommended
        for name in ("fvu", "l0")
        if (claim := _spread(study, uid, name, found[uid])) is not None
    ]
    tables = [
        f"### {name} by group\n\n{_by_group(study, found, name)}" for name in METRICS_BY_GROUP
    ]
    return ["## Groups", note, *spreads, *tables, *_latents(context, found, recommended)]


def _spread(study: Study, uid: str, metric: str, found: pd.DataFrame) -> Claim | None:
    values = found[metric].dropna()
    if len(values) < 2:
        return None
    low, high = str(values.idxmin()), str(values.idxmax())
    lowest, highest = float(values.min()), float(values.max())
    if number(lowest) == number(highest):
        return None
    return SpreadOverGroups(
        uid, _label(study, uid), metric, low, lowest, high, highest, len(values)
    )


def _by_group(study: Study, found: dict[str, pd.DataFrame], metric: str) -> str:
    first = next(iter(found.values()))
    names = list(first.index[:MOST_COLUMNS])
    header = ["trial", *(f"{escaped(name)} ({first.loc[name, 'tokens']:,})" for name in names)]
    rows = [
        [code(_label(study, uid)), *map(number, each[metric].reindex(names))]
        for uid, each in found.items()
    ]
    hidden = len(first) - len(names)
    more = (
        f" {counted(hidden, 'smaller group')} in each trial's `specific.parquet`." if hidden else ""
    )
    return f"In brackets: validation tokens.{more}\n\n{table(header, rows)}"


def _latents(
    context: ReportContext, found: dict[str, pd.DataFrame], recommended: list[str]
) -> list[Block]:
    """What the latents of the recommended trials are specific to."""
    study = context.study
    compared: dict[str, Latents] = {}
    for uid in recommended:
        latents = specific.latents(study, uid)
        result = None if latents is None else specific.compare(latents, found[uid])
        if result is not None:
            compared[uid] = result
    if not compared:
        return []
    note = (
        f"Specific to a group is a latent that fires there on {LEAST_FIRED} tokens or more, at "
        f"least {SPECIFIC:g} times as often as in any other group, and more often than tokens dealt"
        f" to groups at random would (binomial test; Benjamini-Yekutieli over all alive latents and"
        f" groups, q < {LEVEL:g}; tokens of one document are not independent, so q is too small "
        f"where documents are long). Groups under {LEAST_TOKENS} tokens are left out. By chance: "
        "how many would pass if every latent's tokens were dealt out so."
    )
    claims = [_counts(uid, _label(study, uid), each) for uid, each in compared.items()]
    names = next(iter(compared.values())).names[:MOST_COLUMNS]
    header = ["trial", "alive", "in every group", "even", "by chance", *map(escaped, names)]
    rows = [
        [
            code(_label(study, uid)),
            *(f"{n:,}" for n in (each.alive, each.everywhere, each.even)),
            number(each.by_chance, 2),
            *(f"{(each.specific['group'] == name).sum():,}" for name in names),
        ]
        for uid, each in compared.items()
    ]
    uid, first = next(iter(compared.items()))
    parts: list[Block] = ["### Specific latents", note, *claims, table(header, rows)]
    if first.left_out:
        parts.append(f"Left out: {listed([escaped(name) for name in first.left_out])}.")
    if len(first.specific):
        parts.append(f"#### {code(_label(study, uid))}\n\n{_listed(first)}")
        parts += context.picture("groups", "Frequency of the specific latents by group")
    return parts


def _counts(uid: str, label: str, found: Latents) -> Claim:
    counts = found.alive, found.everywhere, found.even, len(found.specific)
    return SpecificLatents(uid, label, *counts, found.by_chance, len(found.names))


def _listed(found: Latents) -> str:
    """The most frequent specific latents of each group."""
    rows = [
        [
            escaped(one["group"]),
            str(one["id"]),
            number(one["frequency"]),
            number(one["other"]),
            f"{one['frequency'] / one['other']:.3g}" if one["other"] else MISSING,
            f"{one['fired']:,}",
            number(one["q"], 2),
        ]
        for one in found.specific.groupby("group", sort=False).head(MOST_LATENTS).to_dict("records")
    ]
    header = ["group", "latent", "frequency", "highest elsewhere", "times", "tokens", "q"]
    head = f"The {MOST_LATENTS} most frequent of each group; a dash: it fires nowhere else."
    return f"{head}\n\n{table(header, rows, left=2)}"


def _label(study: Study, uid: str) -> str:
    return study.member(uid).trial.label


NAME = "groups"
CAPTION = "the latents that belong to one group of tokens, over all groups"
MOST_ROWS = 60


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One row per specific latent of the first recommended trial with any, one column per group."""
    for uid in dict.fromkeys(pick.uid for pick in picks(study)):
        latents, figures = specific.latents(study, uid), specific.figures(study, uid)
        if latents is None or figures is None:
            continue
        found = specific.compare(latents, figures)
        if found is not None and len(found.specific):
            return [_draw(study.member(uid).trial.label, found, latents.set_index("id"), folder)]
    return []


def _draw(label: str, found: specific.Latents, latents: pd.DataFrame, folder: Path) -> style.Drawn:
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
    bar.set_label("of a group's tokens (white: none)")
    style.plain_ticks(bar.ax, "y", share=True)
    return style.save(figure, folder, NAME, CAPTION)
