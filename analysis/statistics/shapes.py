"""The shape of an effect over ordered levels: one way, flat at one end, or turning inside."""

from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.statistics.fits import Fit
from analysis.statistics.multiplicity import holm

LEVEL = 0.05
FLAT = 0.25
"""Share of the whole range within which the levels of a flat end must lie."""

Kind = Literal["monotone", "inner low", "inner high", "flat first", "flat last", "none"]
"""inner low, inner high: a significant fall and a significant rise around a level inside.
flat first, flat last: levels at one end that nothing tells apart, then (or before) a change that is
steeper than a line through all of them. none: the levels differ in no order that can be said."""


class Step(NamedTuple):
    """From one level to another."""

    first: int
    last: int
    change: float
    interval: tuple[float, float]
    """95 %."""


class Shape(NamedTuple):
    """Shape of a factor's adjusted means from its first level to its last."""

    kind: Kind
    steps: tuple[Step, ...]
    """monotone: first to last. inner: from the farthest level before the turn to the turn, and from
    there to the farthest after. flat first: the last flat level to the last. flat last: the first
    to the first flat level. none: empty."""


NONE = Shape("none", ())


def shape(
    fit: Fit, rows: Float[np.ndarray, "levels p"], places: Float[np.ndarray, " levels"]
) -> Shape:
    """Determine the shape of a factor's effect.

    Args:
        fit: a fit with at least one covariance.
        rows: the reference grid's row of each level, in order.
        places: the levels on the hyperparameter's scale, ascending.
    """
    means = rows @ fit.coefficients
    pairs = list(combinations(range(len(means)), 2))
    plain = fit.p_each(np.array([rows[j] - rows[i] for i, j in pairs]))
    apart = dict(zip(pairs, holm(plain), strict=True))
    turned = _turned(fit, rows, apart)
    if turned is not None:
        return turned
    rises = _direction(fit, rows, places, apart)
    if rises is None or (means[-1] > means[0]) != rises:
        return NONE
    for kind, start, end in _flat_ends(means, apart):
        if _is_bent(fit, rows, places, (start, end)):
            ends = (end, len(means) - 1) if kind == "flat first" else (0, start)
            return Shape(kind, (_step(fit, rows, *ends),))
    return Shape("monotone", (_step(fit, rows, 0, len(means) - 1),))


def _turned(
    fit: Fit, rows: Float[np.ndarray, "levels p"], apart: dict[tuple[int, int], float]
) -> Shape | None:
    """The shape of an effect that turns inside; none where it turns twice, None where it does not.

    One-sided tests against the lowest (highest) level: Hsu's multiple comparisons with the best.
    """
    means = rows @ fit.coefficients
    kinds: tuple[tuple[float, Kind], ...] = ((1.0, "inner low"), (-1.0, "inner high"))
    for sign, kind in kinds:
        turn = int(np.argmin(sign * means))
        others = [i for i in range(len(means)) if i != turn]
        beaten = holm(fit.p_each(rows[others] - rows[turn]) / 2)
        worse = [i for i, p in zip(others, beaten, strict=True) if p < LEVEL]
        before, after = [i for i in worse if i < turn], [i for i in worse if i > turn]
        if before and after:
            if _turns_again(turn, sign * means, apart):
                return NONE
            left, right = (side[int(np.argmax(sign * means[side]))] for side in (before, after))
            return Shape(kind, (_step(fit, rows, left, turn), _step(fit, rows, turn, right)))
    return None


def _direction(
    fit: Fit,
    rows: Float[np.ndarray, "levels p"],
    places: Float[np.ndarray, " levels"],
    apart: dict[tuple[int, int], float],
) -> bool | None:
    """Whether larger is higher, by all pairs that are apart or else by a line; None: neither."""
    means = rows @ fit.coefficients
    signs = {bool(means[j] > means[i]) for (i, j), p in apart.items() if p < LEVEL}
    if len(signs) == 1:
        return signs.pop()
    line = (places - places.mean())[None, :] @ rows
    if not signs and fit.p_each(line)[0] < LEVEL:
        return bool((line @ fit.coefficients)[0] > 0)
    return None


def _step(fit: Fit, rows: Float[np.ndarray, "levels p"], i: int, j: int) -> Step:
    row = (rows[j] - rows[i])[None, :]
    low, high = fit.intervals(row)[0]
    return Step(i, j, float((row @ fit.coefficients)[0]), (float(low), float(high)))


def _turns_again(
    turn: int, means: Float[np.ndarray, " levels"], apart: dict[tuple[int, int], float]
) -> bool:
    """Whether a significant rise comes before the lowest level, or a significant fall after it."""
    return any(
        (j <= turn and means[j] > means[i]) or (i >= turn and means[j] < means[i])
        for (i, j), p in apart.items()
        if p < LEVEL
    )


def _flat_ends(
    means: Float[np.ndarray, " levels"], apart: dict[tuple[int, int], float]
) -> list[tuple[Literal["flat first", "flat last"], int, int]]:
    """The longest flat start and the longest flat end, the longer one first."""
    n, reach = len(means), FLAT * np.ptp(means)

    def is_flat(start: int, end: int) -> bool:
        inside = combinations(range(start, end + 1), 2)
        return bool(np.ptp(means[start : end + 1]) <= reach) and all(
            apart[p] >= LEVEL for p in inside
        )

    found: list[tuple[Literal["flat first", "flat last"], int, int]] = []
    first = next((end for end in range(n - 2, 0, -1) if is_flat(0, end)), None)
    last = next((start for start in range(1, n - 1) if is_flat(start, n - 1)), None)
    if first is not None:
        found.append(("flat first", 0, first))
    if last is not None:
        found.append(("flat last", last, n - 1))
    return sorted(found, key=lambda one: one[1] - one[2])


def _is_bent(
    fit: Fit,
    rows: Float[np.ndarray, "levels p"],
    places: Float[np.ndarray, " levels"],
    flat: tuple[int, int],
) -> bool:
    """Whether the change per unit outside the flat levels differs from that inside them."""
    start, end = flat
    inside = (rows[end] - rows[start]) / (places[end] - places[start])
    a, b = (end, len(places) - 1) if start == 0 else (0, start)
    outside = (rows[b] - rows[a]) / (places[b] - places[a])
    return bool(fit.p_each((outside - inside)[None, :])[0] < LEVEL)
