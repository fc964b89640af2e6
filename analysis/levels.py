"""How a metric lies at each level of a hyperparameter."""

from typing import NamedTuple

from analysis import scales
from analysis.hyperparameters import Hyperparameter
from analysis.study import Study
from sae_sweep.records import Metric


class Level(NamedTuple):
    """The trials at one level."""

    name: str
    trials: int
    """All of them, whatever became of them."""
    diverged: int
    n: int
    """Ranked trials with a value; the figures below are over these, NaN where there is none."""
    median: float
    mean: float
    """On the metric's scale and brought back: geometric for log."""
    smallest: float
    largest: float


def levels(study: Study, hyperparameter: Hyperparameter, metric: Metric) -> list[Level]:
    """One entry a level, in the hyperparameter's order."""
    return [_level(study, hyperparameter, metric, name) for name in hyperparameter.order]


def _level(study: Study, hyperparameter: Hyperparameter, metric: Metric, name: str) -> Level:
    here = hyperparameter.at(name)
    counted = here & study.trials["ranked"].to_numpy()
    values = study.trials.loc[counted, metric.name].dropna()
    return Level(
        name=name,
        trials=int(here.sum()),
        diverged=int((here & study.where("diverged")).sum()),
        n=len(values),
        median=float(values.median()),
        mean=scales.back(metric, float(study.scaled.loc[counted, metric.name].mean(skipna=False))),
        smallest=float(values.min()),
        largest=float(values.max()),
    )


def best_and_worst(found: list[Level], metric: Metric) -> tuple[Level, Level] | None:
    """The levels with the best and the worst mean; None where fewer than two can be compared."""
    comparable = sorted((one for one in found if one.mean == one.mean), key=lambda one: one.mean)
    if len(comparable) < 2 or comparable[0].mean == comparable[-1].mean:
        return None
    if metric.direction == "up":
        comparable.reverse()
    return comparable[0], comparable[-1]
