"""The cells of a sampled search: grid axes fixed, the other axes left to a sampler."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from sae_sweep.config import SearchConfig, SweepConfig, nearest
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search.axes import Axis, rounded
from sae_sweep.search.blocks import (
    SEEDS,
    Block,
    Condition,
    Point,
    apply,
    holds,
    read_blocks,
    read_exclusions,
    trial_groups,
)

Values = dict[str, Any]
"""Drawn axes: dotted setting to value; tied ones by their keys joined, to the number of a row."""


class Drawn(NamedTuple):
    """Axes that are drawn where a condition holds."""

    condition: Condition
    axes: list[Axis]


class Cell(NamedTuple):
    """Fixed settings, and what is drawn beside them."""

    assignment: dict[str, Any]
    drawn: list[Drawn]
    tied: dict[str, list[dict[str, Any]]]
    """Rows of drawn tied axes, by their joined keys."""


class Space(NamedTuple):
    """Everything that a search may name."""

    base: dict[str, Any]
    cells: list[Cell]
    excluded: list[Condition]
    seeds: int

    def draw(self, cell: Cell, choose: Callable[[Axis], Any]) -> Values:
        """Let a value be chosen for each axis that exists beside the values before it."""
        values: Values = {}
        for condition, axes in cell.drawn:
            if not condition or holds(condition, self._settings(cell, values)):
                values |= {axis.key: choose(axis) for axis in axes}
        return values

    def assignment(self, cell: Cell, values: Values) -> dict[str, Any]:
        """What the axes say, tied ones each by its own key."""
        assigned = dict(cell.assignment)
        for key, value in values.items():
            assigned |= cell.tied[key][value] if key in cell.tied else {key: value}
        return assigned

    def values(self, cell: Cell, assignment: dict[str, Any]) -> Values:
        """The drawn values of an assignment.

        Raises:
            ValueError: it lacks an axis of the cell, or has a value that the axis has not.
        """

        def choose(axis: Axis) -> Any:
            rows = cell.tied.get(axis.key)
            if rows is not None:
                return rows.index({key: assignment.get(key) for key in rows[0]})
            if axis.key not in assignment:
                raise ValueError(f"{axis.key} is missing in {assignment}")
            return assignment[axis.key]

        return self.draw(cell, choose)

    def points(self, cell: Cell, values: Values) -> list[Point]:
        """The point of each seed; none where the point is excluded."""
        assigned = self.assignment(cell, values)
        applied = apply(self.base, assigned)
        if any(holds(drop, applied) for drop in self.excluded):
            return []
        if self.seeds == 1:
            return [Point(assigned, applied)]
        seeded = [{**assigned, **dict.fromkeys(SEEDS, seed)} for seed in range(self.seeds)]
        return [Point(one, apply(self.base, one)) for one in seeded]

    def _settings(self, cell: Cell, values: Values) -> dict[str, Any]:
        return apply(self.base, self.assignment(cell, values))


def read_space(base: dict[str, Any], sweep: SweepConfig, search: SearchConfig) -> Space:
    """Read the axes of a sweep for a search that draws.

    Raises:
        BadInput: for axes that make no sense, alone, together or in this search.
    """
    base = trial_groups(base)
    blocks = read_blocks(base, sweep)
    if sweep.seeds > 1:
        blocks.pop()
    per = _separate(blocks, search)
    cells = [Cell({}, [], {})]
    drawn_keys: set[str] = set()
    for block in blocks:
        late = block.condition.keys() & drawn_keys
        cells = [grown for cell in cells for grown in _grow(cell, block, base, per, late)]
        drawn_keys |= {part for one in cells for axes in one.drawn for axis in axes.axes
                       for part in axis.key.split(",")}  # fmt: skip
    if not drawn_keys:
        raise BadInput(
            f"search.kind={search.kind} has nothing to search: give an axis that is drawn, e.g. "
            "'sae.l1_alpha={loguniform:[0.1,100]}', or use search=grid"
        )
    excluded = read_exclusions(sweep)
    fixed = [drop for drop in excluded if not drop.keys() & drawn_keys]
    kept = [
        cell
        for cell in cells
        if not any(holds(drop, apply(base, cell.assignment)) for drop in fixed)
    ]
    if not kept:
        raise BadInput(
            f"sweep.exclude={sweep.exclude} leaves none of {len(cells)} cells: drop a line of it"
        )
    return Space(base, kept, excluded, sweep.seeds)


def _separate(blocks: list[Block], search: SearchConfig) -> set[str]:
    """The grid axes with one study per level."""
    listed = [key for block in blocks for level in block.levels for key in level[0]]
    for key in search.per or []:
        if key not in listed:
            grids = f"the grid axes are {', '.join(listed)}" if listed else "there is none"
            raise BadInput(
                f"search.per={key} is not a grid axis of this sweep: {nearest(key, listed)} "
                f"({grids})"
            )
    return set(listed if search.per is None else search.per)


def _grow(
    cell: Cell, block: Block, base: dict[str, Any], per: set[str], late: set[str]
) -> Iterator[Cell]:
    """Split a cell by the grid axes of a block, and add its drawn ones."""
    if late and any(set(level[0]) & per for level in block.levels):
        raise BadInput(
            f"{', '.join(block.keys)} are grid axes that exist only for some draws of "
            f"{', '.join(sorted(late))}: make them choice, or that one a grid axis"
        )
    if not late and block.condition and not holds(block.condition, apply(base, cell.assignment)):
        yield cell
        return
    split = [level for level in block.levels if set(level[0]) & per]
    axes, tied = list(block.drawn), dict(cell.tied)
    for level in block.levels:
        if level in split:
            continue
        key = ",".join(level[0])
        if len(level[0]) == 1:
            axes.append(Axis(key, "choice", [row[key] for row in level]))
        else:
            tied[key] = level
            axes.append(Axis(key, "choice", list(range(len(level)))))
    drawn = [*cell.drawn, Drawn(block.condition if late else {}, axes)] if axes else cell.drawn
    for parts in itertools.product(*split):
        assignment = dict(cell.assignment)
        for part in parts:
            assignment |= part
        yield Cell(assignment, drawn, tied)


def _end(i: int, axis: Axis) -> Any:
    value = axis.values[min(i, len(axis.values) - 1)]
    return rounded(value, axis) if axis.word in ("uniform", "loguniform") else value


def end_points(space: Space) -> list[Point]:
    """Points of every cell that touch both ends of every axis and every choice."""
    found: dict[str, Point] = {}
    for cell in space.cells:
        most = max(len(axis.values) for _, axes in cell.drawn for axis in axes)
        for i in range(most):
            values = space.draw(cell, partial(_end, i))
            for point in space.points(cell, values):
                found.setdefault(canonical(point.assignment), point)
    return list(found.values())
