"""Statistics as text: intervals, q-values, changes."""

import math

from analysis.page.markdown import MISSING
from analysis.statistics.resampling import Interval
from analysis.study import scales
from sae_sweep.records import Metric

STRENGTHS = ((0.5, "strongly"), (0.3, "moderately"), (0.1, "weakly"), (0.0, "faintly"))
"""From which absolute rank correlation each word is used."""


def strength(rho: float) -> str:
    """The word for a rank correlation that is claimed."""
    return next(word for least, word in STRENGTHS if abs(rho) >= least)


def probability(p: float) -> str:
    """A p- or q-value."""
    if p != p:
        return MISSING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def equals(p: float) -> str:
    """A p- or q-value behind its letter."""
    return probability(p) if p < 1e-4 else f"= {probability(p)}"


def correlation(value: float) -> str:
    """A correlation."""
    return MISSING if value != value else f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def bracketed(interval: Interval | None) -> str:
    """A correlation's interval, with a space before it; nothing where there is none."""
    return "" if interval is None else f" [{correlation(interval[0])}, {correlation(interval[1])}]"


def change_interval(metric: Metric, interval: Interval | None) -> str:
    """The interval of a change on the metric's scale, with a space before it."""
    if interval is None:
        return ""
    return f" [{scales.change(metric, interval[0])}, {scales.change(metric, interval[1])}]"


def outcome(metric: Metric, sign: float) -> str:
    """Lower (better), in the metric's own direction."""
    word = "higher" if sign > 0 else "lower"
    if metric.direction == "none":
        return word
    return f"{word} ({'better' if (sign > 0) == (metric.direction == 'up') else 'worse'})"


SMALL = {"log": math.log10(1.25), "linear": 0.1}
"""Largest bound, on each scale, up to which a change that was not detected is called none."""


def percent(metric: Metric, distance: float) -> str:
    """A change on the metric's scale: percent, from three times on a factor, points of a share."""
    if metric.scale == "linear":
        return scales.change(metric, distance)
    if abs(distance) > math.log10(3):
        return scales.change(metric, distance)
    return f"{100 * (10.0**distance - 1):+.3g} %"


def percent_interval(metric: Metric, interval: Interval | None) -> str:
    """The interval of such a change, with a space before it."""
    if interval is None:
        return ""
    if metric.scale == "log" and max(map(abs, interval)) > math.log10(3):
        return change_interval(metric, interval)
    return f" [{percent(metric, interval[0])}, {percent(metric, interval[1])}]"


def within(metric: Metric, interval: Interval) -> str:
    """The bound of a change that was not detected: the farther end of its interval."""
    far = max(interval, key=abs)
    return f"\N{PLUS-MINUS SIGN}{percent(metric, abs(far)).lstrip('+')}"
