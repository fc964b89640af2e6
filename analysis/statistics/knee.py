"""Where a front of two objectives bends."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FLAT = 0.05
"""Distance from the chord below which a front has no knee."""


class Bounds(NamedTuple):
    """Values that are mapped to 0 and 1, one pair per objective, on its scale."""

    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]

    def normalised(self, points: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
        """The points between the bounds, as 0 to 1."""
        return (points - self.low) / (self.high - self.low)


class Knee(NamedTuple):
    """The point of a front that lies farthest below the line between its ends."""

    place: int
    """Its row."""
    distance: float
    """From that line, of the normalised objectives."""


def bounds(points: Float[np.ndarray, "n m"]) -> Bounds | None:
    """The extremes of all points; None where an objective has no range, or none that is finite."""
    if not len(points):
        return None
    found = Bounds(points.min(axis=0), points.max(axis=0))
    ranges = found.high - found.low if np.isfinite(points).all() else np.zeros(1)
    return found if (ranges > 0).all() else None


def knee(front: Float[np.ndarray, "n 2"]) -> Knee | None:
    """The knee of a front; None for fewer than three points, or a front that is all but straight.

    Args:
        front: its points, normalised by the bounds of all points, ascending in one objective.
    """
    if len(front) < 3:
        return None
    chord, offsets = front[-1] - front[0], front - front[0]
    # positive on the side of the ideal point, whichever end comes first
    cross = chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0]
    below = -cross * np.sign(chord[0]) / np.hypot(*chord)
    place = int(below.argmax())
    return Knee(place, float(below[place])) if below[place] >= FLAT else None
