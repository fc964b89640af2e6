"""How much of a metric's variance each hyperparameter explains, and how sure that order is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis import resampling
from analysis.design import Design, Factor
from analysis.resampling import Interval

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
