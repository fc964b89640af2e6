"""Importance: each hyperparameter's share of a metric's variance, with its uncertainty."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.page import style
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, counted, escaped, listed, table
from analysis.statistics import resampling
from analysis.statistics.design import Design, Factor
from analysis.statistics.resampling import HALVES, Interval
from analysis.study.samples import varies
from analysis.study.table import Study

PER_PARAMETER = 5
"""Configurations for each of the model's parameters below which nothing is said."""
SURE = 0.95
"""Share of the halves in which one must come before another to be said to matter more."""


class Importance(NamedTuple):
    """One factor's partial eta^2: the share of the variance that the others leave."""

    factor: Factor
    share: float
    interval: Interval | None
    """5 to 95 % of random halves of the configurations (delete-half jackknife)."""
    ranks: tuple[int, int]
    """Of the same halves, 1 being first; 5 to 95 %."""


class Importances(NamedTuple):
    """The factors of one metric, the largest share first."""

    found: list[Importance]
    ahead: Float[np.ndarray, "factors factors"]
    """Share of the halves in which a row's factor explains more than a column's."""


def enough(design: Design) -> bool:
    """Whether there are configurations enough for the number of parameters."""
    n, parameters = design.x.shape
    return n >= PER_PARAMETER * parameters and any(one.estimable for one in design.factors)


def importances(design: Design, y: Float[np.ndarray, " n"]) -> Importances:
    """Partial eta^2 of every factor that can be estimated, over all and over random halves."""
    factors = [one for one in design.factors if one.estimable]
    weights = np.vstack([np.ones(len(y), dtype=np.int64), resampling.halves(len(y))])
    full = _residual_squares(design.x, y, weights)
    shares = np.empty((len(weights), len(factors)))
    for j, factor in enumerate(factors):
        less = _residual_squares(design.without(factor), y, weights)
        gained = np.maximum(less - full, 0)
        shares[:, j] = np.divide(gained, less, out=np.zeros_like(less), where=less > 0)
    order = np.argsort(-shares[0], kind="stable")
    shares = shares[:, order]
    halves = shares[1:]
    ranks = 1 + (halves[:, None, :] > halves[:, :, None]).sum(axis=2)
    found = []
    for j, place in enumerate(order):
        low, high = np.quantile(ranks[:, j], [0.05, 0.95], method="nearest")
        interval = resampling.interval(halves[:, j], 0.9)
        found.append(
            Importance(factors[place], float(shares[0, j]), interval, (int(low), int(high)))
        )
    return Importances(found, (halves[:, :, None] > halves[:, None, :]).mean(axis=0))


def _residual_squares(
    x: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"], weights: np.ndarray
) -> Float[np.ndarray, " draws"]:
    """What the fit of every draw leaves; a level that a draw lacks leaves its column out."""
    n, p = x.shape
    centred = y - y.mean()
    grams = (weights @ (x[:, :, None] * x[:, None, :]).reshape(n, p * p)).reshape(-1, p, p)
    sides = weights @ (x * centred[:, None])
    inverse = np.linalg.pinv(grams, rcond=1e-9, hermitian=True)
    explained = np.einsum("di,dij,dj->d", sides, inverse, sides)
    total = weights @ centred**2
    left = total - explained
    # differences of sums leave rounding
    return np.where(left > 1e-12 * total, left, 0.0)


@dataclass(frozen=True)
class MattersMore:
    """A hyperparameter that surely explains more than others."""

    hyperparameter: str
    metric: str
    than: tuple[str, ...]
    least: float
    """Smallest share of the halves in which it does."""

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"**{escaped(self.hyperparameter)}** matters more for {self.metric} than "
            f"{listed([escaped(one) for one in self.than])}: it explains more in "
            f"{'all' if self.least == 1 else f'at least {100 * self.least:.0f} %'} of the halves."
        )


@dataclass(frozen=True)
class TooFewForImportance:
    """A sweep too small for shares of variance."""

    configurations: int
    parameters: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"Not given: {counted(self.configurations, 'configuration')} for "
            f"{counted(self.parameters, 'parameter')}, under {PER_PARAMETER} for each."
        )


def importance(context: ReportContext) -> list[Block]:
    """Partial eta^2 with intervals and rank ranges, one table per metric."""
    study = context.study
    if len(study.hyperparameters) < 2 or study.ranked.empty:
        return []
    estimates = effect_tests.estimate(study)
    title = "## Importance"
    usable = [
        one
        for one in effect_tests.outcomes(study)
        if enough(estimates.designs[one.name]) and varies(estimates.samples[one.name].y)
    ]
    if not usable:
        n, parameters = min(one.x.shape for one in estimates.designs.values())
        if n >= PER_PARAMETER * parameters:
            return []
        return [title, TooFewForImportance(n, parameters)]
    note = (
        "Partial η²: of the variance that the other hyperparameters leave, the share that this one "
        f"explains in the additive model. Interval and ranks: 5 to 95 % of {HALVES} random halves "
        f"of the configurations. One is said to matter more where its effect is claimed and it "
        f"explains more in at least {100 * SURE:.0f} % of the halves."
    )
    parts: list[Block] = [title, note]
    rows = []
    for metric in usable:
        found = importances(estimates.designs[metric.name], estimates.samples[metric.name].y)
        parts += _claims(found, estimates, metric.name)
        for i, one in enumerate(found.found):
            bounds = MISSING
            if one.interval is not None:
                bounds = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}"
            first, last = one.ranks
            rows.append(
                [
                    metric.name if i == 0 else "",
                    escaped(one.factor.hyperparameter.name),
                    f"{one.share:.2f}",
                    bounds,
                    f"{first}" if first == last else f"{first} to {last}",
                ]
            )
    header = ["metric", "hyperparameter", "partial η²", "interval", "rank"]
    drawn = context.picture("importance", "importance with intervals")
    return [*parts, table(header, rows, left=2), *drawn]


def _claims(found: Importances, estimates: effect_tests.Effects, metric: str) -> Iterator[Claim]:
    claimed = {
        one.hyperparameter.name
        for one in estimates.found
        if one.metric.name == metric and one.is_claimed
    }
    names = [one.factor.hyperparameter.name for one in found.found]
    for i, name in enumerate(names):
        behind = [j for j in range(len(names)) if j != i and found.ahead[i, j] >= SURE]
        if name in claimed and behind:
            least = float(min(found.ahead[i, j] for j in behind))
            yield MattersMore(name, metric, tuple(names[j] for j in behind), least)


def draw(study: Study, folder: Path) -> list[style.Drawn]:
    """One panel per metric: partial eta^2 with the range over random halves."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    estimates = effect_tests.estimate(study)
    usable = [
        one
        for one in effect_tests.outcomes(study)
        if enough(estimates.designs[one.name]) and varies(estimates.samples[one.name].y)
    ]
    n = len(study.hyperparameters)
    if not usable or n < 2:
        return []
    figure, panels = style.new(1, len(usable), (1 + 3.6 * len(usable), 1.1 + 0.45 * n))
    for axes, metric in zip(panels, usable, strict=True):
        found = importances(estimates.designs[metric.name], estimates.samples[metric.name].y).found
        for i, one in enumerate(found):
            style.interval_bar(axes, i, one.share, one.interval, style.COLOURS[0])
        axes.set_yticks(range(len(found)), [one.factor.hyperparameter.name for one in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("partial η², 5 to 95 % of random halves")
        axes.set_title(metric.name, loc="left")
    return [style.save(figure, folder, "importance", "shares of variance with their intervals")]
