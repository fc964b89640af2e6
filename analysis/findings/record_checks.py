"""Checks of the records: contradictions, duplicates, gaps and outliers, which are never dropped."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import Metric

OUTLIER = 3.5
"""Robust z from which a value is called an outlier (Iglewicz and Hoaglin 1993)."""
SKEWED, SPREAD = 2.0, 100.0
"""Skewness, and maximum over median, from which a metric that is declared linear is doubtful."""
ROUNDING = 1e-6
"""Relative error that sums over many tokens may have."""


class Outliers(NamedTuple):
    """Ranked trials far from the others in one metric."""

    metric: Metric
    n: int
    """Ranked trials with a value."""
    z: "pd.Series[float] | None"
    """Robust z of the outliers by uid, farthest first; None where over half the values are equal,
    so that the median absolute deviation is 0."""


class Violation(NamedTuple):
    """A rule that every valid record obeys."""

    rule: str
    uids: list[str]
    """The trials that break it."""


class Skew(NamedTuple):
    """A metric of linear scale whose mean a few trials decide."""

    metric: Metric
    n: int
    skewness: float
    max_over_median: float
    """NaN where the median is 0."""


class Gap(NamedTuple):
    """A metric that ranked trials lack."""

    metric: Metric
    missing: int
    n: int


class MissingReports(NamedTuple):
    """Rows that the curves of finished trials lack between others."""

    missing: int
    reported: int
    """Rows that they have."""
    uids: list[str]
    """The trials with such a gap."""


def outliers(study: Study) -> list[Outliers]:
    """By robust z on the metric's scale, one entry per main metric with three values or more."""
    found = []
    for metric in study.main_metrics:
        values = study.scaled.loc[study.trials["ranked"], metric.name].dropna()
        if len(values) < 3:
            continue
        centred = values - values.median()
        deviation = float(centred.abs().median())
        if deviation == 0:
            found.append(Outliers(metric, len(values), None))
            continue
        z = 0.6745 * centred / deviation
        far = z[z.abs() > OUTLIER]
        order = far.abs().sort_values(ascending=False, kind="stable").index
        found.append(Outliers(metric, len(values), far.loc[order]))
    return found


def violations(study: Study) -> list[Violation]:
    """Check done trials against what holds by definition, and the levels against the whole."""
    done = study.trials[study.where("done")]
    slack = 1 + ROUNDING
    rules = {}
    if {"l0", "dead_features"} <= set(done):
        # one token's worth: l0 is clipped there, dead or not
        alive = done["n_latents"] * (1 - done["dead_features"])
        rules["l0 <= alive latents"] = done["l0"] > np.maximum(alive, 1.0) * slack
    if "l0" in done:
        rules["l0 <= k"] = done["l0"] > done["k"] * slack
    if {"fvu", "explained_variance"} <= set(done):
        off = (1 - done["fvu"] - done["explained_variance"]).abs()
        rules["explained_variance = 1 - fvu"] = off > ROUNDING * np.maximum(done["fvu"].abs(), 1)
    for name in ("dead_features", "rare_features", "l0_fraction"):
        if name in done:
            rules[f"0 <= {name} <= 1"] = (done[name] < 0) | (done[name] > slack)
    found = [
        Violation(rule, [str(uid) for uid in done.index[broken]]) for rule, broken in rules.items()
    ]
    found += [_levels(study, one) for one in study.hyperparameters]
    return [one for one in found if one.uids]


def checked(study: Study) -> int:
    """Done trials that `violations` looks at."""
    return int(study.where("done").sum())


def _levels(study: Study, one: Hyperparameter) -> Violation:
    """The trials that stand at no level of a hyperparameter, or at several."""
    times = sum(one.at(level).astype(int) for level in one.order)
    rule = f"every trial stands at one level of {one.name}"
    return Violation(rule, [str(uid) for uid in study.trials.index[times != 1]])


def duplicates(study: Study) -> list[list[str]]:
    """Ranked trials of different configurations whose every metric is equal: groups of uids."""
    names = [one.name for one in study.metrics]
    rows = study.ranked[[*names, "configuration"]]
    if rows.empty:
        return []
    groups = rows.groupby(names, dropna=False, sort=False)["configuration"]
    repeated = groups.transform("nunique") > 1
    keys = groups.ngroup()[repeated]
    return [[str(uid) for uid in keys.index[keys == key]] for key in keys.unique()]


def skews(study: Study) -> list[Skew]:
    """Metrics of linear scale that are skewed or dominated by their largest value."""
    found = []
    for metric in study.metrics:
        values = study.ranked[metric.name].dropna().to_numpy()
        if metric.scale != "linear" or len(values) < 3 or np.ptp(values) == 0:
            continue
        skewness = float(stats.skew(values))
        middle = float(np.median(values))
        ratio = float(values.max()) / middle if middle > 0 else float("nan")
        if skewness > SKEWED or ratio > SPREAD:
            found.append(Skew(metric, len(values), skewness, ratio))
    return found


def gaps(study: Study) -> list[Gap]:
    """Metrics that some ranked trials lack, or have only as NaN or infinity."""
    n = len(study.ranked)
    missing = {one.name: int(study.ranked[one.name].isna().sum()) for one in study.metrics}
    return [Gap(one, missing[one.name], n) for one in study.metrics if missing[one.name]]


def missing_reports(study: Study) -> MissingReports:
    """Count reports that finished trials have made and the store has lost, as after a lost WAL.

    A gap is a multiple of the interval before it, and no later one is longer: trials that were
    resumed with a longer `train.report_every` have none.
    """
    done = [str(uid) for uid in study.trials.index[study.where("done")]]
    missing, reported, uids = 0, 0, []
    for uid, (steps, _) in study.history(done, "fvu").items():
        reported += len(steps)
        between = np.diff(steps, prepend=0)
        if len(between) < 3:
            continue
        every = np.maximum(np.append(between[1], between[:-1]), 1)
        after = np.append(between[1:], 0)
        gap = (between > every) & (between % every == 0) & (after <= every)
        if gap.any():
            missing += int((between[gap] // every[gap] - 1).sum())
            uids.append(uid)
    return MissingReports(missing, reported, uids)
