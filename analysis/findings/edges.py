"""Axes whose best end was run: what lies beyond is not known."""

from typing import Any, Literal, NamedTuple

import numpy as np

from analysis.findings import verdicts
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import METRICS

TRADED = ("sae.k", "sae.l1_alpha", "sae.n_latents", "sae.expansion_factor")
"""Axes along which reconstruction is bought with sparsity or size."""


class Edge(NamedTuple):
    """A hyperparameter whose best level for fvu is the smallest or the largest that was tried."""

    hyperparameter: Hyperparameter
    end: Literal["smallest", "largest"]
    value: float
    given: list[Any]
    """Every value that was asked for, ascending."""


def edges(study: Study) -> list[Edge]:
    """The axes of numbers, in order, whose best level is told apart from all others and at an end.

    Not those along which more is always better: there the edge says nothing.
    """
    judged = verdicts.judge(study)
    found = []
    for one in judged.of(METRICS["fvu"]):
        axis, best = one.hyperparameter, one.best
        values = sorted({value for value in axis.given if value is not None}, key=_order)
        if axis.kind != "numeric" or axis.key in TRADED or len(values) < 2:
            continue
        if not one.is_claimed or best is None or not best.is_apart:
            continue
        if best.level == axis.order[0]:
            found.append(Edge(axis, "smallest", float(values[0]), values))
        elif best.level == axis.order[-1]:
            found.append(Edge(axis, "largest", float(values[-1]), values))
    return found


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size; a categorical's values, which are not looked at, by their text."""
    is_number = isinstance(value, int | float)
    return (not is_number, value if is_number else str(value))


def beyond(edge: Edge) -> float | int | None:
    """The next value past the edge, by the axis's own step; None where it has no place to go."""
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
