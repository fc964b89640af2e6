"""The Pareto front."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Direction = Literal["down", "up"]


def pareto(
    points: Float[np.ndarray, "n m"], directions: Sequence[Direction]
) -> Bool[np.ndarray, " n"]:
    """Mark the Pareto front: points that no other dominates.

    One point dominates another when it is as good in every objective and better in one, so equal
    points stand or fall together. A point with NaN is not comparable and never on the front.

    Args:
        points: one row a point, one column an objective.
        directions: which way each objective is better.

    Raises:
        ValueError: directions and columns differ in number.
    """
    if len(directions) != points.shape[1]:
        raise ValueError(f"{points.shape[1]} objectives, but directions={list(directions)}")
    costs = points * np.array([1.0 if way == "down" else -1.0 for way in directions])
    front = np.zeros(len(points), dtype=bool)
    # in lexicographic order only an earlier point can dominate, and if any does, one on the front
    for i in np.lexsort(costs.T[::-1]) if costs.size else ():
        if np.isnan(costs[i]).any():
            continue
        rivals = costs[front]
        beaten = (rivals <= costs[i]).all(axis=1) & (rivals < costs[i]).any(axis=1)
        front[i] = not beaten.any()
    return front
