"""What every search promises: it says what to train next, and is told what came of it."""

from typing import Any, NamedTuple, Protocol

from sae_sweep.records import Status
from sae_sweep.search.blocks import Point


class Told(NamedTuple):
    """How a trial ended, as a search needs it."""

    status: Status
    metrics: dict[str, float]
    """Final metrics, and the costs that its settings state; empty unless done."""
    course: dict[str, dict[int, float]]
    """Of a stopped trial the metrics that were asked for, by step."""


class Search(Protocol):
    """Says what is trained next.

    A point is known by its assignment. What a search says depends on its settings and on what it
    was told, not on how often the sweep was started.
    """

    @property
    def exhausted(self) -> bool:
        """Whether it will never ask for another point."""

    @property
    def planned(self) -> int:
        """Trials that it asks for at most."""

    @property
    def ready(self) -> int:
        """How many of them depend on no outcome, and are checked before the first one starts."""

    def resume(self, assignment: dict[str, Any]) -> Point:
        """Take note of a point that an earlier start has asked for, and return it.

        Raises:
            ValueError: it is not a point of this search.
        """

    def ask(self, n: int) -> list[Point]:
        """Name at most n points to train now; fewer where others must be told first.

        None is named only while some are under way, or when it is exhausted.
        """

    def tell(self, assignment: dict[str, Any], told: Told) -> None:
        """Take note of how a point's trial ended."""

    def notes(self) -> list[str]:
        """What is to be said since it was last asked for this: targets reached, refusals."""


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
