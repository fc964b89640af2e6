"""The scale on which a metric is averaged and compared, as the metric registry declares it."""

import numpy as np
from jaxtyping import Float

from sae_sweep.records import Metric

MEAN_NAMES = {"log": "geometric mean", "linear": "mean"}
"""What the mean of each scale is called, once it is back in the metric's unit."""


def onto(metric: Metric, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Bring values onto the metric's scale: log10, NaN where there is none, or as they are."""
    match metric.scale:
        case "log":
            return np.log10(values, out=np.full_like(values, np.nan), where=values > 0)
        case "linear":
            return values


def back(metric: Metric, value: float) -> float:
    """Bring a value of the metric's scale back into its unit."""
    match metric.scale:
        case "log":
            return 10.0**value
        case "linear":
            return value


def difference(metric: Metric, distance: float) -> str:
    """Say a distance on the metric's scale in words: a factor, points of a share, or a number."""
    match metric.scale:
        case "log":
            return f"a factor of {10.0**distance:.4g}"
        case "linear":
            return f"{100 * distance:.3g} pp" if metric.unit == "share" else f"{distance:.4g}"


def change(metric: Metric, distance: float, digits: int = 3) -> str:
    """Say a change on the metric's scale: a factor, percentage points of a share, or a number."""
    if metric.scale == "log":
        return f"\N{MULTIPLICATION SIGN}{10.0**distance:.{digits}g}"
    if metric.unit == "share":
        return f"{100 * distance:+.{digits}g} pp"
    return f"{distance:+.{digits}g}"
