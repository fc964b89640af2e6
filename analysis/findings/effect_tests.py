"""Effects of each hyperparameter on each metric, with one error rate for the page."""

from typing import Literal, NamedTuple

import numpy as np

from analysis.findings import failures
from analysis.findings.adaptive import adaptive
from analysis.findings.failures import Failing
from analysis.findings.pairs import Pair, of_metric
from analysis.statistics import adjusted, correlations, design
from analysis.statistics.adjusted import Adjusted, Best
from analysis.statistics.correlations import Correlation
from analysis.statistics.design import Design
from analysis.statistics.fits import Fit
from analysis.statistics.multiplicity import CLAIMED, holm, q_values
from analysis.study import samples
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.samples import Sample
from analysis.study.table import Study, once
from sae_sweep.records import Metric

Finding = Literal["monotone", "bent", "flat", "differs", "unheld", "none", "untested"]
"""monotone, bent, flat, differs: an effect that is claimed, with its shape (bent: a significant
fall and a significant rise; flat: nothing happens at one end; differs: in no order).
unheld: an association that is gone when the others are held. none: nothing detectable.
untested: the sweep does not allow a test; `reason` says why."""

CLAIMING: tuple[Finding, ...] = ("monotone", "bent", "flat", "differs")
RAW_NOWHERE = 0.1
"""Rank correlation below which its sign says nothing."""
FEWEST = 5
"""Configurations below which no order of theirs is unlikely enough by chance."""


class Effect(NamedTuple):
    """A hyperparameter on a metric."""

    hyperparameter: Hyperparameter
    metric: Metric
    correlation: Correlation
    raw_q: float
    """Of the correlation's p, over all of them."""
    adjusted: Adjusted | None
    best: Best | None
    q: float
    """q of the factor's F-test in the additive model, or of the correlation where there is only one
    hyperparameter; NaN where untested."""
    finding: Finding
    reason: str
    """Why it is untested; empty otherwise."""

    @property
    def is_claimed(self) -> bool:
        """Whether the report says that there is an effect."""
        return self.finding in CLAIMING

    @property
    def sign(self) -> int:
        """1 where larger goes with a larger value, -1 with a smaller; 0 where no order is claimed.

        A flat end has the sign of what happens at the other.
        """
        if self.finding not in ("monotone", "flat"):
            return 0
        if self.adjusted is None:
            return 1 if self.correlation.spearman > 0 else -1
        steps = self.adjusted.shape.steps
        change = self.adjusted.change
        moved = steps[0].change if steps else (change.adjusted if change else 0.0)
        return 1 if moved > 0 else -1

    @property
    def raw_disagrees(self) -> bool:
        """Whether the raw correlation has another sign, or none."""
        rho = self.correlation.spearman
        return self.sign != 0 and rho == rho and (rho * self.sign < 0 or abs(rho) < RAW_NOWHERE)


class Effects(NamedTuple):
    """All hyperparameters on all main metrics."""

    found: list[Effect]
    raw_tests: int
    """Correlations that were tested together."""
    tests: int
    """Effects and pairs that were tested together."""
    pairs: list[Pair]
    """Interactions, the largest share of variance first."""
    failing: list[Failing]
    """Settings and pairs tested as causes of failed runs; empty where none failed."""
    adaptive: tuple[str, ...]
    """Settings whose draws follow the results: nothing is claimed of a design then."""
    samples: dict[str, Sample]
    """By metric."""
    designs: dict[str, Design]
    """By metric: they differ where a trial lacks one."""

    def of(self, metric: Metric) -> list[Effect]:
        """A metric's effects, in the order of the hyperparameters."""
        return [one for one in self.found if one.metric.name == metric.name]

    def interacting(self, hyperparameter: Hyperparameter, metric: Metric) -> tuple[str, ...]:
        """Names of those with which it is claimed to interact on a metric."""
        return tuple(
            (two.second if two.first is hyperparameter else two.first).name
            for two in self.pairs
            if two.is_claimed
            and two.metric.name == metric.name
            and hyperparameter in (two.first, two.second)
        )

    @property
    def claimed_pairs(self) -> list[Pair]:
        """Interactions that the report speaks of, those that move the best level first."""
        claimed = [one for one in self.pairs if one.is_claimed]
        return sorted(claimed, key=lambda one: (not one.moves, -one.gain))

    def get(self, hyperparameter: Hyperparameter, metric: Metric) -> Effect:
        """One effect."""
        return next(one for one in self.of(metric) if one.hyperparameter is hyperparameter)


def outcomes(study: Study) -> list[Metric]:
    """The main metrics that the sweep could move; not l0 where every trial sets it by k."""
    numeric = {one.key for one in study.hyperparameters if one.kind == "numeric"}
    return [one for one in study.main_metrics if one.name != "l0" or "sae.k" not in numeric]


@once
def estimate(study: Study) -> Effects:
    """Test every hyperparameter and every pair as one family, causes of failure as another.

    Trials that a search chose by earlier results are no design: nothing is tested there.
    """
    taken = {one.name: samples.sample(study, one) for one in outcomes(study)}
    designs = {name: _design(study, one) for name, one in taken.items()}
    chosen = adaptive(study)
    found = [
        effect
        for metric in outcomes(study)
        for effect in _of_metric(study, taken[metric.name], designs[metric.name], chosen)
    ]
    pairs: list[Pair] = []
    failing: list[Failing] = []
    if not chosen:
        for name, one in taken.items():
            if samples.varies(one.y):
                pairs += list(of_metric(one, designs[name]))
        failing = failures.of_settings(study)
    raw_q = q_values(np.array([one.correlation.p for one in found]))
    q = q_values(np.array([one.q for one in found] + [one.p for one in pairs]))
    lost = holm(np.array([one.p for one in failing]))
    own, others = q[: len(found)], q[len(found) :]
    estimates = [
        _with_finding(one._replace(raw_q=float(a), q=float(b)))
        for one, a, b in zip(found, raw_q, own, strict=True)
    ]
    pairs = [one._replace(q=float(b)) for one, b in zip(pairs, others, strict=True)]
    failing = [one._replace(q=float(b)) for one, b in zip(failing, lost, strict=True)]
    pairs.sort(key=lambda one: -one.gain)
    raw_tests, n_tests = (int((~np.isnan(values)).sum()) for values in (raw_q, q))
    return Effects(estimates, raw_tests, n_tests, pairs, failing, chosen, taken, designs)


def _design(study: Study, one: Sample) -> Design:
    islands = one.seen.islands if one.seen.is_divided else None
    return design.design(study.hyperparameters, one.rows, islands)


def _of_metric(study: Study, one: Sample, columns: Design, chosen: tuple[str, ...]) -> list[Effect]:
    fitted = adjusted.additive(columns, one.seen) if samples.varies(one.y) else None
    return [
        _test(hyperparameter, one, columns, i, fitted, chosen)
        for i, hyperparameter in enumerate(study.hyperparameters)
    ]


def _test(
    hyperparameter: Hyperparameter,
    one: Sample,
    columns: Design,
    i: int,
    fitted: Fit | None,
    chosen: tuple[str, ...],
) -> Effect:
    """Both tests of a hyperparameter; its p stands in the place of q until all are known."""
    factor = columns.factors[i]
    correlation = correlations.correlation(one, hyperparameter)
    held = None if fitted is None else adjusted.adjust(columns, factor, one.y, fitted)
    alone = len(columns.factors) == 1 and correlation.p == correlation.p
    reason = ""
    if chosen:
        reason = "draws follow the results"
    elif held is None and not (alone and correlation.n >= FEWEST):
        reason = correlation.remark or _reason(columns, i)
    p = np.nan if reason else (correlation.p if held is None else held.p)
    best = None
    if held is not None and fitted is not None:
        best = adjusted.best(columns, held, fitted, one.metric.direction)
    return Effect(
        hyperparameter, one.metric, correlation, np.nan, held, best, p, "untested", reason
    )


def _reason(columns: Design, i: int) -> str:
    factor = columns.factors[i]
    if columns.is_too_small:
        return "too few configurations"
    if factor.aliased:
        if factor.hyperparameter.name in columns.by_seeds:
            return "changes together with the seeds"
        others = [name for name in columns.aliased if name != factor.hyperparameter.name]
        return f"changes together with {', '.join(others)}"
    if not factor.columns:
        return "one value"
    return "too few configurations"


def _with_finding(one: Effect) -> Effect:
    return one._replace(finding=_finding(one))


def _finding(one: Effect) -> Finding:
    if one.reason:
        return "untested"
    if not one.q < CLAIMED:
        return "unheld" if one.raw_q < CLAIMED else "none"
    held, rho = one.adjusted, one.correlation.spearman
    if held is None:
        return "differs" if np.isnan(rho) else "monotone"
    match held.shape.kind:
        case "inner low" | "inner high":
            return "bent"
        case "flat first" | "flat last":
            return "flat"
        case "monotone":
            return "monotone"
        case "none":
            is_ordered = held.change is not None and len(held.means) == 2
            return "monotone" if is_ordered else "differs"
