"""The report's contents: its topics in the order of the page."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from analysis.context import ReportContext
from analysis.page import style
from analysis.page.blocks import Blocks, Section
from analysis.page.style import Drawn
from analysis.study.table import Study
from analysis.topics import (
    best,
    comparison,
    coverage,
    curves,
    equal_l0,
    failures,
    grids,
    ground_truth,
    importance,
    imported,
    in_model,
    interactions,
    levels,
    limitations,
    next_runs,
    noise,
    overview,
    pareto,
    probing,
    recommended,
    records,
    reproducibility,
    right_l0,
    searching,
    stability,
    switches,
    tradeoffs,
)
from analysis.topics.effects import section as effects
from analysis.topics.groups import section as groups
from analysis.topics.response import section as response
from analysis.topics.scorecard import section as scorecard
from analysis.topics.stopping import early
from analysis.topics.stopping import section as stopping


class Topic(NamedTuple):
    """A section of the report and its figures."""

    section: Section
    draw: Callable[[Study, Path], Iterable[Drawn]] | None = None
    """Draws what the sweep has data for into a folder."""
    group: str | None = None
    """The heading under which report.html folds it and those after it; None: as the one before."""


TOPICS = (
    Topic(overview.what_was_run, group="Results"),
    Topic(imported.imported),
    Topic(recommended.recommended),
    Topic(failures.failure_section),
    Topic(searching.search),
    Topic(response.penalty_response, response.draw),
    Topic(pareto.pareto_front, pareto.draw),
    Topic(in_model.in_model, in_model.draw),
    Topic(ground_truth.ground_truth, ground_truth.draw),
    Topic(right_l0.right_l0),
    Topic(stability.stability),
    Topic(equal_l0.equal_sparsity, equal_l0.draw),
    Topic(best.top_tables, best.draw),
    Topic(noise.noise_floor),
    Topic(effects.effects, effects.draw, group="Effects of the settings"),
    Topic(tradeoffs.tradeoffs),
    Topic(levels.level_tables, levels.draw),
    Topic(switches.switches),
    Topic(interactions.interaction_section, interactions.draw),
    Topic(importance.importance, importance.draw),
    Topic(coverage.coverage),
    Topic(interactions.heatmaps),
    Topic(grids.grid_tables),
    Topic(grids.utilisation, group="Latents and training"),
    Topic(scorecard.quality),
    Topic(groups.by_group, groups.draw),
    Topic(probing.probing, probing.draw),
    Topic(comparison.side_by_side),
    Topic(curves.training_curves, curves.draw),
    Topic(stopping.stopping, early.draw),
    Topic(limitations.limits, group="Limits and records"),
    Topic(next_runs.next_steps),
    Topic(records.status, records.draw),
    Topic(records.checks),
    Topic(overview.statistics),
    Topic(overview.definitions),
    Topic(reproducibility.files),
    Topic(reproducibility.reproducibility),
)


def compose(context: ReportContext) -> dict[str, list[Blocks]]:
    """The sections that are not empty, by group."""
    found: dict[str, list[Blocks]] = {}
    group = ""
    for topic in TOPICS:
        group = topic.group or group
        found.setdefault(group, [])
        if blocks := topic.section(context):
            found[group].append(blocks)
    return found


def draw(study: Study, folder: Path) -> dict[str, str]:
    """Draw every topic's figures as PNG; the same records give the same bytes.

    Returns:
        Each figure's caption by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with style.applied():
        drawn = [one for topic in TOPICS if topic.draw for one in topic.draw(study, folder)]
    return {one.name: one.caption for one in drawn}
