"""Claims on effects, each with the fields behind its sentence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.findings.effect_tests import Effect, Effects
from analysis.page import wording
from analysis.page.blocks import Claim
from analysis.page.markdown import counted, escaped, listed
from analysis.study import scales
from sae_sweep.records import METRICS, Metric


@dataclass(frozen=True)
class Aliased:
    """Hyperparameters that the sweep changes together."""

    hyperparameters: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        names = listed([escaped(one) for one in self.hyperparameters])
        return (
            f"{names} change together in this sweep: their effects on {listed(self.metrics)} "
            "cannot be told apart, and none of them is claimed."
        )


@dataclass(frozen=True)
class TooFew:
    """A model with too many parameters for the configurations."""

    metrics: tuple[str, ...]
    configurations: int
    parameters: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"{counted(self.configurations, 'configuration')} for "
            f"{counted(self.parameters, 'parameter')} of the additive model of "
            f"{listed(self.metrics)}: too few to claim any effect."
        )


@dataclass(frozen=True)
class Goes:
    """A claimed effect with a direction."""

    hyperparameter: str
    metric: str
    sign: int
    """1: larger goes with a larger value."""
    first: str | None
    """The levels between which `change` is, on the metric's scale; None where nothing is held."""
    last: str | None
    change: float | None
    change_interval: tuple[float, float] | None
    held: bool
    """Whether other hyperparameters are held."""
    configurations: int
    raw: float | None
    """Spearman's correlation with nothing held; None for two categories."""
    raw_disagrees: bool
    """Whether it has another sign, or none."""
    survivors: bool
    """Whether some runs came to nothing, so that only those are compared that did not."""
    depends_on: tuple[str, ...]
    """Hyperparameters with which it interacts: it is the mean over their levels."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        size = ""
        if self.change is not None:
            held = ", others held" if self.held else ""
            size = (
                f": {scales.change(metric, self.change)}"
                f"{wording.change_interval(metric, self.change_interval)} from "
                f"{escaped(str(self.first))} to {escaped(str(self.last))}{held}"
            )
        return (
            f"**{escaped(self.hyperparameter)}:** higher {escaped(self.hyperparameter)}, "
            f"{wording.outcome(metric, self.sign)} {self.metric}{size}"
            f"{_based(self)}."
            f"{_raw(self.raw, disagrees=self.raw_disagrees)}"
        )


@dataclass(frozen=True)
class Flat:
    """A claimed effect that begins, or ends, at a level inside."""

    hyperparameter: str
    metric: str
    starts_flat: bool
    """Flat up to `turn` and changing above it; otherwise changing up to `turn` and flat above."""
    turn: str
    """The last flat level, or the first."""
    end: str
    """The level at the other end of the change."""
    change: float
    """On the metric's scale, from the lower of `turn` and `end` to the higher."""
    change_interval: tuple[float, float]
    held: bool
    configurations: int
    raw: float | None
    raw_disagrees: bool
    survivors: bool
    depends_on: tuple[str, ...]
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        turn, end = escaped(self.turn), escaped(self.end)
        size = (
            f"{scales.change(metric, self.change)}"
            f"{wording.change_interval(metric, self.change_interval)}"
        )
        side = _side(metric, self.change)
        held = ", others held" if self.held else ""
        what = (
            f"{self.metric} is flat up to {turn}, {side} above: {size} at {end}"
            if self.starts_flat
            else f"{self.metric} is {side} up to {turn} ({size} from {end}), flat above"
        )
        return (
            f"**{escaped(self.hyperparameter)}:** {what}{held}"
            f"{_based(self)}."
            f"{_raw(self.raw, disagrees=self.raw_disagrees)}"
        )


@dataclass(frozen=True)
class Bent:
    """A claimed effect with a significant fall and a significant rise."""

    hyperparameter: str
    metric: str
    turn: str
    """The level inside at which it turns."""
    is_best: bool
    """Whether it is best there, not worst."""
    first: str
    """The levels before and after between which the two changes are."""
    last: str
    before: float
    """From `first` to `turn`, on the metric's scale."""
    before_interval: tuple[float, float]
    after: float
    """From `turn` to `last`."""
    after_interval: tuple[float, float]
    is_apart: bool
    """Whether the best level is told apart from every other (Holm)."""
    held: bool
    configurations: int
    survivors: bool
    depends_on: tuple[str, ...]
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        word = "best" if self.is_best else "worst"
        near = "" if self.is_apart or not self.is_best else " or a level beside it"
        held = ", others held" if self.held else ""
        parts = [
            f"{scales.change(metric, change)}{wording.change_interval(metric, interval)} from "
            f"{escaped(one)} to {escaped(other)}"
            for change, interval, one, other in (
                (self.before, self.before_interval, self.first, self.turn),
                (self.after, self.after_interval, self.turn, self.last),
            )
        ]
        return (
            f"**{escaped(self.hyperparameter)}:** {self.metric} is {word} at {escaped(self.turn)}"
            f"{near}: {parts[0]}, {parts[1]}{held}"
            f"{_based(self)}."
        )


@dataclass(frozen=True)
class Differs:
    """A claimed effect without a direction."""

    hyperparameter: str
    metric: str
    best: str | None
    """The level with the best adjusted mean, where it is told apart from every other."""
    partial_eta_squared: float | None
    held: bool
    """Whether other hyperparameters are held."""
    configurations: int
    survivors: bool
    depends_on: tuple[str, ...]
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        held = ", others held" if self.held else ""
        best = "" if self.best is None else f", best at {escaped(self.best)}"
        share = self.partial_eta_squared
        size = "" if share is None else f", partial η² {share:.2f}"
        return (
            f"**{escaped(self.hyperparameter)}:** {self.metric} differs between its levels{held}"
            f"{size}{best}{_based(self)}."
        )


@dataclass(frozen=True)
class Unheld:
    """An association that other hyperparameters can account for."""

    hyperparameter: str
    metric: str
    spearman: float | None
    raw_q: float
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        size = "" if self.spearman is None else f"Spearman {wording.correlation(self.spearman)}, "
        return (
            f"**{escaped(self.hyperparameter)}:** correlated with {self.metric} ({size}"
            f"q {wording.equals(self.raw_q)}), but no effect is detectable with the others held "
            f"(q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class NotDetected:
    """Hyperparameters without a detectable effect on a metric."""

    metric: str
    hyperparameters: tuple[str, ...]
    levels: tuple[tuple[str, str] | None, ...]
    """Between which `changes` are; None for categories, and where nothing is held."""
    changes: tuple[float | None, ...]
    """With the others held, on the metric's scale."""
    intervals: tuple[tuple[float, float] | None, ...]
    """Of the changes, 95 %."""
    configurations: int
    q: tuple[float, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        metric = METRICS[self.metric]
        parts = []
        for name, ends, change, interval, q in zip(
            self.hyperparameters, self.levels, self.changes, self.intervals, self.q, strict=True
        ):
            size = ""
            if change is not None and ends is not None:
                size = (
                    f"{escaped(ends[0])} to {escaped(ends[1])}: {scales.change(metric, change)}"
                    f"{wording.change_interval(metric, interval)}, "
                )
            parts.append(f"{escaped(name)} ({size}q {wording.equals(q)})")
        return (
            f"No effect on {self.metric} is detectable of {listed(parts)}, "
            f"n={self.configurations:,} configurations."
        )


def general(estimates: Effects) -> Iterator[Claim]:
    """Reasons that effects cannot be tested, once for all metrics that share them."""
    groups: dict[tuple[str, ...], list[str]] = {}
    few: dict[tuple[int, int], list[str]] = {}
    for name, one in estimates.designs.items():
        reasons = {e.reason for e in estimates.of(METRICS[name])}
        if "too few configurations" in reasons:
            few.setdefault((len(one.x), one.wanted), []).append(name)
        elif one.aliased and not estimates.adaptive:
            groups.setdefault(tuple(one.aliased), []).append(name)
    for names, metrics in groups.items():
        yield Aliased(names, tuple(metrics))
    for (n, p), metrics in few.items():
        yield TooFew(tuple(metrics), n, p)


def of_metric(metric: Metric, estimates: Effects) -> Iterator[Claim]:
    """A claim per effect and per reason for doubt, and one for effects not detected."""
    found = estimates.of(metric)
    for one in found:
        if one.is_claimed or one.finding == "unheld":
            yield claim_of(one, estimates)
    silent = [one for one in found if one.finding == "none"]
    if silent:
        moves = [one.adjusted.change if one.adjusted else None for one in silent]
        yield NotDetected(
            metric.name,
            tuple(one.hyperparameter.name for one in silent),
            tuple(None if move is None else (move.first, move.last) for move in moves),
            tuple(None if move is None else move.adjusted for move in moves),
            tuple(None if move is None else move.adjusted_interval for move in moves),
            len(estimates.samples[metric.name].y),
            tuple(one.q for one in silent),
        )


def claim_of(one: Effect, estimates: Effects) -> Claim:
    """The sentence of one effect."""
    name, metric, rho = one.hyperparameter.name, one.metric.name, one.correlation.spearman
    held = len(estimates.of(one.metric)) > 1
    if one.finding == "unheld":
        return Unheld(name, metric, _known(rho), one.raw_q, one.q)
    n = len(estimates.samples[metric].y)
    depends = estimates.interacting(one.hyperparameter, one.metric)
    rest: dict[str, Any] = {"survivors": bool(estimates.failing), "depends_on": depends, "q": one.q}
    raw: dict[str, Any] = {"raw": _known(rho), "raw_disagrees": one.raw_disagrees}
    if one.adjusted is None:
        if one.finding == "monotone":
            return Goes(
                name,
                metric,
                one.sign,
                None,
                None,
                None,
                None,
                held=False,
                configurations=n,
                **raw,
                **rest,
            )
        return Differs(name, metric, None, None, held=False, configurations=n, **rest)
    adjusted = one.adjusted
    levels = [adjusted.factor.levels[i] for i in adjusted.ordered]
    steps = adjusted.shape.steps
    match one.finding:
        case "bent":
            before, after = steps
            return Bent(
                name,
                metric,
                levels[before.last],
                (adjusted.shape.kind == "inner high") == (one.metric.direction == "up"),
                levels[before.first],
                levels[after.last],
                before.change,
                before.interval,
                after.change,
                after.interval,
                one.best is not None and one.best.is_apart,
                held,
                n,
                **rest,
            )
        case "flat":
            (step,) = steps
            starts = adjusted.shape.kind == "flat first"
            turn, end = (step.first, step.last) if starts else (step.last, step.first)
            return Flat(
                name,
                metric,
                starts,
                levels[turn],
                levels[end],
                step.change,
                step.interval,
                held,
                n,
                **raw,
                **rest,
            )
        case "monotone" if adjusted.change is not None:
            move = adjusted.change
            return Goes(
                name,
                metric,
                one.sign,
                move.first,
                move.last,
                move.adjusted,
                move.adjusted_interval,
                held,
                n,
                **raw,
                **rest,
            )
    apart = one.best.level if one.best is not None and one.best.is_apart else None
    return Differs(name, metric, apart, adjusted.partial_eta_squared, held, n, **rest)


def _known(value: float) -> float | None:
    return None if value != value else value


def _side(metric: Metric, change: float) -> str:
    """Better or worse, or the plain direction where neither is."""
    if metric.direction == "none":
        return "higher" if change > 0 else "lower"
    return "better" if (change > 0) == (metric.direction == "up") else "worse"


def _based(claim: Goes | Flat | Bent | Differs) -> str:
    """The basis of a claim."""
    alive = "surviving " if claim.survivors else ""
    word = "configuration" if claim.configurations == 1 else "configurations"
    names = listed([escaped(one) for one in claim.depends_on])
    mean = f"; a mean over {names}, on which it depends" if claim.depends_on else ""
    return f"{mean} ({claim.configurations:,} {alive}{word}, q {wording.equals(claim.q)})"


def _raw(rho: float | None, *, disagrees: bool) -> str:
    """The warning that the raw correlation disagrees."""
    if rho is None or not disagrees:
        return ""
    return (
        f" With nothing held, Spearman's correlation is {wording.correlation(rho)}: other settings "
        "hide it."
    )
