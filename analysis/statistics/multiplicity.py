"""Multiple testing: p-values adjusted for the rate of false claims."""

import numpy as np
from jaxtyping import Float
from scipy import stats

CLAIMED = 0.05
"""q below which an effect is claimed."""


def q_values(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Benjamini and Yekutieli's adjustment (2001), valid however the tests depend on each other.

    NaN stays NaN and is no test. Where nothing has an effect, the chance that any q falls below
    .05 is at most 5 %.
    """
    known = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known], method="by")
    return adjusted


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Holm's adjustment of p-values that are tested together; NaN stays NaN and is no test.

    As statsmodels' multipletests, which runs the garbage collector at every call.
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    raised = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted
