"""The points of a sweep that depend on no outcome: grids and random draws, on plain dicts."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sae_sweep.config import SearchConfig, SweepConfig
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical
from sae_sweep.search.blocks import (
    Block,
    Point,
    apply,
    holds,
    read_blocks,
    read_exclusions,
    trial_groups,
)


class _Draft(NamedTuple):
    """A point that later axes may still split."""

    assignment: dict[str, Any]
    draw: int | None
    """Number of its draw within its cell, once a drawn axis has been met."""


def expand(base: dict[str, Any], sweep: SweepConfig, search: SearchConfig) -> list[Point]:
    """List the points of a sweep.

    The axes that are not drawn make cells, by product in the order written, the first slowest,
    tied ones after the others. Every cell has `search.samples` draws of the drawn axes, each
    value a hash of the search's seed, the cell, the number of the draw and the setting: another
    value on an axis, or more samples, changes no draw that was there before. Then come the
    conditional axes in order, then seeds.

    Args:
        base: settings by group, plain values only; other groups than a trial's are ignored.
        sweep: the axes.
        search: whether and how often to draw.

    Raises:
        BadInput: for axes that make no sense, alone or together.
    """
    base = trial_groups(base)
    blocks = read_blocks(base, sweep)
    _refuse_draws_in_a_grid(blocks, search)

    drafts = [_Draft({}, None)]
    for block in blocks:
        drafts = [grown for draft in drafts for grown in _grow(draft, block, base, search)]
    points = [Point(draft.assignment, apply(base, draft.assignment)) for draft in drafts]
    excluded = read_exclusions(sweep)
    kept = [one for one in points if not any(holds(drop, one.settings) for drop in excluded)]
    if not kept:
        raise BadInput(
            f"sweep.exclude={sweep.exclude} leaves none of {len(points)} points: drop a line of it"
        )
    return kept


def _grow(
    draft: _Draft, block: Block, base: dict[str, Any], search: SearchConfig
) -> Iterator[_Draft]:
    if block.condition and not holds(block.condition, apply(base, draft.assignment)):
        yield draft
        return
    twice = [key for key in block.keys if key in draft.assignment]
    if twice:
        raise BadInput(
            f"{twice[0]}: two conditions of sweep.when hold at {draft.assignment} and both set it; "
            "let them exclude each other"
        )
    draws: Iterable[int | None] = [draft.draw]
    if block.drawn and draft.draw is None:
        draws = range(search.samples)
    for parts in itertools.product(*block.levels):
        cell = dict(draft.assignment)
        for part in parts:
            cell.update(part)
        name = canonical(cell) if block.drawn else ""
        for draw in draws:
            values = {
                axis.key: axis.draw(_uniform(f"{search.seed}|{name}|{draw}|{axis.key}"))
                for axis in block.drawn
            }
            yield _Draft({**cell, **values}, draw)


def _uniform(name: str) -> float:
    """Hash a name to a number of [0, 1)."""
    digest = hashlib.sha256(name.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _refuse_draws_in_a_grid(blocks: list[Block], search: SearchConfig) -> None:
    for axis in [axis for block in blocks for axis in block.drawn]:
        if search.kind == "grid":
            raise BadInput(
                f"{axis.key}={{{axis.word}: {axis.values}}} is drawn, and search.kind=grid draws "
                "nothing: use search=random, or list the values with grid"
            )
