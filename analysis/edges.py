"""Axes whose best end was run: what lies beyond is not known."""

from typing import Any, Literal, NamedTuple

import numpy as np

from analysis.hyperparameters import Hyperparameter
from analysis.ranking import balanced, lowest
from analysis.study import Study

TRADED = ("sae.k", "sae.l1_alpha", "sae.n_latents", "sae.expansion_factor")
"""Axes along which reconstruction is bought with sparsity or size: more is always better in one,
so the balanced score is asked, not fvu."""
FIRST = 0.05
"""Share of the configurations, at least one, that must all stand at the edge."""


class Edge(NamedTuple):
    """A hyperparameter whose first configurations all have its smallest or its largest value."""

    hyperparameter: Hyperparameter
    end: Literal["smallest", "largest"]
    value: float
    values: list[Any]
    """Every value that was asked for, ascending."""
    criterion: str
    """By which they are first."""


def edges(study: Study) -> list[Edge]:
    """The axes of numbers, in order, on whose edge the first configurations stand."""
    found = []
    for one in study.hyperparameters:
        traded = one.key in TRADED
        rows = balanced(study) if traded else lowest(study, "fvu")
        criterion = "configuration first by the balanced score" if traded else "lowest fvu"
        values = sorted({value for value in one.given if value is not None}, key=_order)
        if one.kind != "numeric" or len(rows) < 2 or len(values) < 2:
            continue
        first = rows.index[: max(1, int(FIRST * len(rows)))]
        at = {one.given[i] for i in study.trials.index.get_indexer(first)}
        if at <= {values[0]}:
            found.append(Edge(one, "smallest", float(values[0]), values, criterion))
        elif at <= {values[-1]}:
            found.append(Edge(one, "largest", float(values[-1]), values, criterion))
    return found


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size; a categorical's values, which are not looked at, by their text."""
    is_number = isinstance(value, int | float)
    return (not is_number, value if is_number else str(value))


def beyond(edge: Edge) -> float | int | None:
    """The next value past the edge, by the axis's own step; None where it has no place to go."""
    near, far = edge.values[-2:] if edge.end == "largest" else edge.values[1::-1]
    ratio = far / near if near > 0 and far > 0 else None
    # a first value of 0 (off) has no ratio, and nothing below it
    if ratio is None:
        return None
    stepped = edge.hyperparameter.is_log or ratio >= 2 or ratio <= 0.5
    next_ = far * ratio if stepped else far + (far - near)
    if all(isinstance(value, int) for value in edge.values):
        whole = round(next_)
        return whole if whole > 0 and whole != far else None
    rounded = float(np.format_float_positional(next_, precision=2, fractional=False))
    return rounded if rounded > 0 and rounded != far else None
