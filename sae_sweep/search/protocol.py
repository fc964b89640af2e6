"""The interface of every search: it names points to train and receives their outcomes."""

from typing import Any, NamedTuple, Protocol

from sae_sweep.records import Status
from sae_sweep.search.blocks import Point


class Told(NamedTuple):
    """The outcome of a trial, as a search needs it."""

    status: Status
    metrics: dict[str, float]
    """Final metrics, and the costs that its settings state; empty unless done."""
    course: dict[str, dict[int, float]]
    """Of a stopped trial the metrics that were asked for, by step."""


class Search(Protocol):
    """Names the points to train.

    A point is known by its assignment. What a search says depends on its settings and on what it
    was told, not on how often the sweep was started.
    """

    @property
    def exhausted(self) -> bool:
        """Whether it will name no further point."""

    @property
    def planned(self) -> int:
        """Upper bound of the trials that it names."""

    @property
    def ready(self) -> int:
        """How many of them depend on no outcome, and are checked before the first one starts."""

    def resume(self, assignment: dict[str, Any]) -> Point:
        """Register a point that an earlier start has named, and return it.

        Raises:
            ValueError: it is not a point of this search.
        """

    def ask(self, n: int) -> list[Point]:
        """Name at most n points to train now; fewer where outcomes are needed first.

        None is named only while some are under way, or when it is exhausted.
        """

    def tell(self, assignment: dict[str, Any], told: Told) -> None:
        """Register the outcome of a point's trial."""

    def notes(self) -> list[str]:
        """Messages since the last call: targets reached, refusals."""


class Listed:
    """Every point is known at the start: grids and random draws."""

    def __init__(self, points: list[Point]) -> None:
        self._points = points
        self._next = 0

    @property
    def exhausted(self) -> bool:
        """Whether every point has been named."""
        return self._next == len(self._points)

    @property
    def planned(self) -> int:
        """The number of points."""
        return len(self._points)

    @property
    def ready(self) -> int:
        """All of them."""
        return len(self._points)

    def resume(self, assignment: dict[str, Any]) -> Point:
        """Never asked for: every start names all points again."""
        raise ValueError(f"{assignment}: the points of a grid are not taken up, but named again")

    def ask(self, n: int) -> list[Point]:
        """Name the next n points."""
        found = self._points[self._next : self._next + n]
        self._next += len(found)
        return found

    def tell(self, assignment: dict[str, Any], told: Told) -> None:
        """Do nothing: the points do not depend on outcomes."""

    def notes(self) -> list[str]:
        """Nothing is decided here."""
        return []
