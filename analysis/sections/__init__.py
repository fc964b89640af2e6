"""The report's sections, in the order of the page."""

from analysis.blocks import Section
from analysis.sections import (
    best,
    effects,
    footer,
    imported,
    noise,
    overview,
    pareto,
    pictures,
    recommended,
    response,
    searching,
    trials,
)

SECTIONS: tuple[Section, ...] = (
    overview.header,
    imported.imported,
    trials.status,
    trials.checks,
    overview.definitions,
    overview.statistics,
    searching.search,
    response.width_law,
    effects.effects,
    effects.level_tables,
    effects.auxiliary_loss,
    noise.noise_floor,
    best.top_tables,
    pareto.pareto_front,
    pictures.heatmaps,
    pictures.training_curves,
    recommended.recommended,
    recommended.limits,
    recommended.next_steps,
    footer.files,
    footer.reproducibility,
)
