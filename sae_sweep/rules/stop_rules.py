"""Single stop rules: values in, a reason or None out."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FEWEST_REPORTS = 3
"""In a window from which a standard deviation is estimated."""


class Subject(NamedTuple):
    """Facts of a trial that the rules use."""

    uid: str
    steps: int
    """Length of its training."""
    report_every: int
    """Steps between its reports."""
    batch_size: int
    group: str = ""
    """Settings that make trials comparable, in words."""


class Moment(NamedTuple):
    """A step, as such or as a share of a trial's steps."""

    step: int | None
    share: float | None

    def of(self, subject: Subject) -> int:
        """The step in a trial's training."""
        if self.step is not None:
            return self.step
        assert self.share is not None
        return math.ceil(self.share * subject.steps)

    def reached(self, subject: Subject) -> int | None:
        """The step of the first report from here on that is not the last; None without one."""
        every = subject.report_every
        first = max(1, math.ceil(self.of(subject) / every)) * every
        return first if first < subject.steps else None


class Condition(NamedTuple):
    """A metric beyond a bound."""

    metric: str
    comparison: str
    """> or <."""
    bound: float

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether it holds; never for a metric that is missing or NaN."""
        value = values.get(self.metric, math.nan)
        return value > self.bound if self.comparison == ">" else value < self.bound

    def words(self, values: Mapping[str, float]) -> str:
        """The value and the bound that it violates."""
        return f"{self.metric} {values[self.metric]:.4g} {self.comparison} {self.bound:.4g}"


class Warning(NamedTuple):
    """Stops a trial that violates conditions at one moment of its training."""

    at: Moment
    every: bool
    """Whether all conditions must hold, not just one."""
    conditions: tuple[Condition, ...]

    def reason(self, values: Mapping[str, float]) -> str | None:
        """The reason to stop a trial with these values; None where it may continue."""
        found = [one.words(values) for one in self.conditions if one.holds(values)]
        if len(found) < (len(self.conditions) if self.every else 1):
            return None
        return "early warning: " + (" and " if self.every else ", ").join(found)


class Plateau(NamedTuple):
    """Ends a trial whose metric has settled."""

    metric: str
    after: Moment
    window_steps: int
    sd_below: float
    """In the metric's unit."""
    confidence: float
    """With which the standard deviation lies below its bound."""

    def reports(self, subject: Subject) -> int:
        """Reports in a window."""
        return math.ceil(self.window_steps / subject.report_every)

    def reason(self, subject: Subject, step: int, values: Sequence[float]) -> str | None:
        """The reason to stop a trial with these values in its window, or None."""
        n = self.reports(subject)
        if step < self.after.of(subject) or n < FEWEST_REPORTS or len(values) < n:
            return None
        sd = upper_sd(values, self.confidence)
        if not sd < self.sd_below:
            return None
        return (
            f"plateau: sd of {self.metric} over {self.window_steps:,} steps is below {sd:.4g} with "
            f"confidence {self.confidence:g}, bound {self.sd_below:.4g}"
        )


def upper_sd(
    values: Sequence[float] | Float[np.ndarray, "*windows n"], confidence: float
) -> Float[np.ndarray, "*windows"]:
    """Upper confidence bound of a standard deviation: s sqrt((n-1) / chi2_{1-confidence, n-1}).

    For independent normal values. A trend counts as deviation.
    """
    from scipy.special import gammaincinv  # 0.2 s, which whoever only reads settings can spare

    freedom = np.shape(values)[-1] - 1
    quantile = 2 * gammaincinv(freedom / 2, 1 - confidence)
    return np.std(values, axis=-1, ddof=1) * math.sqrt(freedom / quantile)


class Halving(NamedTuple):
    """Asynchronous successive halving inside groups (Li et al. 2020, arXiv:1810.05934).

    Rungs lie at `first`, `first * factor`, `first * factor^2`, ...; at each a trial goes on while
    it is among the best 1 / factor of those of its group that have reached the rung before it.
    """

    metric: str
    smaller_is_better: bool
    first: Moment
    factor: float
    l0_band: float | None
    """Ratio of the bounds of an L0 band; None where trials are grouped by settings."""
    group_by: tuple[str, ...] = ()
    """Keys of the settings that are equal in a group."""

    def rung(self, subject: Subject, place: int) -> int:
        """The step of a rung in a trial's training."""
        return math.ceil(self.first.of(subject) * self.factor**place)

    def group(self, subject: Subject, values: Mapping[str, float]) -> str:
        """The group that a trial is compared within."""
        if self.l0_band is None:
            return subject.group
        l0 = values.get("l0", 0.0)
        if not 0 < l0 < math.inf:
            return "l0=0"
        band = math.floor(math.log(l0) / math.log(self.l0_band))
        return f"l0={self.l0_band**band:.4g}-{self.l0_band ** (band + 1):.4g}"

    def reason(self, value: float, reached: Sequence[float], where: str) -> str | None:
        """The reason to stop a trial at a rung; None where it may continue.

        Args:
            value: its metric.
            reached: those of all of its group that have reached the rung, its own among them.
            where: the rung's step and the group, for the words.
        """
        if len(reached) < self.factor:
            return None
        sign = 1 if self.smaller_is_better else -1
        best = sorted(sign * one for one in reached if not math.isnan(one))
        kept = int(len(reached) / self.factor)
        if best and sign * value <= best[min(kept, len(best)) - 1]:
            return None
        return (
            f"halving: {self.metric} {value:.4g} is not among the best {kept} of {len(reached)} at "
            f"step {where}"
        )
