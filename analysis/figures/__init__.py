"""The pictures of a report, as PNG files that come out the same every time."""

from pathlib import Path

from analysis.figures import (
    curves,
    early,
    effects,
    forest,
    groups,
    heatmap,
    matched,
    pareto,
    ranks,
    response,
    status_map,
    style,
)
from analysis.study import Study

KINDS = (
    status_map,
    pareto,
    ranks,
    matched,
    response,
    heatmap,
    effects,
    forest,
    curves,
    groups,
    early,
)


def draw(study: Study, folder: Path) -> frozenset[str]:
    """Draw what the sweep has data for; returns the figures' names, without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    with style.applied():
        return frozenset(name for kind in KINDS for name in kind.draw(study, folder))
