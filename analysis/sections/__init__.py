"""The report's sections, in the order of the page."""

from analysis.blocks import Section
from analysis.sections import (
    best,
    comparison,
    effects,
    footer,
    grids,
    groups,
    matched,
    overview,
    pictures,
    response,
    scorecard,
    searching,
)

SECTIONS: tuple[Section, ...] = (
    overview.header,
    overview.status,
    overview.definitions,
    overview.statistics,
    searching.search,
    response.l1_response,
    effects.effects,
    effects.level_tables,
    effects.auxiliary_loss,
    effects.noise_floor,
    best.top_tables,
    best.pareto_front,
    matched.equal_sparsity,
    pictures.heatmaps,
    grids.grid_tables,
    grids.utilisation,
    pictures.training_curves,
    scorecard.quality,
    groups.by_group,
    best.recommended,
    comparison.side_by_side,
    footer.files,
    footer.reproducibility,
)
