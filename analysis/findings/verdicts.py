"""What may be said of each hyperparameter and metric, with one rate of error for all of it."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.statistics import adjusted, correlations, design
from analysis.statistics.adjusted import Adjusted, Best
from analysis.statistics.correlations import Correlation
from analysis.statistics.design import Design
from analysis.statistics.multiplicity import CLAIMED, q_values
from analysis.study import samples
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.samples import Sample
from analysis.study.table import Study, once
from sae_sweep.records import Metric

Verdict = Literal["monotone", "bent", "differs", "opposed", "unheld", "none", "unjudged"]
"""monotone, bent, differs: an effect that is claimed, with its shape (differs: in no order).
opposed: an effect whose sign alone is the opposite of its sign with the others held.
unheld: an association that is gone when the others are held. none: nothing detectable.
unjudged: the sweep does not allow a test; `reason` says why."""

CLAIMING: tuple[Verdict, ...] = ("monotone", "bent", "differs")


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
    """What the verdict rests on: of the factor's F-test in the additive model, or of the
    correlation where a single hyperparameter leaves nothing to hold; NaN where unjudged."""
    verdict: Verdict
    reason: str
    """Why it is unjudged; empty otherwise."""

    @property
    def is_claimed(self) -> bool:
        """Whether the report says that there is an effect."""
        return self.verdict in CLAIMING


class Effects(NamedTuple):
    """All hyperparameters on all main metrics."""

    found: list[Effect]
    raw_tests: int
    """Correlations that were tested together."""
    tests: int
    """Effects that were tested together."""
    samples: dict[str, Sample]
    """By metric."""
    designs: dict[str, Design]
    """By metric: they differ where a trial lacks one."""

    def of(self, metric: Metric) -> list[Effect]:
        """A metric's effects, in the order of the hyperparameters."""
        return [one for one in self.found if one.metric.name == metric.name]

    def get(self, hyperparameter: Hyperparameter, metric: Metric) -> Effect:
        """One effect."""
        return next(one for one in self.of(metric) if one.hyperparameter is hyperparameter)


def outcomes(study: Study) -> list[Metric]:
    """The main metrics that the sweep could move; not l0 where every trial sets it by k."""
    numeric = {one.key for one in study.hyperparameters if one.kind == "numeric"}
    return [one for one in study.main_metrics if one.name != "l0" or "sae.k" not in numeric]


@once
def judge(study: Study) -> Effects:
    """Test every hyperparameter on every main metric, then decide what is said of each."""
    taken = {one.name: samples.sample(study, one) for one in outcomes(study)}
    designs = {name: design.design(study.hyperparameters, one.rows) for name, one in taken.items()}
    fits = {name: adjusted.fits(one.x, taken[name].y) for name, one in designs.items()}
    found = [
        _test(study.hyperparameters, taken[metric.name], designs[metric.name], fits[metric.name], i)
        for metric in outcomes(study)
        for i in range(len(study.hyperparameters))
    ]
    raw_q = q_values(np.array([one.correlation.p for one in found]))
    q = q_values(np.array([one.q for one in found]))
    judged = [
        _judged(one._replace(raw_q=float(a), q=float(b)))
        for one, a, b in zip(found, raw_q, q, strict=True)
    ]
    raw_tests, tests = (int((~np.isnan(values)).sum()) for values in (raw_q, q))
    return Effects(judged, raw_tests, tests, taken, designs)


def _test(
    hyperparameters: list[Hyperparameter],
    one: Sample,
    columns: Design,
    fits: Float[np.ndarray, "draws p"],
    i: int,
) -> Effect:
    """Both tests of a hyperparameter; its p stands in the place of q until all are known."""
    hyperparameter, factor = hyperparameters[i], columns.factors[i]
    correlation = correlations.correlation(one, hyperparameter)
    held = adjusted.adjust(columns, factor, one.y, fits) if samples.varies(one.y) else None
    if held is None and not (len(hyperparameters) == 1 and correlation.p == correlation.p):
        reason = correlation.remark or _reason(columns, i)
    else:
        reason = ""
    p = np.nan if reason else (correlation.p if held is None else held.p)
    best = None if held is None else adjusted.best(columns, held, one.y, one.metric.direction)
    return Effect(
        hyperparameter, one.metric, correlation, np.nan, held, best, p, "unjudged", reason
    )


def _reason(columns: Design, i: int) -> str:
    factor = columns.factors[i]
    if factor.aliased:
        others = [name for name in columns.aliased if name != factor.hyperparameter.name]
        return f"changes together with {', '.join(others)}"
    if not factor.columns:
        return "one value"
    return "too few configurations"


def _judged(one: Effect) -> Effect:
    return one._replace(verdict=_verdict(one))


def _verdict(one: Effect) -> Verdict:
    if one.reason:
        return "unjudged"
    if not one.q < CLAIMED:
        return "unheld" if one.raw_q < CLAIMED else "none"
    held, rho = one.adjusted, one.correlation.spearman
    if held is None:
        return "differs" if np.isnan(rho) else "monotone"
    if held.change is None or np.isnan(rho):
        return "differs"
    if held.is_bent:
        return "bent"
    sign = held.change.adjusted
    if sign * rho < 0:
        return "opposed"
    bounds = held.change.adjusted_interval
    excludes_0 = bounds is None or bounds[0] * bounds[1] > 0
    return "monotone" if held.change.p < CLAIMED and excludes_0 and rho != 0 else "differs"
