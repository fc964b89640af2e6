"""Builds the search that the settings ask for."""

from typing import Any

from sae_sweep.config import SearchConfig, SweepConfig
from sae_sweep.search.blocks import Point
from sae_sweep.search.cells import Space, end_points, read_space
from sae_sweep.search.objective import degenerate, read_objective
from sae_sweep.search.protocol import Listed, Search
from sae_sweep.search.sampled import SampledSearch
from sae_sweep.search.space import expand
from sae_sweep.search.target import SearchContext, TargetProposer, refuse_space

LISTED = ("grid", "random")
"""Kinds of search whose points depend on no outcome."""


def examples(base: dict[str, Any], sweep: SweepConfig, search: SearchConfig) -> list[Point]:
    """Points to check before a sweep starts: all, or both ends of every axis that is drawn.

    Raises:
        BadInput: for axes that make no sense, alone, together or in this search.
    """
    if search.kind in LISTED:
        return expand(base, sweep, search)
    return end_points(_space(base, sweep, search))


def build_search(
    base: dict[str, Any], sweep: SweepConfig, search: SearchConfig, around: SearchContext
) -> Search:
    """Make the search of a sweep.

    Args:
        base: settings by group, plain values only; other groups than a trial's are ignored.
        sweep: the axes.
        search: how points are found.
        around: the trials that it may learn from.

    Raises:
        BadInput: for axes that make no sense, alone, together or in this search.
    """
    if search.kind in LISTED:
        return Listed(expand(base, sweep, search))
    space = _space(base, sweep, search)
    if search.kind == "target":
        return SampledSearch(space, search.trials, TargetProposer(space, search, around))
    # imported here: Optuna takes a second that a grid need not spend
    from sae_sweep.search.optuna import OptunaProposer

    proposer = OptunaProposer(space, search, read_objective(search))
    return SampledSearch(space, search.trials, proposer)


def _space(base: dict[str, Any], sweep: SweepConfig, search: SearchConfig) -> Space:
    space = read_space(base, sweep, search)
    if search.kind == "target":
        refuse_space(space)
    return space


def definition(sweep: SweepConfig, search: SearchConfig) -> dict[str, Any] | None:
    """What must stay equal for a search to resume under one name; None where nothing must."""
    if search.kind in LISTED:
        return None
    asked = {"kind", "objective", "target", "target_count", "constraints", "per"}
    axes = {"space", "zip", "when", "exclude", "seeds"}
    return {
        "search": search.model_dump(mode="json", include=asked),
        "sweep": sweep.model_dump(mode="json", by_alias=True, include=axes),
    }


def warnings(sweep: SweepConfig, search: SearchConfig) -> list[str]:
    """Warnings: search settings that are allowed but rarely intended."""
    drawn = {key for key, axis in sweep.space.items() if "grid" not in axis}
    found = degenerate(search, drawn)
    return [found] if found else []
