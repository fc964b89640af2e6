"""One metric of every configuration and its trials, the sample of the statistics."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from analysis.statistics.replicates import Replicates, replicates
from analysis.study.table import Study, once
from sae_sweep.records import Metric


class Sample(NamedTuple):
    """One metric of every configuration that has a ranked trial with a value."""

    metric: Metric
    rows: Int[np.ndarray, " n"]
    """A trial of each configuration, by its place in the study."""
    seen: Replicates
    """The trials, on the metric's scale."""

    @property
    def y(self) -> Float[np.ndarray, " n"]:
        """The mean of each configuration, at the average of the seeds that several share."""
        return self.seen.means

    @property
    def trials(self) -> int:
        """How many trials these means are of."""
        return len(self.seen.y)


@once
def sample(study: Study, metric: Metric) -> Sample:
    """Take the ranked trials of each configuration together: seeds are no evidence on settings.

    Trials that are equal in their settings and their seeds are one observation.
    """
    y = study.scaled[metric.name].to_numpy()
    counted = np.flatnonzero(study.trials["ranked"].to_numpy() & ~np.isnan(y))
    configuration = study.trials["configuration"].to_numpy()[counted]
    seed = study.trials["seed"].to_numpy()[counted]
    if not len(counted):
        return Sample(metric, counted, replicates(y[:0], counted, counted))
    runs = np.stack([configuration, seed], axis=1)
    _, first, place = np.unique(runs, axis=0, return_index=True, return_inverse=True)
    values = np.bincount(place, weights=y[counted]) / np.bincount(place)
    _, one, cluster = np.unique(configuration[first], return_index=True, return_inverse=True)
    return Sample(metric, counted[first][one], replicates(values, cluster, seed[first]))


def varies(values: Float[np.ndarray, " n"]) -> bool:
    """Whether values differ by more than rounding."""
    return bool(len(values) > 1 and np.ptp(values) > 1e-12 * np.abs(values).max())
