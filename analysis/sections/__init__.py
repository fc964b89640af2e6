"""The report's sections: functions from the study to Markdown, empty where they say nothing."""

from collections.abc import Callable

from analysis.sections import best, effects, footer, overview, pictures, searching
from analysis.study import Study

SECTIONS: tuple[Callable[[Study], str], ...] = (
    overview.header,
    overview.status,
    overview.definitions,
    overview.statistics,
    searching.search,
    effects.effects,
    effects.level_tables,
    effects.auxiliary_loss,
    effects.noise_floor,
    best.top_tables,
    best.pareto_front,
    pictures.heatmaps,
    pictures.training_curves,
    best.recommended,
    footer.files,
    footer.reproducibility,
)
"""In the order of the page."""
