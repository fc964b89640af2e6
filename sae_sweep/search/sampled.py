"""Searches that draw: budget, cells and seeds around a rule that proposes values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search.blocks import SEEDS, Point
from sae_sweep.search.cells import Cell, Space, Values
from sae_sweep.search.protocol import Told


@dataclass
class Draw:
    """A configuration that was named, with one trial per seed."""

    values: Values
    pending: set[str]
    """Assignments, as canonical JSON, whose trials have not ended."""
    told: list[Told] = field(default_factory=list)


class Proposal(NamedTuple):
    """A rule's proposal for a cell, given its draws."""

    values: Values | None = None
    """Values to train next; None to wait for running trials."""
    closed: str | None = None
    """Why nothing more is to be trained in this cell."""
    note: str | None = None
    """A message."""


class Proposer(Protocol):
    """The rule of a search."""

    def propose(
        self, cell: Cell, draws: Sequence[Draw], accept: Callable[[Values], bool]
    ) -> Proposal:
        """Name the next configuration of a cell.

        Args:
            cell: what is fixed, and what is drawn.
            draws: what was asked for in this cell, in order, with what came of it.
            accept: whether a configuration is new and not excluded.
        """


class SampledSearch:
    """Asks a rule for configurations, cell by cell, until the budget is spent."""

    def __init__(self, space: Space, trials: int, proposer: Proposer) -> None:
        """Begin with no draws.

        Raises:
            BadInput: the budget does not reach every cell.
        """
        least = len(space.cells) * space.seeds
        if trials < least:
            raise BadInput(
                f"search.trials={trials} does not reach the {len(space.cells)} cells of the grid "
                f"axes with sweep.seeds={space.seeds}: raise it to {least} or more, or name fewer "
                "axes in search.per"
            )
        self._space = space
        self._proposer = proposer
        self._draws: list[list[Draw]] = [[] for _ in space.cells]
        self._open = list(range(len(space.cells)))
        self._left = trials // space.seeds
        self._planned = self._left * space.seeds
        self._notes: list[str] = []

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent or every cell is closed."""
        return self._left <= 0 or not self._open

    @property
    def planned(self) -> int:
        """The budget."""
        return self._planned

    @property
    def ready(self) -> int:
        """None: each depends on earlier outcomes."""
        return 0

    def notes(self) -> list[str]:
        """Messages of rules that closed a cell."""
        said, self._notes = self._notes, []
        return said

    def resume(self, assignment: dict[str, Any]) -> Point:
        """Register a point that an earlier start has named, and return it."""
        index = self._cell_of(assignment)
        cell = self._space.cells[index]
        values = self._space.values(cell, assignment)
        if not any(draw.values == values for draw in self._draws[index]):
            self._add(index, values)
        points = {canonical(one.assignment): one for one in self._space.points(cell, values)}
        return points[canonical(assignment)]

    def ask(self, n: int) -> list[Point]:
        """Name the points of at least one configuration where the rule has one."""
        found: list[Point] = []
        while len(found) < n and not self.exhausted:
            # the cell with the fewest draws first, so that a budget is spread evenly
            for index in sorted(self._open, key=lambda i: len(self._draws[i])):
                if points := self._ask_in(index):
                    found += points
                    break
            else:
                break
        return found

    def _ask_in(self, index: int) -> list[Point]:
        """One configuration of a cell."""
        cell, draws = self._space.cells[index], self._draws[index]

        def accept(values: Values) -> bool:
            new = all(draw.values != values for draw in draws)
            return new and bool(self._space.points(cell, values))

        values, closed, note = self._proposer.propose(cell, draws, accept)
        self._notes += [text for text in (note, closed) if text is not None]
        if closed is not None:
            self._open.remove(index)
            return []
        return [] if values is None else self._add(index, values)

    def _add(self, index: int, values: Values) -> list[Point]:
        points = self._space.points(self._space.cells[index], values)
        pending = {canonical(point.assignment) for point in points}
        self._draws[index].append(Draw(values, pending))
        self._left -= 1
        return points

    def tell(self, assignment: dict[str, Any], told: Told) -> None:
        """Register the outcome of a point's trial."""
        name = canonical(assignment)
        for draw in self._draws[self._cell_of(assignment)]:
            if name in draw.pending:
                draw.pending.remove(name)
                draw.told.append(told)

    def _cell_of(self, assignment: dict[str, Any]) -> int:
        for index, cell in enumerate(self._space.cells):
            fixed = cell.assignment.items()
            if all(canonical(assignment.get(key)) == canonical(value) for key, value in fixed):
                return index
        free = {key: value for key, value in assignment.items() if key not in SEEDS}
        raise ValueError(f"{free} is in no cell of the search")
