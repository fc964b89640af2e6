"""What each hyperparameter goes with, and at which levels."""

from analysis import contrast, scales
from analysis.blocks import Block
from analysis.effects import FEWEST, RESAMPLES, Effect, effect
from analysis.hyperparameters import Hyperparameter
from analysis.levels import Level, levels
from analysis.markdown import MISSING, counted, escaped, listed, number, table
from analysis.sections.pictures import picture
from analysis.study import Study
from sae_sweep.records import Metric

DISAGREE = 0.2
"""Distance of Pearson's from Spearman's correlation from which the report says so."""


def effects(study: Study) -> list[Block]:
    """A table a main metric: correlations with every hyperparameter, best and worst level."""
    if not study.hyperparameters:
        return ["## Effects of the hyperparameters\n\nNo setting varies in this sweep."]
    if study.ranked.empty:
        return ["## Effects of the hyperparameters\n\nNo trial is ranked yet."]
    logs = [one.name for one in study.hyperparameters if one.is_log]
    scale = f"; of {escaped(listed(logs))} the logarithm is used" if logs else ""
    note = (
        f"Over the {counted(len(study.ranked), 'ranked trial')}. Correlations are taken on the "
        f"metric's scale{scale}. In brackets: 95 % bootstrap interval over configurations "
        f"({RESAMPLES} draws; none below {FEWEST} configurations). Levels are compared by their "
        f"means: {_mean_names(study.main_metrics)}. Associations, not causes: other settings may "
        "differ between the levels."
    )
    parts = ["## Effects of the hyperparameters", note]
    for metric in study.main_metrics:
        rows = [_effect_row(effect(study, one, metric)) for one in study.hyperparameters]
        header = ["hyperparameter", "n", "Pearson", "Spearman", "best level", "worst level", "note"]
        better = "higher" if metric.direction == "up" else "lower"
        parts += [f"### {metric.name} ({better} is better)", table(header, rows)]
        parts += picture(study, f"effects_{metric.name}", f"{metric.name} by hyperparameter")
    return [*parts]


def _mean_names(metrics: list[Metric]) -> str:
    return listed([f"{scales.MEAN_NAMES[one.scale]} of {one.name}" for one in metrics])


def _effect_row(found: Effect) -> list[str]:
    interval = ""
    if found.interval is not None:
        interval = f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    known = found.spearman == found.spearman
    notes = [found.remark] if found.remark else []
    if known and abs(found.pearson - found.spearman) > DISAGREE:
        notes.append("the two disagree: outliers or shape")
    return [
        escaped(found.hyperparameter.name),
        f"{found.n:,}",
        f"{found.pearson:.2f}" if known else MISSING,
        f"{found.spearman:.2f}{interval}" if known else MISSING,
        *([_end(one) for one in found.ends] if found.ends else [MISSING, MISSING]),
        "; ".join(notes),
    ]


def _end(level: Level) -> str:
    return f"{escaped(level.name)} ({number(level.mean, 3)}, n={level.n:,})"


def level_tables(study: Study) -> list[Block]:
    """A table a hyperparameter: every level for every main metric."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    note = (
        "`trials` counts all at the level, `diverged` those that diverged; the figures are over "
        f"the `n` ranked ones. The mean is the {_mean_names(study.main_metrics)}."
    )
    tables = [
        f"### {escaped(one.name)}\n\n{_level_table(study, one)}" for one in study.hyperparameters
    ]
    return ["## Levels", note, *tables]


def _level_table(study: Study, hyperparameter: Hyperparameter) -> str:
    rows = [
        [
            metric.name if i == 0 else "",
            escaped(one.name),
            f"{one.trials:,}",
            f"{one.diverged:,}",
            f"{one.n:,}",
            *map(number, (one.median, one.mean, one.smallest, one.largest)),
        ]
        for metric in study.main_metrics
        for i, one in enumerate(levels(study, hyperparameter, metric))
    ]
    name = escaped(hyperparameter.name)
    header = ["metric", name, "trials", "diverged", "n", "median", "mean", "min", "max"]
    return table(header, rows, left=2)


def auxiliary_loss(study: Study) -> list[Block]:
    """With against without the auxiliary loss, in matched pairs and overall."""
    found = contrast.auxiliary(study)
    if not found or study.ranked.empty:
        return []
    note = (
        "A pair is a ranked trial with the auxiliary loss on and the one with it off whose every "
        "other setting, seeds included, is the same. `improved` counts the pairs in which on is "
        "better. The means beside it are over all ranked trials, paired or not: "
        f"{_mean_names([one.metric for one in found])}."
    )
    rows = [
        [
            one.metric.name,
            f"{one.pairs:,}",
            _signed(one.median_difference),
            f"{one.improved:,} of {one.pairs:,}",
            f"{one.equal:,} of {one.pairs:,}",
            f"{number(one.mean_off)} (n={one.n_off:,})",
            f"{number(one.mean_on)} (n={one.n_on:,})",
        ]
        for one in found
    ]
    header = ["metric", "pairs", "median of on - off", "improved", "equal", "mean off", "mean on"]
    return ["## Auxiliary loss: on against off", note, table(header, rows)]


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"
