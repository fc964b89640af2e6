"""Scores of several metrics at once, and how far the first ones depend on which is taken."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import configurations
from analysis.ranking import balanced
from analysis.study import Study

TOP = 10
QUANTILES = (0.05, 0.95)
"""Between which utopia distance spans 0 to 1; what lies outside is clipped."""


class Sensitivity(NamedTuple):
    """How many of the first by mean rank are also among the first by another score."""

    top: int
    """How many are compared; fewer than ten where there are fewer configurations."""
    n: int
    with_utopia: int
    with_minmax: int
    heaviest: str
    """The metric that makes most of the differences between the first by raw min-max."""
    heaviest_share: float
    """Of the terms' variances there; NaN where these do not differ."""


def utopia(study: Study, rows: pd.DataFrame) -> "pd.Series[float]":
    """Root mean square distance from the ideal, each main metric as 0 to 1 on its scale."""
    squares = []
    for one in study.main_metrics:
        values = configurations.on_scale(rows, one)
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, QUANTILES) if len(finite) else (0.0, 0.0)
        span = high - low
        squares.append(np.clip((values - low) / span, 0, 1) ** 2 if span else np.zeros(len(rows)))
    distance: np.ndarray = np.sqrt(np.mean(squares, axis=0))
    return pd.Series(distance.tolist(), index=rows.index, dtype=float)


def minmax_terms(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Each main metric as it stands, between its least and largest value; their sum is the score.

    An outlier in one metric presses all other values of it together: shown to be compared with,
    not to choose by.
    """
    values = rows[[one.name for one in study.main_metrics]]
    spans = values.max() - values.min()
    return (values - values.min()) / spans.where(spans > 0, 1.0)


def sensitivity(study: Study) -> Sensitivity | None:
    """Compare the three scores; None where the first of one must be those of another."""
    rows = balanced(study)
    top = min(TOP, len(rows) // 2)
    if not top or len(study.main_metrics) < 2:
        return None
    first = set(rows.index[:top])
    far = utopia(study, rows).sort_values(kind="stable").index[:top]
    terms = minmax_terms(study, rows)
    raw = terms.sum(axis=1).sort_values(kind="stable").index[:top]
    variances = terms.loc[raw].var(ddof=0)
    heaviest = str(variances.idxmax())
    total = float(variances.sum())
    share = float(variances[heaviest]) / total if total else float("nan")
    return Sensitivity(
        top, len(rows), len(first & set(far)), len(first & set(raw)), heaviest, share
    )
