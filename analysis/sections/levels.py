"""Every level of every hyperparameter, and which of them may be called the best."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis import scales, verdicts, wording
from analysis.blocks import Block, Claim
from analysis.hyperparameters import INACTIVE, Hyperparameter
from analysis.levels import Isolated, Level, diverged_interval, isolated, levels
from analysis.markdown import MISSING, code, escaped, listed, number, table
from analysis.resampling import FEWEST
from analysis.sections.pictures import picture
from analysis.study import Study
from analysis.verdicts import Effect
from sae_sweep.records import Metric

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
class AtEdge:
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
            f"{escaped(self.level)}, is the {edge} tried, and {best} used it: widen the range."
        )


def level_tables(study: Study) -> list[Block]:
    """A table a hyperparameter: every level for every main metric; then what stands out."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    means = listed(
        [f"{scales.MEAN_NAMES[one.scale]} of {one.name}" for one in verdicts.outcomes(study)]
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
    parts += _isolation(study)
    return parts


def _claims(study: Study) -> Iterator[Claim]:
    judged = verdicts.judge(study)
    for metric in verdicts.outcomes(study):
        found = judged.of(metric)
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
            yield AtEdge(name, metric.name, best.level, highest, there, len(top))


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
        for metric in verdicts.outcomes(study)
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


def _isolation(study: Study) -> list[str]:
    """The best of every level, folded away."""
    rows = [
        [escaped(one.name) if i == j == 0 else "", metric.name if j == 0 else "", *_reached(level)]
        for one in study.hyperparameters
        for i, metric in enumerate(verdicts.outcomes(study))
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
        for metric in verdicts.outcomes(study)
        for line in picture(study, f"isolation_{metric.name}", f"best {metric.name} of each level")
    ]
    opened = "<details><summary>The best that each level reached</summary>"
    return [opened, note, table(header, rows, left=3), *drawn, "</details>"]


def _reached(one: Isolated) -> list[str]:
    return [escaped(one.name), f"{one.n:,}", *map(number, (one.best, one.top, one.at_equal_n))]
