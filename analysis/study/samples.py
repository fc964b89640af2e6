"""One observation a configuration: what the statistics on hyperparameters rest on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from analysis.study.table import Study
from sae_sweep.records import Metric


class Sample(NamedTuple):
    """One metric of every configuration that has a ranked trial with a value."""

    metric: Metric
    rows: Int[np.ndarray, " n"]
    """A trial of each configuration, by its place in the study."""
    y: Float[np.ndarray, " n"]
    """The mean over the configuration's ranked seeds, on the metric's scale."""
    trials: int
    """How many trials these means are of."""


def sample(study: Study, metric: Metric) -> Sample:
    """Average the seeds of each configuration: they are no independent evidence on settings."""
    y = study.scaled[metric.name].to_numpy()
    counted = np.flatnonzero(study.trials["ranked"].to_numpy() & ~np.isnan(y))
    configuration = study.trials["configuration"].to_numpy()[counted]
    _, first, cluster = np.unique(configuration, return_index=True, return_inverse=True)
    means = np.bincount(cluster, weights=y[counted]) / np.bincount(cluster)
    return Sample(metric, counted[first], means, len(counted))


def varies(values: Float[np.ndarray, " n"]) -> bool:
    """Whether values differ by more than rounding."""
    return bool(len(values) > 1 and np.ptp(values) > 1e-12 * np.abs(values).max())
