"""The pictures of a report, as PNG files that come out the same every time."""

from pathlib import Path

from analysis.figures import curves, effects, forest, heatmap, pareto, style
from analysis.study import Study


def draw(study: Study, folder: Path) -> frozenset[str]:
    """Draw what the sweep has data for; returns the figures' names, without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    with style.applied():
        drawn = [
            *pareto.draw(study, folder),
            *heatmap.draw(study, folder),
            *effects.draw(study, folder),
            *forest.draw(study, folder),
            *curves.draw(study, folder),
        ]
    return frozenset(drawn)
