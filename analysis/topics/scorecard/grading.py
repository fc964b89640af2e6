"""Quality of trials, metric by metric, with a grade where the thresholds have one."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.findings.thresholds import Band, Thresholds
from analysis.study.table import Study
from sae_sweep.records import METRICS, Metric

SHOWN = ("explained_variance", "l0", "dead_features", "always_on", "diversity", "similarity")


class Grade(NamedTuple):
    """A value and its band."""

    metric: Metric
    value: float
    """NaN where the trial has none."""
    band: Band | None


def metrics(study: Study, thresholds: Thresholds) -> list[Metric]:
    """What the scorecard shows: its own metrics, then any others that are graded."""
    wanted = dict.fromkeys([*SHOWN, *thresholds.bands])
    derived = {"explained_variance"} if "fvu" in study.trials else set()
    known = {one.name for one in study.metrics} | derived
    return [METRICS[name] for name in wanted if name in known]


def values(study: Study, metric: Metric) -> Float[np.ndarray, " n"]:
    """A metric of all trials; explained_variance from fvu where it was not recorded."""
    if metric.name not in study.trials:
        return 1 - study.trials["fvu"].to_numpy(dtype=np.float64)
    return study.trials[metric.name].to_numpy(dtype=np.float64)


def grade(thresholds: Thresholds, metric: Metric, value: float) -> Grade:
    """Grade one value; a missing one has no band."""
    return Grade(metric, value, None if np.isnan(value) else thresholds.band(metric.name, value))


def of_trial(study: Study, thresholds: Thresholds, uid: str) -> list[Grade]:
    """Every metric of one trial."""
    (at,) = study.trials.index.get_indexer(pd.Index([uid]))
    return [
        grade(thresholds, metric, float(values(study, metric)[at]))
        for metric in metrics(study, thresholds)
    ]


def constant(study: Study, thresholds: Thresholds) -> list[Grade]:
    """Metrics that are the same in every ranked trial, of two or more: they tell none apart."""
    ranked = study.trials["ranked"].to_numpy()
    found = [(metric, values(study, metric)[ranked]) for metric in metrics(study, thresholds)]
    return [
        grade(thresholds, metric, float(each[0]))
        for metric, each in found
        if len(each) > 1 and np.ptp(each) == 0
    ]


def by_layer(study: Study) -> dict[int, list[str]]:
    """The ranked trials of each layer, ascending; empty unless there are two layers or more."""
    found: dict[int, list[str]] = {}
    for record, ranked in zip(study.records, study.trials["ranked"], strict=True):
        layer = record.config.get("activations", {}).get("layer")
        if ranked and layer is not None:
            found.setdefault(layer, []).append(record.uid)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def of_layer(study: Study, thresholds: Thresholds, uids: list[str]) -> list[Grade]:
    """Every metric's median over trials."""
    here = study.trials.index.isin(uids)
    return [
        grade(thresholds, metric, _median(values(study, metric)[here]))
        for metric in metrics(study, thresholds)
    ]


def _median(each: np.ndarray) -> float:
    finite = each[~np.isnan(each)]
    return float(np.median(finite)) if len(finite) else float("nan")
