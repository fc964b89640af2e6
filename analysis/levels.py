"""How a metric lies at each level of a hyperparameter."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from analysis import resampling, scales
from analysis.hyperparameters import Hyperparameter
from analysis.resampling import FEWEST, Interval
from analysis.study import Study
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
    """One entry a level, in the hyperparameter's order."""
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
