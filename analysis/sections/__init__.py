"""The report's sections, in the order of the page."""

from analysis.blocks import Section
from analysis.sections import (
    best,
    effects,
    footer,
    imported,
    overview,
    pictures,
    response,
    searching,
)

SECTIONS: tuple[Section, ...] = (
    overview.header,
    imported.imported,
    overview.status,
    overview.definitions,
    overview.statistics,
    searching.search,
    response.width_law,
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
