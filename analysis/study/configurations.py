"""Trials that differ in their seed alone, as one row."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.study import scales
from sae_sweep.records import Metric

KEPT = ("label", "configuration", "k", "n_latents")
L0_DIGITS = 4
"""To which the l0 of configurations is compared: as many as are printed."""


def averaged(ranked: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """One row per configuration: `seeds`, and every metric's mean on its scale, in its unit.

    The index is the uid of a configuration's first trial. Seeds in which a metric is missing are
    left out of its mean; trials of one seed count as one seed. l0 is rounded to four digits.
    """
    groups = ranked.groupby("configuration", sort=False)
    first = ranked[~ranked["configuration"].duplicated()]
    numbers = first["configuration"].to_numpy()
    columns = {name: first[name] for name in KEPT}
    columns["seeds"] = groups["seed"].nunique().loc[numbers].set_axis(first.index)
    for metric in metrics:
        means = _means(ranked[["configuration", metric.name]], metric)
        columns[metric.name] = means.loc[numbers].set_axis(first.index)
    if "l0" in columns:
        # tokens with fewer than k positive latents leave trials of one k a hair apart, by chance
        columns["l0"] = columns["l0"].map(lambda l0: float(f"{l0:.{L0_DIGITS}g}"))
    return pd.DataFrame(columns, index=first.index)


def _means(values: pd.DataFrame, metric: Metric) -> "pd.Series[float]":
    """Means by configuration; equal values stay as they are, to the last digit."""
    groups = values.groupby("configuration")[metric.name]
    lowest, mean = groups.min(), groups.mean()
    if metric.scale == "log":
        # a geometric mean with a zero in it is zero
        logs = pd.Series(scales.onto(metric, values[metric.name].to_numpy()), index=values.index)
        mean = (10.0 ** logs.groupby(values["configuration"]).mean()).mask(lowest == 0, 0.0)
    return mean.where(lowest < groups.max(), lowest)


def on_scale(configurations: pd.DataFrame, metric: Metric) -> np.ndarray:
    """A metric of every configuration on its scale; where a logarithm meets 0, below all others."""
    values = configurations[metric.name].to_numpy(dtype=np.float64)
    return (
        np.where(values == 0, -np.inf, scales.onto(metric, values))
        if metric.scale == "log"
        else values
    )
