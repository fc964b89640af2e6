"""Whether the effect of one hyperparameter depends on another's level."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis import verdicts
from analysis.adjusted import f_test, residual_squares
from analysis.design import Design, Factor
from analysis.hyperparameters import Hyperparameter
from analysis.multiplicity import CLAIMED, q_values
from analysis.samples import varies
from analysis.study import Study
from sae_sweep.records import Metric

SHOWN = 3
"""Interactions, the largest of those claimed, that are drawn."""
MOST_EMPTY = 0.2
"""Share of the pair's cells without an observation above which it is not tested."""
FEWEST_RESIDUAL = 10
"""Configurations beyond the parameters, interaction included, that a test needs."""


class Interaction(NamedTuple):
    """Two hyperparameters on one metric."""

    first: Hyperparameter
    second: Hyperparameter
    metric: Metric
    gain: float
    """Share of the metric's variance that the pair explains beyond the additive model."""
    f: float
    df: int
    residual_df: int
    p: float
    q: float
    """Adjusted over all pairs and metrics tested."""
    is_claimed: bool
    """q below .05, and the effect of one of the two on the metric is claimed."""

    @property
    def figure(self) -> str:
        """The name of its heatmap."""
        pair = f"{self.first.name}_{self.second.name}".replace(".", "_")
        return f"interaction_{self.metric.name}_{pair}"


class Interactions(NamedTuple):
    """All pairs on all main metrics."""

    found: list[Interaction]
    """Largest share of variance first."""
    skipped: int
    """Pairs and metrics that were not tested."""

    @property
    def tests(self) -> int:
        """How many were tested together."""
        return len(self.found)

    @property
    def claimed(self) -> list[Interaction]:
        """Those that the report speaks of."""
        return [one for one in self.found if one.is_claimed]


@lru_cache(maxsize=2)
def interactions(study: Study) -> Interactions:
    """Test every pair that the sweep lets be tested."""
    judged = verdicts.judge(study)
    found, pairs = [], 0
    for metric in verdicts.outcomes(study):
        design, y = judged.designs[metric.name], judged.samples[metric.name].y
        pairs += len(list(combinations(design.factors, 2)))
        if varies(y):
            found += list(_of_metric(metric, design, y))
    q = q_values(np.array([one.p for one in found]))
    tested = [
        one._replace(
            q=float(value),
            is_claimed=value < CLAIMED
            and any(judged.get(h, one.metric).is_claimed for h in (one.first, one.second)),
        )
        for one, value in zip(found, q, strict=True)
    ]
    tested.sort(key=lambda one: -one.gain)
    return Interactions(tested, pairs - len(tested))


def _of_metric(metric: Metric, design: Design, y: Float[np.ndarray, " n"]) -> Iterator[Interaction]:
    less = residual_squares(design.x, y)
    total = float(((y - y.mean()) ** 2).sum())
    for a, b in combinations(design.factors, 2):
        if not (a.estimable and b.estimable) or _empty(a, b) > MOST_EMPTY:
            continue
        x = np.hstack([design.x, products(design, a, b)])
        df = int(np.linalg.matrix_rank(x)) - design.x.shape[1]
        residual_df = design.residual_df - df
        if df < 1 or residual_df < FEWEST_RESIDUAL:
            continue
        full = residual_squares(x, y)
        f, p = f_test(less, full, df, residual_df, total)
        yield Interaction(
            a.hyperparameter,
            b.hyperparameter,
            metric,
            max(less - full, 0.0) / total,
            f,
            df,
            residual_df,
            p,
            np.nan,
            is_claimed=False,
        )


def products(design: Design, a: Factor, b: Factor) -> Float[np.ndarray, "n c"]:
    """The columns of a pair's interaction: every column of one by every one of the other."""
    left, right = design.x[:, a.columns], design.x[:, b.columns]
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), -1)


def _empty(a: Factor, b: Factor) -> float:
    """Share of the pair's cells without an observation."""
    both = (a.codes >= 0) & (b.codes >= 0)
    occupied = len(set(zip(a.codes[both], b.codes[both], strict=True)))
    return 1 - occupied / (len(a.levels) * len(b.levels))
