"""The report's sections, in the order of the page."""

from analysis.blocks import Section
from analysis.sections import (
    best,
    coverage,
    effects,
    footer,
    importance,
    imported,
    interactions,
    levels,
    overview,
    pictures,
    response,
    searching,
    switches,
    tradeoffs,
)

SECTIONS: tuple[Section, ...] = (
    overview.header,
    imported.imported,
    overview.status,
    overview.definitions,
    overview.statistics,
    searching.search,
    coverage.coverage,
    response.width_law,
    effects.effects,
    tradeoffs.tradeoffs,
    levels.level_tables,
    switches.switches,
    interactions.interaction_section,
    importance.importance,
    effects.noise_floor,
    best.top_tables,
    best.pareto_front,
    pictures.heatmaps,
    pictures.training_curves,
    best.recommended,
    footer.files,
    footer.reproducibility,
)
