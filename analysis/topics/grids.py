"""Sparsity by width as tables: medians with their counts, and what each step gains."""

import itertools
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.context import ReportContext
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.study.table import Study
from sae_sweep.records import L0_SETTINGS, l0_setting

MOST_LEVELS = 8
"""Distinct k or widths above which a sweep is no grid."""


class Grid(NamedTuple):
    """A metric of the ranked TopK trials over k and n_latents."""

    metric: str
    ks: list[float]
    widths: list[float]
    medians: Float[np.ndarray, "ks widths"]
    """NaN where no trial is."""
    counts: Int[np.ndarray, "ks widths"]


class Gain(NamedTuple):
    """One step of a grid, everything else at its median."""

    metric: str
    along: Literal["n_latents", "k"]
    at: float
    """The level of the other setting."""
    start: float
    end: float
    n_start: int
    n_end: int
    before: float
    after: float

    @property
    def points(self) -> float:
        """Change of a share, in percentage points."""
        return 100 * (self.after - self.before)

    @property
    def percent(self) -> float:
        """Change relative to the value before; NaN where that is 0."""
        return 100 * (self.after / self.before - 1) if self.before else float("nan")

    @property
    def of_unexplained(self) -> float:
        """Change as percentage of what the value before leaves to 1; NaN where that is nothing."""
        left = 1 - self.before
        return 100 * (self.after - self.before) / left if left else float("nan")


def grid(study: Study, metric: str) -> Grid | None:
    """Medians over everything else; None unless TopK trials vary both k and n_latents."""
    table = _topk(study)
    ks, widths = (sorted(table[name].dropna().unique()) for name in ("k", "n_latents"))
    if not (1 < len(ks) <= MOST_LEVELS and 1 < len(widths) <= MOST_LEVELS):
        return None
    values = 1 - table["fvu"] if metric == "explained_variance" else table.get(metric)
    if values is None or not values.notna().any():
        return None
    medians = np.full((len(ks), len(widths)), np.nan)
    counts = np.zeros(medians.shape, dtype=int)
    for i, k in enumerate(ks):
        for j, m in enumerate(widths):
            cell = values[(table["k"] == k) & (table["n_latents"] == m)].dropna()
            counts[i, j] = len(cell)
            medians[i, j] = cell.median() if len(cell) else np.nan
    return Grid(metric, [float(k) for k in ks], [float(m) for m in widths], medians, counts)


def _topk(study: Study) -> pd.DataFrame:
    is_topk = [record.config.get("sae", {}).get("kind") == "topk" for record in study.records]
    return study.trials[study.trials["ranked"] & np.array(is_topk, dtype=bool)]


def gains(found: Grid, along: Literal["n_latents", "k"]) -> list[list[Gain]]:
    """One list per level of the other setting: every step between neighbours, then from end to end.

    Cells without a trial are passed over.
    """
    medians, counts = found.medians, found.counts
    levels, others = found.widths, found.ks
    if along == "k":
        medians, counts, levels, others = medians.T, counts.T, others, levels
    rows = []
    for values, n, other in zip(medians, counts, others, strict=True):
        known = [i for i in range(len(levels)) if not np.isnan(values[i])]
        steps = list(itertools.pairwise(known))
        steps += [(known[0], known[-1])] if len(known) > 2 else []
        rows.append(
            [
                Gain(
                    found.metric,
                    along,
                    other,
                    levels[i],
                    levels[j],
                    int(n[i]),
                    int(n[j]),
                    float(values[i]),
                    float(values[j]),
                )
                for i, j in steps
            ]
        )
    return rows


class Use(NamedTuple):
    """How the latents of one kind, sparsity and width are used: medians over ranked trials."""

    kind: str
    sparsity: float
    """k, or l1_alpha."""
    n_latents: int
    n: int
    medians: dict[str, float]
    """By column: alive (latents), alive_share, alive_per_active, and metrics; NaN where missing."""


USED = ("dead_features", "rare_features", "always_on", "mean_activation", "max_activation")


def use(study: Study) -> list[Use]:
    """Every combination of kind, sparsity and width, ascending."""
    saes = [record.config.get("sae", {}) for record in study.records]
    moves = [l0_setting(sae) for sae in saes]
    given = [None if one is None else one.value for one in moves]
    table = study.trials[["ranked", "n_latents"]].assign(
        kind=[str(sae.get("kind")) for sae in saes],
        sparsity=[np.nan if one is None else float(one) for one in given],
        **{name: study.trials.get(name, np.nan) for name in (*USED, "l0")},
    )
    table = table[table["ranked"]].drop(columns="ranked")
    table["alive_share"] = 1 - table["dead_features"]
    table["alive"] = table["n_latents"] * table["alive_share"]
    table["alive_per_active"] = table["alive"] / table["l0"].where(table["l0"] > 0)
    keys = ["kind", "sparsity", "n_latents"]
    groups = table.groupby(keys, sort=True)
    rows = groups.median().assign(n=groups.size()).reset_index().to_dict("records")
    return [
        Use(
            str(row["kind"]),
            float(row["sparsity"]),
            int(row["n_latents"]),
            int(row["n"]),
            {str(name): float(row[name]) for name in row if name not in (*keys, "n")},
        )
        for row in rows
    ]


def impossible(study: Study) -> list[str]:
    """Trials whose l0 exceeds the latents that are alive, which no measurement can find."""
    needed = ("l0", "dead_features", "n_latents")
    if any(name not in study.trials for name in needed):
        return []
    alive = study.trials["n_latents"] * (1 - study.trials["dead_features"])
    over = study.trials["l0"] > alive * (1 + 1e-9) + 1e-9
    return [str(uid) for uid in study.trials.index[over]]


METRICS = ("explained_variance", "dead_features")
MOST_ROWS = 60
MOST_CLAIMS = 12
COLUMNS = {
    "alive": "alive",
    "alive_share": "alive share",
    "alive_per_active": "alive per active",
    "dead_features": "dead_features",
    "rare_features": "rare_features",
    "always_on": "always_on",
    "mean_activation": "mean_activation",
    "max_activation": "max_activation",
}
Along = Literal["n_latents", "k"]


@dataclass(frozen=True)
class GainFromEndToEnd:
    """What the whole range of one setting changes, at one level of the other."""

    metric: str
    along: str
    start: float
    end: float
    other: str
    at: float
    before: float
    after: float
    n_before: int
    n_after: int
    points: float
    percent: float | None
    of_unexplained: float | None
    """None for other metrics than explained_variance."""

    @property
    def words(self) -> str:
        """The change in points, relative, and as a share of what was unexplained."""
        more = [f"{_signed(self.percent)} % relative"] if self.percent is not None else []
        if self.of_unexplained is not None:
            more.append(f"{_signed(self.of_unexplained)} % of what was unexplained")
        return (
            f"{self.metric} at {self.other} {number(self.at)}, from {self.along} "
            f"{number(self.start)} to {number(self.end)}: {number(self.before)} to "
            f"{number(self.after)}, {listed([f'{_signed(self.points)} pp', *more])} "
            f"(n={self.n_before:,} and {self.n_after:,})"
        )


@dataclass(frozen=True)
class Steps:
    """Whether a metric moves one way at every step of one setting."""

    metric: str
    along: str
    rises: int
    falls: int
    level: int
    """Steps without a change."""

    @property
    def words(self) -> str:
        """The counts."""
        total = self.rises + self.falls + self.level
        return (
            f"of {counted(total, 'step')} between neighbouring {self.along}, {self.metric} rises "
            f"in {self.rises:,}, falls in {self.falls:,} and stays in {self.level:,}"
        )


@dataclass(frozen=True)
class AliveLatents:
    """The alive latents at one sparsity over the widths."""

    kind_of_sae: str
    setting: str
    sparsity: float
    lowest: float
    lowest_width: int
    highest: float
    highest_width: int
    widths: int

    @property
    def words(self) -> str:
        """The two ends."""
        return (
            f"{escaped(self.kind_of_sae)} at {self.setting} {number(self.sparsity)}: "
            f"{number(self.lowest)} latents are alive at n_latents {self.lowest_width:,} and "
            f"{number(self.highest)} at n_latents {self.highest_width:,}, the fewest and the most "
            f"of {counted(self.widths, 'width')}"
        )


@dataclass(frozen=True)
class MoreActiveThanAlive:
    """Trials whose figures contradict each other."""

    trials: tuple[str, ...]
    """Labels."""

    @property
    def words(self) -> str:
        """Who they are."""
        return (
            f"l0 exceeds the number of alive latents in {counted(len(self.trials), 'trial')}, which"
            f" cannot be: {listed([code(one) for one in self.trials[:5]])}"
        )


def _signed(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:+,.0f}"
    return f"{value:+.3g}" if round(value, 10) else "0"


def grid_tables(context: ReportContext) -> list[Block]:
    """Every metric over k and n_latents, and what each step of either changes."""
    study = context.study
    found = [one for name in METRICS if (one := grid(study, name)) is not None]
    if not found:
        return []
    note = (
        "Ranked TopK trials: the median over all other settings and seeds, in brackets how many "
        "trials it is of. Changes are between these medians: pp are percentage points of a share, "
        "% is relative to the value before, and of explained_variance also to what was unexplained "
        "before. Where a cell is one trial, a change is a difference of single trials."
    )
    parts: list[Block] = ["## k by width", note]
    for one in found:
        parts += [f"### {one.metric} by k and n_latents\n\n{_values(one)}", *_gains(one)]
    return parts


def _values(found: Grid) -> str:
    header = ["k", *(f"n_latents {number(m)}" for m in found.widths)]
    rows = [
        [number(k), *map(_cell, found.medians[i], found.counts[i])] for i, k in enumerate(found.ks)
    ]
    return table(header, rows)


def _cell(median: float, n: int) -> str:
    return f"{number(median)} ({n:,})" if n else MISSING


def _gains(found: Grid) -> list[Block]:
    parts: list[Block] = []
    along: Along
    for along, other in (("n_latents", "k"), ("k", "n_latents")):
        rows = [row for row in gains(found, along) if row]
        if not rows:
            continue
        lines = [
            [number(one.at), f"{number(one.start)} to {number(one.end)}", *_changes(one)]
            for row in rows
            for one in row
        ]
        header = [other, along, "pp", "%"]
        header += ["% of unexplained"] if found.metric == "explained_variance" else []
        parts += [_end_to_end(row[-1], other) for row in rows]
        parts.append(_steps(rows))
        summary = f"{found.metric}: every step along {along}"
        parts.append(f"<details><summary>{summary}</summary>")
        parts += [table(header, lines, left=2), "</details>"]
    return parts


def _changes(one: Gain) -> list[str]:
    changes = [one.points, one.percent]
    changes += [one.of_unexplained] if one.metric == "explained_variance" else []
    return [MISSING if np.isnan(change) else _signed(change) for change in changes]


def _end_to_end(one: Gain, other: str) -> Claim:
    explained = one.metric == "explained_variance"
    return GainFromEndToEnd(
        one.metric,
        one.along,
        one.start,
        one.end,
        other,
        one.at,
        one.before,
        one.after,
        one.n_start,
        one.n_end,
        one.points,
        None if np.isnan(one.percent) else one.percent,
        one.of_unexplained if explained and not np.isnan(one.of_unexplained) else None,
    )


def _steps(rows: list[list[Gain]]) -> Claim:
    steps = [one for row in rows for one in (row[:-1] if len(row) > 1 else row)]
    signs = [np.sign(round(one.after - one.before, 12)) for one in steps]
    first = steps[0]
    return Steps(first.metric, first.along, signs.count(1), signs.count(-1), signs.count(0))


def utilisation(context: ReportContext) -> list[Block]:
    """How many latents work, and how strongly, for every sparsity and width."""
    study = context.study
    rows = use(study)
    if not rows or all(np.isnan(row.medians["alive"]) for row in rows):
        return []
    shown = [name for name in COLUMNS if any(not np.isnan(row.medians[name]) for row in rows)]
    header = ["kind", "k or l1_alpha", "n_latents", "n", *(COLUMNS[name] for name in shown)]
    lines = [
        [
            escaped(row.kind),
            number(row.sparsity),
            f"{row.n_latents:,}",
            f"{row.n:,}",
            *(number(row.medians[name]) for name in shown),
        ]
        for row in rows[:MOST_ROWS]
    ]
    hidden = len(rows) - len(lines)
    more = [f"{counted(hidden, 'more combination')}: see `data/runs.csv`."] if hidden else []
    note = (
        "Medians over the `n` ranked trials of each sparsity and width. Alive are n_latents x (1 - "
        "dead_features); alive per active divides them by l0. Activations are of the normalised "
        "input, over non-zero entries."
    )
    lost = impossible(study)
    labels = tuple(study.member(uid).trial.label for uid in lost)
    claims = [*([MoreActiveThanAlive(labels)] if lost else []), *_alive(rows)]
    title = "## Use of the latents and size of activations"
    return [title, note, table(header, lines, left=1), *more, *claims]


def _alive(rows: list[Use]) -> list[Claim]:
    """One claim per sparsity with two widths or more, for at most a grid's levels."""
    by_sparsity = [
        (kind, sparsity, [row for row in each if not np.isnan(row.medians["alive"])])
        for (kind, sparsity), each in groupby(rows, key=lambda row: (row.kind, row.sparsity))
    ]
    found = []
    for kind, sparsity, each in by_sparsity:
        if len(each) > 1:
            low = min(each, key=lambda row: row.medians["alive"])
            high = max(each, key=lambda row: row.medians["alive"])
            found.append(
                AliveLatents(
                    kind,
                    L0_SETTINGS.get(kind, ("k",))[0],
                    sparsity,
                    low.medians["alive"],
                    low.n_latents,
                    high.medians["alive"],
                    high.n_latents,
                    len(each),
                )
            )
    return list(found[:MOST_CLAIMS])
