"""Configurations that stand first by one metric or by several, and how sure their places are."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.findings.ranking import balanced, balanced_name, lowest, rank_ranges, tied_with_first
from analysis.page import style
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, counted, escaped, number, table
from analysis.study.settings import text
from analysis.study.table import Study
from analysis.topics.noise import short
from sae_sweep.records import METRICS, Metric

TOP = 10
MOST_SETTINGS = 6
"""Hyperparameters beside a trial's name; the others are in runs.csv."""


@dataclass(frozen=True)
class First:
    """What stands first by one metric, and with how many it is tied."""

    metric: str
    n: int
    label: str
    value: float
    seeds: int
    equal: int
    """Configurations with the first value, the first included."""
    tied: int | None
    """Configurations that noise does not tell from the first, which is left out; None where noise
    is unknown."""

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""
        others = (self.equal - 1) if self.tied is None else self.tied
        alone = self.tied == 0 and self.n > 1
        name = f"{'Best' if alone else 'Lowest'} {self.metric}{'' if alone else ' observed'}"
        mean = f", mean of {self.seeds} seeds" if self.seeds > 1 else ""
        what = f"{name}: {code(self.label)}, {number(self.value)}{mean} (n={self.n:,})"
        if alone:
            return f"{what}, below every other by more than the noise."
        if self.tied is None:
            equal = f", equal in {counted(others, 'other configuration')}" if others else ""
            return f"{what}{equal}; noise unknown."
        if self.n == 1:
            return f"{what}; there is no other."
        return f"{what}, tied with {counted(others, 'other configuration')} within the noise."


def top_tables(context: ReportContext) -> list[Block]:
    """The first ten by fvu, by dead_features, and by all main metrics."""
    study = context.study
    if study.configurations.empty:
        return []
    known = noise.floor(study, METRICS["fvu"]) is not None
    parts: list[Block] = ["## Top trials", _note(known=known)]
    for name in ("fvu", "dead_features"):
        rows = lowest(study, name)
        if len(rows):
            parts += [f"### Lowest {name}", first(study, METRICS[name])]
            parts.append(_by_metric(study, rows.head(TOP), METRICS[name]))
    if len(rows := balanced(study)):
        shown = rows.head(TOP)
        names = [str(uid) for uid in shown.index]
        ranges = rank_ranges(study, study.main_metrics, names)
        extra = {"mean rank": {uid: number(shown["score"][uid]) for uid in names}}
        if ranges:
            extra["rank range"] = _spans(ranges)
        parts += [f"### Balanced: lowest {balanced_name(study)}", trials_table(study, shown, extra)]
    parts += context.picture("rank_stability", "rank ranges of the first by fvu")
    return parts


def _note(*, known: bool) -> str:
    shape = (
        "A row is a configuration, by its first trial; its metrics are means over its ranked seeds "
        "on the metric's scale. "
    )
    if not known:
        return shape + "Without repeated seeds there are no rank ranges and no ties by noise."
    return shape + (
        "`rank range`: where 95 % of 1,000 draws put it when the noise between seeds (normal, "
        "pooled sd, seed 0) is added to every configuration anew. `tied with #1`: closer to the "
        "first than the least detectable difference for their seeds."
    )


def first(study: Study, metric: Metric) -> First:
    """What stands first by a metric, for which some configuration has a value."""
    rows = lowest(study, metric.name)
    tied = tied_with_first(study, metric, rows)
    uid = str(rows.index[0])
    return First(
        metric.name,
        n=len(rows),
        label=study.member(uid).trial.label,
        value=float(rows[metric.name].iloc[0]),
        seeds=int(rows["seeds"].iloc[0]),
        equal=int((rows[metric.name] == rows[metric.name].iloc[0]).sum()),
        tied=None if tied is None else int(tied.sum()) - 1,
    )


def _by_metric(study: Study, rows: pd.DataFrame, metric: Metric) -> str:
    names = [str(uid) for uid in rows.index]
    extra: dict[str, dict[str, str]] = {}
    if (rows["seeds"] > 1).any():
        extra["seeds"] = {uid: str(rows["seeds"][uid]) for uid in names}
        extra["sd over seeds"] = _deviations(study, rows, metric)
    ranges = rank_ranges(study, [metric], names)
    tied = tied_with_first(study, metric, rows)
    if ranges and tied is not None:
        extra["rank range"] = _spans(ranges)
        extra["tied with #1"] = {uid: "yes" if tied[uid] else "no" for uid in names}
    return trials_table(study, rows, extra)


def _deviations(study: Study, rows: pd.DataFrame, metric: Metric) -> dict[str, str]:
    """Each configuration's own sd on the metric's scale; a dash for a single seed."""
    ranked = study.trials["ranked"]
    groups = study.scaled.loc[ranked, metric.name].groupby(study.trials["configuration"][ranked])
    sd = groups.std()
    known = {str(uid): float(sd[one]) for uid, one in rows["configuration"].items()}
    return {uid: short(metric, one) if one == one else MISSING for uid, one in known.items()}


def _spans(ranges: dict[str, tuple[int, int]]) -> dict[str, str]:
    return {uid: f"{low} to {high}" for uid, (low, high) in ranges.items()}


def trials_table(
    study: Study, rows: pd.DataFrame, extra: dict[str, dict[str, str]], numbered: int = 1
) -> str:
    """Configurations as a numbered table: name, settings, main metrics, further columns."""
    shown = study.hyperparameters[:MOST_SETTINGS]
    place = {uid: i for i, uid in enumerate(study.trials.index)}
    header = ["#", "trial", "uid", *(escaped(one.name) for one in shown)]
    header += [*(one.name for one in study.main_metrics), *extra]
    lines = []
    for i, uid in enumerate(map(str, rows.index), start=numbered):
        settings = [escaped(text(one.given[place[uid]])) for one in shown]
        values = [number(float(rows[one.name][uid])) for one in study.main_metrics]
        more = [column[uid] for column in extra.values()]
        label = code(study.member(uid).trial.label)
        lines.append([str(i), label, code(uid), *settings, *values, *more])
    return table(header, lines, left=3)


NAME = "rank_stability"
CAPTION = "the first by fvu, with the ranks that noise leaves them"


def draw(study: Study, folder: Path) -> list[style.Drawn]:
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
    return [style.save(figure, folder, NAME, CAPTION)]
