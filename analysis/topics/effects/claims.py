"""The sentences on effects: each is built from the record behind its row of the table."""

from collections.abc import Iterator
from dataclasses import dataclass

from analysis.findings.verdicts import Effect, Effects
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
    spearman: float
    interval: tuple[float, float] | None
    configurations: int
    held: bool
    """Whether other hyperparameters are held."""
    first: str | None
    """The levels between which `change` is, on the metric's scale."""
    last: str | None
    change: float | None
    change_interval: tuple[float, float] | None
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.hyperparameter)}:** larger goes {wording.strength(self.spearman)} "
            f"with {wording.outcome(METRICS[self.metric], self.spearman)} {self.metric} (Spearman "
            f"{wording.correlation(self.spearman)}{wording.bracketed(self.interval)}, "
            f"{counted(self.configurations, 'configuration')}"
            f"{_moved(self)}; q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class Bent:
    """A claimed effect that rises and falls."""

    hyperparameter: str
    metric: str
    level: str
    """With the best adjusted mean."""
    second: str
    is_best: bool
    """Whether it is told apart from every other level."""
    best_p: float
    """Holm-adjusted."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        place = (
            f"best at {escaped(self.level)} (Holm p {wording.equals(self.best_p)})"
            if self.is_best
            else f"best adjusted mean observed at {escaped(self.level)}, which is not told apart "
            f"from {escaped(self.second)} (Holm p {wording.equals(self.best_p)})"
        )
        return (
            f"**{escaped(self.hyperparameter)}:** {self.metric} is not monotone in it: {place}; "
            f"q {wording.equals(self.q)}."
        )


@dataclass(frozen=True)
class Differs:
    """A claimed effect without a direction."""

    hyperparameter: str
    metric: str
    partial_eta_squared: float | None
    held: bool
    """Whether other hyperparameters are held."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        held = ", the others held" if self.held else ""
        size = (
            ""
            if self.partial_eta_squared is None
            else f" (partial η² = {self.partial_eta_squared:.2f})"
        )
        return (
            f"**{escaped(self.hyperparameter)}:** {self.metric} differs between its levels{held}"
            f"{size}, but no direction is claimed; q {wording.equals(self.q)}."
        )


@dataclass(frozen=True)
class Opposed:
    """An effect whose sign turns when the others are held."""

    hyperparameter: str
    metric: str
    first: str
    last: str
    spearman: float
    adjusted: float
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        change = scales.change(METRICS[self.metric], self.adjusted)
        return (
            f"**Sign change, {escaped(self.hyperparameter)}:** Spearman's correlation with "
            f"{self.metric} is {wording.correlation(self.spearman)}, but with the others held the "
            f"metric changes by {change} from {escaped(self.first)} to {escaped(self.last)} "
            f"(q {wording.equals(self.q)}): no direction is claimed."
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
            f"**{escaped(self.hyperparameter)}:** associated with {self.metric} ({size}"
            f"q {wording.equals(self.raw_q)}), but not detectably once the others are held "
            f"(q {wording.equals(self.q)}): no effect is claimed."
        )


@dataclass(frozen=True)
class NotDetected:
    """Hyperparameters without a detectable effect on a metric."""

    metric: str
    hyperparameters: tuple[str, ...]
    spearman: tuple[float | None, ...]
    """None for categories."""
    intervals: tuple[tuple[float, float] | None, ...]
    configurations: tuple[int, ...]
    q: tuple[float, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        rows = zip(
            *(self.hyperparameters, self.spearman, self.intervals, self.configurations, self.q),
            strict=True,
        )
        parts = [
            f"{escaped(name)} ("
            + (
                ""
                if rho is None
                else f"Spearman {wording.correlation(rho)}{wording.bracketed(interval)}, "
            )
            + f"n = {n:,}, q {wording.equals(q)})"
            for name, rho, interval, n, q in rows
        ]
        return f"No detectable effect on {self.metric}: {listed(parts)}."


def general(judged: Effects) -> Iterator[Claim]:
    """What keeps effects from being judged, once for all metrics that share it."""
    groups: dict[tuple[str, ...], list[str]] = {}
    few: dict[tuple[int, int], list[str]] = {}
    for name, one in judged.designs.items():
        if one.aliased:
            groups.setdefault(tuple(one.aliased), []).append(name)
        reasons = {e.reason for e in judged.of(METRICS[name])}
        if "too few configurations" in reasons:
            few.setdefault(one.x.shape, []).append(name)
    for names, metrics in groups.items():
        yield Aliased(names, tuple(metrics))
    for (n, p), metrics in few.items():
        yield TooFew(tuple(metrics), n, p)


def of_metric(metric: Metric, found: list[Effect]) -> Iterator[Claim]:
    """A sentence for each effect and each reason to doubt one; one for all that show nothing."""
    single = len(found) == 1
    for one in found:
        if one.is_claimed or one.verdict in ("opposed", "unheld"):
            yield claim_of(one, held=not single)
    silent = [one for one in found if one.verdict == "none"]
    if silent:
        yield NotDetected(
            metric.name,
            tuple(one.hyperparameter.name for one in silent),
            tuple(_known(one.correlation.spearman) for one in silent),
            tuple(one.correlation.spearman_interval for one in silent),
            tuple(one.correlation.n for one in silent),
            tuple(one.q for one in silent),
        )


def claim_of(one: Effect, *, held: bool) -> Claim:
    """The sentence of one effect; `held`: whether there are others to hold."""
    name, metric, found = one.hyperparameter.name, one.metric.name, one.correlation
    move = one.adjusted.change if one.adjusted is not None else None
    if one.verdict == "monotone":
        return Goes(
            name,
            metric,
            found.spearman,
            found.spearman_interval,
            found.n,
            held,
            move.first if move else None,
            move.last if move else None,
            move.adjusted if move else None,
            move.adjusted_interval if move else None,
            one.q,
        )
    if one.verdict == "bent" and one.best is not None:
        best = one.best
        return Bent(name, metric, best.level, best.second, best.is_apart, best.p, one.q)
    if one.verdict == "opposed" and move is not None:
        return Opposed(name, metric, move.first, move.last, found.spearman, move.adjusted, one.q)
    if one.verdict == "unheld":
        return Unheld(name, metric, _known(found.spearman), one.raw_q, one.q)
    share = one.adjusted.partial_eta_squared if one.adjusted is not None else None
    return Differs(name, metric, share, held, one.q)


def _known(value: float) -> float | None:
    return None if value != value else value


def _moved(claim: Goes) -> str:
    """From a level to another, by how much."""
    if claim.change is None:
        return ""
    metric = METRICS[claim.metric]
    bounds = wording.change_interval(metric, claim.change_interval)
    held = ", the others held" if claim.held else ""
    return (
        f"; from {escaped(str(claim.first))} to {escaped(str(claim.last))}{held}: "
        f"{scales.change(metric, claim.change)}{bounds}"
    )
