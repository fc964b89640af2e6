"""Metrics beside fvu: whether they order configurations as fvu does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.findings import noise
from analysis.findings.fronts import fronts
from analysis.findings.ranking import picks
from analysis.page.markdown import code, counted, number, table
from analysis.study.table import Study
from sae_sweep.records import METRICS, Metric

EQUAL_L0 = 1.1
"""Configurations whose l0 differs by less than this factor are compared at equal sparsity."""
FEWEST = 4
"""Least configurations for a rank correlation."""
MOST_ROWS = 25


@dataclass(frozen=True)
class SameOrder:
    """Rank agreement of fvu with a metric of the model."""

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
class Agreement:
    """Configurations with equal l0 of which a lower fvu always goes with no worse a value."""

    metric: str
    pairs: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{self.metric} agrees with fvu** in {counted(self.pairs, 'pair')} of "
            "configurations with l0 equal to a tenth, all that there are."
        )


@dataclass(frozen=True)
class Disagreement:
    """Of configurations with equal l0, the widest case of lower fvu and a worse model."""

    metric: str
    pairs: int
    """Pairs of configurations with equal l0."""
    other_order: int
    """Those in which the lower fvu goes with the worse value."""
    apart: int | None
    """Those of them whose fvu differ by more than the noise; None where it is unknown."""
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
            f"{counted(self.pairs, 'pair')} of configurations with l0 equal to a tenth"
            f"{self._beyond_noise}; widest: "
            f"{code(self.lower)} has fvu {number(self.fvu[0])} and {self.metric} "
            f"{number(self.values[0])}, {code(self.higher)} {number(self.fvu[1])} and "
            f"{number(self.values[1])}."
        )

    @property
    def _beyond_noise(self) -> str:
        if self.apart is None:
            return ""
        return f", in {self.apart:,} of them with fvu that differ by more than the noise"


def measured(study: Study, names: Sequence[str]) -> list[Metric]:
    """The metrics among these that trials of the sweep have, in order."""
    known = {one.name for one in study.metrics}
    return [METRICS[name] for name in names if name in known]


def measured_rows(study: Study, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Configurations, or trials where there are none, that have the first of some metrics."""
    if not metrics or study.ranked.empty:
        return study.ranked.iloc[:0]
    rows = study.ranked if study.configurations.empty else study.configurations
    return rows.dropna(subset=[metrics[0].name])


def uses(study: Study) -> dict[str, str]:
    """What each recommended configuration is picked for, by uid."""
    found: dict[str, list[str]] = {}
    for pick in picks(study):
        found.setdefault(pick.uid, []).append(pick.title.lower())
    return {uid: ", ".join(titles) for uid, titles in found.items()}


def shown(study: Study, rows: pd.DataFrame) -> list[str]:
    """The recommended ones, then the first front; of several tasks all, by fvu."""
    wanted = [*uses(study), *(uid for one in fronts(study)[:1] for uid in one.uids)]
    wanted = wanted or list(map(str, rows.sort_values(["fvu", "label"], kind="stable").index))
    return [uid for uid in dict.fromkeys(wanted) if uid in rows.index][:MOST_ROWS]


def beside(study: Study, metrics: list[Metric], rows: pd.DataFrame) -> str:
    """A table of what is `shown`: metrics beside fvu and l0, and what each trial is picked for."""
    known = [name for name in ("fvu", "l0") if name in rows]
    names, picked = [*known, *(one.name for one in metrics)], uses(study)
    lines = [
        [
            code(study.member(uid).trial.label),
            code(uid),
            picked.get(uid, ""),
            *(number(float(rows[name][uid])) for name in names),
        ]
        for uid in shown(study, rows)
    ]
    return table(["trial", "uid", "picked for", *names], lines, left=3)


def orders(
    study: Study, metrics: list[Metric], rows: pd.DataFrame
) -> Iterator[SameOrder | Agreement | Disagreement]:
    """Rank agreement of metrics with fvu, and their disagreements at equal l0."""
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
        yield from _at_equal_l0(study, metric, here, worse)


def _at_equal_l0(
    study: Study, metric: Metric, rows: pd.DataFrame, worse: "pd.Series[float]"
) -> Iterator[Agreement | Disagreement]:
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
        if pairs:
            yield Agreement(metric.name, len(pairs))
        return
    floor = noise.floor(study, METRICS["fvu"])
    if floor is None:
        apart = None
    else:
        gap = floor.apart(rows, rows)
        level = np.log10(np.maximum(fvu, np.finfo(float).tiny))
        apart = sum(bool(level[j] - level[i] > gap[i, j]) for i, j in turned)
    i, j = max(turned, key=lambda pair: (bad[pair[0]] - bad[pair[1]], -pair[0], -pair[1]))
    labels, values = rows["label"].to_numpy(), rows[metric.name].to_numpy(dtype=float)
    yield Disagreement(
        metric.name,
        len(pairs),
        len(turned),
        apart,
        str(labels[i]),
        str(labels[j]),
        (float(fvu[i]), float(fvu[j])),
        (float(values[i]), float(values[j])),
    )
