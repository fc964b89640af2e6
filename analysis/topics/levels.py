"""Metrics by level of each hyperparameter."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from scipy import stats

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.effect_tests import Effect
from analysis.page import style, wording
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, escaped, listed, number, table
from analysis.statistics import resampling
from analysis.statistics.resampling import FEWEST, Interval
from analysis.study import scales
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import Metric

TOP = 3


class Level(NamedTuple):
    """The trials at one level."""

    name: str
    trials: int
    """All of them, whatever became of them."""
    diverged: int
    n: int
    """Ranked trials with a value; the figures below are over these, NaN where there is none."""
    median: float
    interval: Interval | None
    """95 % of the median, bootstrap over configurations; None below four."""
    quartiles: tuple[float, float]
    mean: float
    """On the metric's scale and brought back: geometric for log."""
    best: float
    best_uid: str
    """Empty where no trial has a value."""


class Isolated(NamedTuple):
    """The best that a level reached over all other settings, also at the other levels' number."""

    name: str
    n: int
    best: float
    top: float
    """Median of the three best, or of as many as there are."""
    at_equal_n: float
    """Expected best of as many trials as the rarest level has, drawn without replacement."""


def levels(study: Study, hyperparameter: Hyperparameter, metric: Metric) -> list[Level]:
    """One entry per level, in the hyperparameter's order."""
    return [_level(study, metric, name, hyperparameter.at(name)) for name in hyperparameter.order]


def _level(study: Study, metric: Metric, name: str, here: Bool[np.ndarray, " n"]) -> Level:
    values = study.trials[metric.name].to_numpy()
    counted = here & study.trials["ranked"].to_numpy() & ~np.isnan(values)
    inside = values[counted]
    known = len(inside) > 0
    low, median, high = np.quantile(inside, [0.25, 0.5, 0.75]) if known else [np.nan] * 3
    best = (inside.argmax() if metric.direction == "up" else inside.argmin()) if known else 0
    return Level(
        name=name,
        trials=int(here.sum()),
        diverged=int((here & study.where("diverged")).sum()),
        n=len(inside),
        median=float(median),
        interval=_median_interval(inside, study.trials["configuration"].to_numpy()[counted]),
        quartiles=(float(low), float(high)),
        mean=scales.back(metric, float(study.scaled[metric.name].to_numpy()[counted].mean()))
        if known
        else np.nan,
        best=float(inside[best]) if known else np.nan,
        best_uid=str(study.trials.index[counted][best]) if known else "",
    )


def _median_interval(values: Float[np.ndarray, " n"], configuration: np.ndarray) -> Interval | None:
    _, cluster = np.unique(configuration, return_inverse=True)
    n_clusters = int(cluster.max(initial=-1)) + 1
    if n_clusters < FEWEST:
        return None
    weights = resampling.bootstrap(n_clusters)[:, cluster]
    return resampling.interval(resampling.weighted_medians(values, weights))


def isolated(study: Study, hyperparameter: Hyperparameter, metric: Metric) -> list[Isolated]:
    """The levels that have a ranked trial, each by its best."""
    values = study.trials[metric.name].to_numpy()
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    sign = -1.0 if metric.direction == "up" else 1.0
    inside = {
        name: np.sort(sign * values[counted & hyperparameter.at(name)])
        for name in hyperparameter.order
    }
    reached = {name: one for name, one in inside.items() if len(one)}
    rarest = min(map(len, reached.values()), default=0)
    return [
        Isolated(
            name,
            len(one),
            sign * float(one[0]),
            sign * float(np.median(one[:TOP])),
            sign * expected_least(one, rarest),
        )
        for name, one in reached.items()
    ]


def expected_least(ascending: Float[np.ndarray, " n"], m: int) -> float:
    """Mean least of m values drawn without replacement: exact, by the chance of each to be it."""
    n = len(ascending)
    chances = stats.hypergeom.pmf(0, n, np.arange(n), m) * m / (n - np.arange(n))
    return float(ascending @ np.clip(chances, 0, 1))


def diverged_interval(level: Level) -> Interval:
    """95 % Wilson interval of the share that diverged."""
    found = stats.binomtest(level.diverged, level.trials).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


COLUMNS = 3
"""Panels in a row of a figure."""
TOP_SHARE = 0.05
"""Share of the ranked trials, at least one, that is looked for at a hyperparameter's edge."""


@dataclass(frozen=True)
class BestLevel:
    """A level that is told apart from all others."""

    hyperparameter: str
    metric: str
    level: str
    mean: float
    """Adjusted, in the metric's unit."""
    second: str
    second_mean: float
    p: float
    """Holm-adjusted over all pairs of levels, the largest of those with this level."""

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.hyperparameter)}:** best level for {self.metric}: "
            f"{escaped(self.level)} (adjusted mean {number(self.mean)}; next {escaped(self.second)}"
            f", {number(self.second_mean)}; Holm p {wording.equals(self.p)})."
        )


@dataclass(frozen=True)
class NoBestLevel:
    """Hyperparameters none of whose levels is told apart from all others."""

    metric: str
    hyperparameters: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        names = listed([escaped(one) for one in self.hyperparameters])
        return f"No clear best level for {self.metric}: {names}."


@dataclass(frozen=True)
class BestAtEdge:
    """A best level beyond which nothing was tried."""

    hyperparameter: str
    metric: str
    level: str
    highest: bool
    """Whether it is the highest tried, not the lowest."""
    there: int
    """How many of the best trials are at it."""
    top: int
    """The best trials: 5 %, and what equals the last of them."""

    @property
    def words(self) -> str:
        """The sentence."""
        edge = "highest" if self.highest else "lowest"
        best = "the best trial"
        if self.top > 1:
            best = f"{self.there:,} of the best {self.top:,} trials (5 % and their equals)"
        return (
            f"**{escaped(self.hyperparameter)}:** its best level for {self.metric}, "
            f"{escaped(self.level)}, is the {edge} tried, and {best} used it: what lies beyond is "
            "not known."
        )


def level_tables(context: ReportContext) -> list[Block]:
    """One table per hyperparameter with every level and main metric; then claims."""
    study = context.study
    if not study.hyperparameters or study.ranked.empty:
        return []
    means = listed(
        [f"{scales.MEAN_NAMES[one.scale]} of {one.name}" for one in effect_tests.outcomes(study)]
    )
    note = (
        "`diverged` counts among all trials at the level, in brackets its share's 95 % Wilson "
        "interval; the figures are over the `n` ranked ones. In brackets after the median: 95 % "
        f"bootstrap interval over configurations, from {FEWEST} of them. The mean is the {means}. "
        "A level is called best where the effect is claimed above and its adjusted mean is told "
        "apart from every other level's (t-tests, Holm over all pairs of levels, p < 0.05)."
    )
    parts: list[Block] = ["## Levels", note, *_claims(study)]
    shown: dict[tuple[int, ...], str] = {}
    for one in study.hyperparameters:
        earlier = shown.setdefault(_split(one), one.name)
        same = f"Splits the trials as {escaped(earlier)} does: the figures are those above."
        is_new = earlier == one.name
        parts += [f"### {escaped(one.name)}", _level_table(study, one) if is_new else same]
    parts += _isolation(context)
    return parts


def _claims(study: Study) -> Iterator[Claim]:
    estimates = effect_tests.estimate(study)
    for metric in effect_tests.outcomes(study):
        found = estimates.of(metric)
        unclear = [one.hyperparameter.name for one in found if one.best and not _has_best(one)]
        for one in found:
            yield from _best(study, one)
        if unclear:
            yield NoBestLevel(metric.name, tuple(unclear))


def _has_best(one: Effect) -> bool:
    return one.is_claimed and one.best is not None and one.best.is_apart


def _best(study: Study, one: Effect) -> Iterator[Claim]:
    best, name, metric = one.best, one.hyperparameter.name, one.metric
    if best is None or not _has_best(one):
        return
    means = [scales.back(metric, mean) for mean in (best.mean, best.second_mean)]
    yield BestLevel(name, metric.name, best.level, means[0], best.second, means[1], best.p)
    active = [level for level in one.hyperparameter.order if level != INACTIVE]
    is_edge = one.hyperparameter.kind != "categorical" and best.level in (active[0], active[-1])
    # nothing lies below 0
    if is_edge and len(active) > 1 and best.level != "0":
        top = _best_trials(study, metric)
        there = int(one.hyperparameter.at(best.level)[top].sum())
        if 2 * there > len(top):
            highest = best.level == active[-1]
            yield BestAtEdge(name, metric.name, best.level, highest, there, len(top))


def _best_trials(study: Study, metric: Metric) -> np.ndarray:
    """Places of the best 5 % of the ranked trials, and of those that equal the last of them."""
    values = study.trials[metric.name].to_numpy()
    counted = np.flatnonzero(study.trials["ranked"].to_numpy() & ~np.isnan(values))
    signed = -values[counted] if metric.direction == "up" else values[counted]
    n = max(int(TOP_SHARE * len(counted)), 1)
    return counted[signed <= np.sort(signed)[n - 1]]


def _split(one: Hyperparameter) -> tuple[int, ...]:
    """Which trials share a level, whatever it is called."""
    places: dict[str, int] = {}
    return tuple(places.setdefault(level, len(places)) for level in one.levels)


def _level_table(study: Study, hyperparameter: Hyperparameter) -> str:
    rows = [
        [metric.name if i == 0 else "", *_level_row(one)]
        for metric in effect_tests.outcomes(study)
        for i, one in enumerate(levels(study, hyperparameter, metric))
    ]
    name = escaped(hyperparameter.name)
    header = ["metric", name, "diverged", "n", "median", "IQR", "mean", "best", "best trial"]
    return table(header, rows, left=2)


def _level_row(one: Level) -> list[str]:
    diverged = f"{one.diverged:,} of {one.trials:,}"
    if one.diverged:
        low, high = diverged_interval(one)
        diverged += f" [{100 * low:.0f}, {100 * high:.0f} %]"
    bounds = ""
    if one.interval is not None:
        bounds = f" [{number(one.interval[0], 3)}, {number(one.interval[1], 3)}]"
    low, high = one.quartiles
    return [
        escaped(one.name),
        diverged,
        f"{one.n:,}",
        number(one.median) + bounds,
        f"{number(low, 3)} to {number(high, 3)}" if one.n else MISSING,
        number(one.mean),
        number(one.best),
        code(one.best_uid),
    ]


def _isolation(context: ReportContext) -> list[str]:
    """The best of every level, folded away."""
    study = context.study
    rows = [
        [escaped(one.name) if i == j == 0 else "", metric.name if j == 0 else "", *_reached(level)]
        for one in study.hyperparameters
        for i, metric in enumerate(effect_tests.outcomes(study))
        for j, level in enumerate(isolated(study, one, metric))
    ]
    note = (
        "The best trial of a level over all other settings. A level with more trials reaches "
        "further by chance alone: the last column is the expected best of as many trials as the "
        "hyperparameter's rarest level has."
    )
    header = [
        "hyperparameter",
        "metric",
        "level",
        "n",
        "best",
        "median of best three",
        "best at equal n",
    ]
    drawn = [
        line
        for metric in effect_tests.outcomes(study)
        for line in context.picture(f"isolation_{metric.name}", f"best {metric.name} of each level")
    ]
    opened = "<details><summary>The best that each level reached</summary>"
    return [opened, note, table(header, rows, left=3), *drawn, "</details>"]


def _reached(one: Isolated) -> list[str]:
    return [escaped(one.name), f"{one.n:,}", *map(number, (one.best, one.top, one.at_equal_n))]


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """The best trial of each level, one figure per metric; none if nothing varies or is ranked."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    return [_isolation_figure(study, metric, folder) for metric in effect_tests.outcomes(study)]


def _isolation_figure(study: Study, metric: Metric, folder: Path) -> style.Drawn:
    """The best trial of each level, and what as many trials as the rarest level has would reach."""
    shown = study.hyperparameters
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure, panels = style.new(rows, columns, (1 + 3.2 * columns, 0.5 + 2.6 * rows))
    for axes, one in zip(panels, shown, strict=False):
        _isolated(axes, study, one, metric)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"{metric.name}: best trial of each level (dot); expected best at equal n (bar)",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return style.save(figure, folder, f"isolation_{metric.name}", "the best trial of each level")


def _isolated(axes: Axes, study: Study, one: Hyperparameter, metric: Metric) -> None:
    found = isolated(study, one, metric)
    best = np.array([level.best for level in found])
    places = np.arange(len(found))
    axes.hlines(
        [level.at_equal_n for level in found],
        places - 0.25,
        places + 0.25,
        color=style.BLACK,
        linewidth=2,
    )
    axes.plot(places, best, "o", color=style.COLOURS[0])
    slanted = max((len(level.name) for level in found), default=0) * len(found) > 34
    between = ", " if slanted else "\n"
    names = [f"{level.name}{between}n={level.n}" for level in found]
    axes.set_xticks(
        places, names, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.margins(y=0.15)
    axes.set_xlabel(one.name)
    style.metric_axis(axes, metric, bool(len(best) and (best > 0).all()))
