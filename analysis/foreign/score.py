"""Checks of a published score that adds scaled metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from analysis.foreign import cells
from analysis.foreign.imported import (
    Scored,
    ScoreOfPoor,
    ScoreOrder,
    ScoreReproduced,
    ScoreSpread,
)
from analysis.page.blocks import Claim
from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord

FEWEST = 3
"""Rows from which an order is compared with another."""
ARITHMETIC = 1e-12
"""Relative noise of binary arithmetic, where all digits of a double are written."""
RANKED_AGAINST = ("dead_features", "fvu")

Bounds = Mapping[str, tuple[float, float]]


class Row(NamedTuple):
    """A run with a score."""

    trial: TrialRecord
    score: Any
    """As written."""
    digits: dict[str, float]
    """By metric: how far its true value may lie off what is written."""

    @property
    def stated(self) -> float:
        """The score as a number."""
        value = cells.number(self.score)
        assert value is not None
        return value


def check(column: str, rows: Sequence[Row], bounds: Bounds) -> tuple[list[Claim], list[Scored]]:
    """Compare a score with the sum of min-max scaled metrics, and its order with each metric's.

    Args:
        column: the score's foreign name.
        rows: runs that have one.
        bounds: the ends of each metric of the sum; without them nothing is recomputed.

    Raises:
        BadInput: a bounded metric is missing in a row with a score.
    """
    claims: list[Claim] = []
    scored = [_scored(row, bounds) for row in rows] if bounds else []
    if scored:
        ends = tuple((name, low, high) for name, (low, high) in bounds.items())
        claims.append(
            ScoreReproduced(column, ends, sum(one.reproduced for one in scored), len(scored))
        )
        for name, low, high in ends:
            span = np.ptp([_metric(row, name) for row in rows]) / (high - low)
            claims.append(ScoreSpread(column, name, float(span), len(rows)))
    claims += _orders(column, rows)
    poor = sum(row.trial.worse_than_mean for row in rows)
    if poor:
        claims.append(ScoreOfPoor(column, poor, len(rows)))
    return claims, scored


def _scored(row: Row, bounds: Bounds) -> Scored:
    low = high = 0.0
    for name, (first, last) in bounds.items():
        value, half = _metric(row, name), row.digits[name]
        low += (value - half - first) / (last - first)
        high += (value + half - first) / (last - first)
    half = cells.half_digit(row.score)
    half += ARITHMETIC * max(1.0, abs(row.stated))
    reproduced = low - half <= row.stated <= high + half
    return Scored(row.trial.uid, str(row.score), low, high, reproduced)


def _metric(row: Row, name: str) -> float:
    value = row.trial.final.get(name)
    if value is None or name not in row.digits:
        raise BadInput(
            f"--bounds {name}=...: run {row.trial.label} has a score but no {name} of its own in "
            "the file: bound metrics that every scored row has"
        )
    return value


def _orders(column: str, rows: Sequence[Row]) -> list[Claim]:
    claims: list[Claim] = []
    for name in RANKED_AGAINST:
        pairs = [
            (row.stated, value) for row in rows if (value := row.trial.final.get(name)) is not None
        ]
        scores, values = [one for one, _ in pairs], [one for _, one in pairs]
        if len(pairs) >= FEWEST and len(set(scores)) > 1 and len(set(values)) > 1:
            found = float(stats.spearmanr(scores, values).statistic)
            claims.append(ScoreOrder(column, name, found, len(pairs)))
    return claims
