"""How far apart two trials lie that differ in their seed alone."""

import math
from typing import NamedTuple

from scipy import stats

from analysis.study import Study
from sae_sweep.records import Metric


class Floor(NamedTuple):
    """The noise of one metric, pooled over configurations, on the metric's scale."""

    metric: Metric
    configurations: int
    """With at least two seeds."""
    degrees_of_freedom: int
    sd: float
    """Between seeds of one configuration."""
    detectable: float
    """Two single trials that lie closer are not told apart at the 5 % level."""


def floor(study: Study, metric: Metric) -> Floor | None:
    """The noise floor; None where no configuration has two seeds."""
    ranked = study.trials["ranked"]
    values = study.scaled.loc[ranked, metric.name]
    groups = values.groupby(study.trials.loc[ranked, "configuration"])
    counts = groups.count()
    repeated = counts > 1
    degrees = int((counts[repeated] - 1).sum())
    if degrees == 0:
        return None
    squares = (groups.var()[repeated] * (counts[repeated] - 1)).sum()
    sd = math.sqrt(squares / degrees)
    detectable = float(stats.t.ppf(0.975, degrees)) * sd * math.sqrt(2)
    return Floor(metric, int(repeated.sum()), degrees, sd, detectable)
