"""Axes whose best end was run: what lies beyond is not known."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.findings.ranking import balanced, lowest, tied_with_first
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from sae_sweep.records import METRICS

TRADED = ("sae.k", "sae.l1_alpha", "sae.n_latents", "sae.expansion_factor")
"""Axes along which reconstruction is bought with sparsity or size: more is always better in one,
so the balanced score is asked, not fvu."""
FIRST = 0.05
"""Share of the configurations, at least one, that must all stand at the edge, with all that equal
them or are tied with the first within the noise."""


class Edge(NamedTuple):
    """A hyperparameter whose first configurations all have its smallest or its largest value."""

    hyperparameter: Hyperparameter
    end: Literal["smallest", "largest"]
    value: float
    given: list[Any]
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
        first = _first(study, rows, "score" if traded else "fvu")
        at = {one.given[i] for i in study.trials.index.get_indexer(first)}
        if at <= {values[0]}:
            found.append(Edge(one, "smallest", float(values[0]), values, criterion))
        elif at <= {values[-1]}:
            found.append(Edge(one, "largest", float(values[-1]), values, criterion))
    return found


def _first(study: Study, rows: pd.DataFrame, column: str) -> pd.Index:
    """The first configurations, and those that nothing tells from them."""
    last = rows[column].iloc[max(1, int(FIRST * len(rows))) - 1]
    chosen = rows[column] <= last
    tied = tied_with_first(study, METRICS[column], rows) if column in METRICS else None
    return rows.index[chosen if tied is None else chosen | tied]


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
