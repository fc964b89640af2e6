"""Axes along which fvu still improves at the end that was run."""

from typing import Any, Literal, NamedTuple

import numpy as np

from analysis.findings import effect_tests
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import METRICS

TRADED = ("sae.k", "sae.l1_alpha", "sae.n_latents", "sae.expansion_factor")
"""Axes along which reconstruction is bought with sparsity or size: more is always better in one, so
their ends say nothing."""


class Edge(NamedTuple):
    """A hyperparameter whose claimed effect still improves fvu at an end of its axis."""

    hyperparameter: Hyperparameter
    end: Literal["smallest", "largest"]
    value: float
    given: list[Any]
    """Every value that was asked for, ascending."""
    q: float
    """Of the effect."""


def edges(study: Study) -> list[Edge]:
    """The axes of numbers, in order, along which fvu still falls at an end that was run.

    Only where the effect is claimed, does not turn or level off there, and no other setting decides
    which level is best.
    """
    if "fvu" not in study.scaled or study.ranked.empty or not study.hyperparameters:
        return []
    estimates = effect_tests.estimate(study)
    moved = {one.first.key for one in estimates.claimed_pairs if one.moves}
    found = []
    for one in study.hyperparameters:
        values = sorted({value for value in one.given if value is not None}, key=_order)
        if one.kind != "numeric" or len(values) < 2 or one.key in TRADED or one.key in moved:
            continue
        effect = estimates.get(one, METRICS["fvu"])
        if not effect.sign or _levels_off(effect):
            continue
        if effect.sign < 0:
            found.append(Edge(one, "largest", float(values[-1]), values, effect.q))
        elif values[0] > 0:  # nothing lies below 0
            found.append(Edge(one, "smallest", float(values[0]), values, effect.q))
    return found


def _levels_off(effect: effect_tests.Effect) -> bool:
    """Whether the flat end is the better one."""
    if effect.finding != "flat" or effect.adjusted is None:
        return False
    is_flat_first = effect.adjusted.shape.kind == "flat first"
    return is_flat_first == (effect.sign > 0)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size; a categorical's values, which are not looked at, by their text."""
    is_number = isinstance(value, int | float)
    return (not is_number, value if is_number else str(value))


def beyond(edge: Edge) -> float | int | None:
    """The next value past the edge, by the axis's own step; None where there is none."""
    near, far = edge.given[-2:] if edge.end == "largest" else edge.given[1::-1]
    ratio = far / near if near > 0 and far > 0 else None
    # a first value of 0 (off) has no ratio, and nothing below it
    if ratio is None:
        return None
    stepped = edge.hyperparameter.is_log or ratio >= 2 or ratio <= 0.5
    next_ = far * ratio if stepped else far + (far - near)
    if all(isinstance(value, int) for value in edge.given):
        whole = round(next_)
        return whole if whole > 0 and whole != far else None
    rounded = float(np.format_float_positional(next_, precision=2, fractional=False))
    return rounded if rounded > 0 and rounded != far else None
