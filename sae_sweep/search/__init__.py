"""Which points a sweep trains, and in what order."""

from sae_sweep.search.blocks import SEEDS, Point, look_up
from sae_sweep.search.build import LISTED, build_search, definition, examples, warnings
from sae_sweep.search.objective import Objective, read_objective
from sae_sweep.search.protocol import Search, Told
from sae_sweep.search.space import expand
from sae_sweep.search.target import SearchContext

__all__ = [
    "LISTED",
    "SEEDS",
    "Objective",
    "Point",
    "Search",
    "SearchContext",
    "Told",
    "build_search",
    "definition",
    "examples",
    "expand",
    "look_up",
    "read_objective",
    "warnings",
]
