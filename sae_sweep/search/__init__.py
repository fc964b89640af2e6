"""Which points a sweep trains, and in what order."""

from sae_sweep.search.space import Point, expand, look_up

__all__ = ["Point", "expand", "look_up"]
