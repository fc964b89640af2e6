"""What switching the auxiliary loss on changes, between trials that are otherwise equal."""

from typing import NamedTuple

import numpy as np

from analysis import scales
from analysis.hyperparameters import Hyperparameter
from analysis.study import Study
from sae_sweep.records import Metric

COEFFICIENT = "sae.aux_coeff"
AUXILIARY = (COEFFICIENT, "sae.aux_target", "sae.aux_kind")


class Contrast(NamedTuple):
    """One metric with the auxiliary loss off and on."""

    metric: Metric
    pairs: int
    """Trials with it on that have a partner with it off and every other setting equal."""
    median_difference: float
    """On minus off over the pairs, in the metric's unit; NaN without pairs."""
    improved: int
    """Pairs in which "on" is better."""
    equal: int
    """Pairs in which it makes no difference at all."""
    mean_off: float
    """Over all ranked trials with it off, paired or not; on the metric's scale, brought back."""
    n_off: int
    mean_on: float
    n_on: int


def auxiliary(study: Study) -> list[Contrast]:
    """One contrast a main metric; empty where the sweep did not switch the loss on and off."""
    coefficients = [one for one in study.hyperparameters if one.key == COEFFICIENT]
    if not coefficients:
        return []
    off = np.array([value in (0, None) for value in coefficients[0].given])
    if off.all() or not off.any():
        return []
    rest = [one for one in study.hyperparameters if one.key not in AUXILIARY]
    return [_contrast(study, metric, off, rest) for metric in study.main_metrics]


def _contrast(
    study: Study, metric: Metric, off: np.ndarray, rest: list[Hyperparameter]
) -> Contrast:
    values = study.trials[metric.name].to_numpy()
    scaled = study.scaled[metric.name].to_numpy()
    counted = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    points = list(zip(*(map(str, one.given) for one in rest), study.seeds, strict=True))
    partner = {points[i]: values[i] for i in np.flatnonzero(counted & off)}
    changes = np.array(
        [
            values[i] - partner[points[i]]
            for i in np.flatnonzero(counted & ~off)
            if points[i] in partner
        ]
    )
    return Contrast(
        metric,
        pairs=len(changes),
        median_difference=float(np.median(changes)) if len(changes) else np.nan,
        improved=int((changes > 0 if metric.direction == "up" else changes < 0).sum()),
        equal=int((changes == 0).sum()),
        mean_off=_mean(metric, scaled[counted & off]),
        n_off=int((counted & off).sum()),
        mean_on=_mean(metric, scaled[counted & ~off]),
        n_on=int((counted & ~off).sum()),
    )


def _mean(metric: Metric, scaled: np.ndarray) -> float:
    return scales.back(metric, float(scaled.mean())) if len(scaled) else np.nan
