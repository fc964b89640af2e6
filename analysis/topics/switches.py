"""What switching a setting on changes, between trials that are otherwise equal."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.page import wording
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, counted, escaped, table
from analysis.statistics.multiplicity import CLAIMED
from analysis.statistics.resampling import Interval
from analysis.study import scales
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import METRICS, Metric

EXACT_UP_TO = 50
"""Blocks above which the signed-rank statistic is taken as normal."""


class Contrast(NamedTuple):
    """One metric with a setting off and on.

    A pair is a trial with it on and the one with it off whose other settings and seeds are equal.
    A block holds the pairs that differ in the seeds or in how far it is on: its mean change is one
    observation.
    """

    hyperparameter: Hyperparameter
    metric: Metric
    pairs: int
    blocks: int
    improved: int
    """Blocks in which on is better, and in which there is no difference."""
    equal: int
    median: float
    """Of the blocks' changes, on minus off, on the metric's scale; NaN without pairs."""
    interval: Interval | None
    """95 % of the change by Hodges and Lehmann: the centre that Wilcoxon's test does not refuse;
    None below six blocks, where no 95 % interval exists."""
    p: float
    """Wilcoxon's signed-rank test; NaN without a difference."""


def contrasts(study: Study) -> list[Contrast]:
    """One a switch and main metric; empty where the sweep switched nothing on and off."""
    return [
        _contrast(study, metric, one, off)
        for one, off in switched(study.hyperparameters)
        for metric in effect_tests.outcomes(study)
    ]


def switched(
    hyperparameters: list[Hyperparameter],
) -> list[tuple[Hyperparameter, Bool[np.ndarray, " n"]]]:
    """Hyperparameters with an off level (0, none, false) among others, and where each is off.

    One that is off wherever and only where another is (aux_target, off with aux_coeff) is that
    other's detail.
    """
    found: list[tuple[Hyperparameter, Bool[np.ndarray, " n"]]] = []
    for one in hyperparameters:
        off = np.array([_is_off(value) for value in one.given], dtype=bool)
        known = any(np.array_equal(off, other) for _, other in found)
        if off.any() and not off.all() and not known and _blocks(hyperparameters, one, off):
            found.append((one, off))
    return found


def _is_off(value: object) -> bool:
    return value is None or (isinstance(value, bool | int | float) and not value)


def _blocks(
    hyperparameters: list[Hyperparameter], switch: Hyperparameter, off: Bool[np.ndarray, " n"]
) -> list[Hashable]:
    """Each trial's other settings; empty where no two trials are equal but for the switch.

    A setting that is inactive in all trials with the switch off is a detail of the switch.
    """
    rest = [
        one
        for one in hyperparameters
        if one is not switch and any(one.given[i] is not None for i in np.flatnonzero(off))
    ]
    points = list(zip(*(map(str, one.given) for one in rest), strict=True)) or [()] * len(off)
    without = {points[i] for i in np.flatnonzero(off)}
    paired = any(points[i] in without for i in np.flatnonzero(~off))
    return [*points] if paired else []


def _contrast(
    study: Study, metric: Metric, switch: Hyperparameter, off: Bool[np.ndarray, " n"]
) -> Contrast:
    scaled = study.scaled[metric.name].to_numpy()
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(scaled)
    blocks, seeds = _blocks(study.hyperparameters, switch, off), study.seeds
    partner = {(blocks[i], seeds[i]): scaled[i] for i in np.flatnonzero(counted & off)}
    changes: dict[Hashable, list[float]] = {}
    for i in np.flatnonzero(counted & ~off):
        if (blocks[i], seeds[i]) in partner:
            changes.setdefault(blocks[i], []).append(scaled[i] - partner[blocks[i], seeds[i]])
    means = np.array([np.mean(one) for one in changes.values()])
    return Contrast(
        switch,
        metric,
        pairs=sum(map(len, changes.values())),
        blocks=len(means),
        improved=int((means > 0 if metric.direction == "up" else means < 0).sum()),
        equal=int((means == 0).sum()),
        median=float(np.median(means)) if len(means) else np.nan,
        interval=hodges_lehmann(means),
        p=signed_rank_p(means),
    )


def hodges_lehmann(changes: Float[np.ndarray, " n"]) -> Interval | None:
    """95 % interval of the centre: the signed-rank test turned round, over the Walsh averages.

    Hollander and Wolfe, Nonparametric Statistical Methods, section 3.3.
    """
    n = len(changes)
    i, j = np.triu_indices(n)
    walsh = np.sort((changes[i] + changes[j]) / 2)
    left_out = _left_out(n)
    return (float(walsh[left_out - 1]), float(walsh[-left_out])) if left_out else None


def _left_out(n: int) -> int:
    """The rank, from either end, of the Walsh average that bounds the interval; 0: there is none.

    The largest c with P(W+ <= c - 1) <= .025, W+ the sum of the ranks of positive changes.
    """
    if n > EXACT_UP_TO:
        mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
        return int(mean - stats.norm.ppf(0.975) * np.sqrt(variance)) + 1
    return int((np.cumsum(_chances(np.arange(1, n + 1))) <= 0.025).sum())


def signed_rank_p(changes: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of Wilcoxon's test: exact, ties included; zeros are left out; NaN of nothing."""
    changed = changes[changes != 0]
    if not len(changed):
        return np.nan
    if len(changed) > EXACT_UP_TO:
        return float(stats.wilcoxon(changed, method="approx").pvalue)
    # twice the ranks are whole numbers, also the shared ones
    ranks = np.rint(2 * stats.rankdata(np.abs(changed))).astype(np.int64)
    chances, above = _chances(ranks), ranks[changed > 0].sum()
    return float(min(2 * min(chances[: above + 1].sum(), chances[above:].sum()), 1.0))


def _chances(ranks: Int[np.ndarray, " n"]) -> Float[np.ndarray, " sums"]:
    """The chance of every sum of ranks, each in or out with chance 1/2."""
    chances = np.ones(1)
    for rank in ranks:
        either = np.zeros(rank + 1)
        either[[0, rank]] = 0.5
        chances = np.convolve(chances, either)
    return chances


@dataclass(frozen=True)
class Switched:
    """A switch's change that matched pairs tell apart from none."""

    hyperparameter: str
    metric: str
    median: float
    """On minus off, on the metric's scale."""
    interval: tuple[float, float] | None
    blocks: int
    p: float

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        better = (self.median > 0) == (metric.direction == "up")
        side = "better" if better else "worse"
        return (
            f"**{escaped(self.hyperparameter)} on:** {side} {self.metric} by "
            f"{scales.change(metric, self.median)}"
            f"{wording.change_interval(metric, self.interval)} in the median of "
            f"{counted(self.blocks, 'matched block')} (Wilcoxon p {wording.equals(self.p)})."
        )


@dataclass(frozen=True)
class NotSwitched:
    """A switch whose change is not told apart from none, or not claimed."""

    hyperparameter: str
    metric: str
    median: float
    interval: tuple[float, float] | None
    blocks: int

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        return (
            f"**{escaped(self.hyperparameter)} on:** no change of {self.metric} is claimed "
            f"(median {scales.change(metric, self.median)}"
            f"{wording.change_interval(metric, self.interval)}, "
            f"n = {counted(self.blocks, 'matched block')})."
        )


def switches(context: ReportContext) -> list[Block]:
    """On against off: a row a switch and metric, and a sentence on each."""
    study = context.study
    if study.ranked.empty:
        return []
    found = contrasts(study)
    if not found:
        return []
    note = (
        "A pair is a ranked trial with the setting on and the one with it off whose every other "
        "setting, seeds included, is the same; pairs that differ in the seed or in how far it is on"
        " make one block. Changes are on minus off, medians over the blocks; in brackets the 95 % "
        "interval by Hodges and Lehmann (none below six blocks). `improved` counts the blocks in "
        "which on is better. A change is claimed where the effect is claimed above and Wilcoxon's "
        "p is below 0.05."
    )
    header = ["setting", "metric", "pairs", "blocks", "change", "improved", "equal", "p"]
    rows = table(header, [_row(one) for one in found], left=2)
    return ["## On against off", note, *_claims(study, found), rows]


def _row(one: Contrast) -> list[str]:
    change = MISSING
    if one.blocks:
        change = scales.change(one.metric, one.median) + wording.change_interval(
            one.metric, one.interval
        )
    return [
        escaped(one.hyperparameter.name),
        one.metric.name,
        f"{one.pairs:,}",
        f"{one.blocks:,}",
        change,
        f"{one.improved:,} of {one.blocks:,}",
        f"{one.equal:,} of {one.blocks:,}",
        wording.probability(one.p),
    ]


def _claims(study: Study, found: list[Contrast]) -> Iterator[Claim]:
    estimates = effect_tests.estimate(study)
    for one in found:
        name, metric = one.hyperparameter.name, one.metric.name
        is_claimed = estimates.get(one.hyperparameter, one.metric).is_claimed
        if is_claimed and one.p < CLAIMED and one.median != 0:
            yield Switched(name, metric, one.median, one.interval, one.blocks, one.p)
        elif one.interval is not None:
            yield NotSwitched(name, metric, one.median, one.interval, one.blocks)
