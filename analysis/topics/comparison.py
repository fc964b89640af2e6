"""Trials side by side: differing settings and differences of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.context import ReportContext
from analysis.findings import noise
from analysis.findings.ranking import picks
from analysis.page.blocks import Block
from analysis.page.markdown import code, escaped, number, table
from analysis.study import scales
from analysis.study.settings import flattened, text
from analysis.study.table import Study, load
from sae_sweep.records import METRICS, Metric, TrialRecord
from sae_sweep.records.store import Reader

IDENTITY = ("uid", "label", "status")
COMPARED = ("fvu", "l0", "dead_features")


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two trials."""

    metric: str
    label: str
    uid: str
    value: float
    other_label: str
    other_uid: str
    other: float
    better: bool | None
    """By the metric's direction; None where neither is better."""
    apart: bool | None
    """Whether further than the noise floor of two single trials; None where that is unknown."""

    @property
    def words(self) -> str:
        """The signed difference, and whether it exceeds the noise."""
        one, other = f"{code(self.label)} {self.uid}", f"{code(self.other_label)} {self.other_uid}"
        values = f"{number(self.value)} against {number(self.other)}"
        if self.value == self.other:
            return f"{self.metric}: {one} equals {other}, {number(self.value)}"
        side = "above" if self.value > self.other else "below"
        better = {True: ", which is better,", False: ", which is worse,", None: ","}[self.better]
        told = {
            True: f"{better} {values}; further apart than the noise floor",
            False: f", {values}; within the noise floor, so not told apart",
            None: f", {values}; noise unknown",
        }[self.apart]
        return f"{self.metric}: {one} lies {self._distance} {side} {other}{told}"

    @property
    def _distance(self) -> str:
        if METRICS[self.metric].unit == "share":
            return f"{number(100 * abs(self.value - self.other), 3)} pp"
        if self.other == 0:
            return number(abs(self.value), 3)
        return f"{number(100 * abs(self.value / self.other - 1), 3)} %"


def differing(trials: Sequence[TrialRecord]) -> list[list[str]]:
    """The settings in which trials differ: rows of the key and one text per trial."""
    flat = [dict(flattened(trial.config)) for trial in trials]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [[key, *(text(settings.get(key)) for settings in flat)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def finals(trials: Sequence[TrialRecord]) -> list[list[str]]:
    """The final metrics that any trial has: rows of the name and one text per trial."""
    return [
        [name, *(number(trial.final.get(name)) for trial in trials)]
        for name in METRICS
        if any(name in trial.final for trial in trials)
    ]


def differences(trials: Sequence[TrialRecord], within: Study | None) -> list[Difference]:
    """Every trial against the first, metric by metric.

    Args:
        trials: two or more.
        within: a study whose noise floor holds for them.
    """
    first, *others = trials
    return [
        _difference(METRICS[name], (one, value), (first, reference), within)
        for name in COMPARED
        for one in others
        if (value := one.final.get(name)) is not None
        and (reference := first.final.get(name)) is not None
    ]


def _difference(
    metric: Metric,
    one: tuple[TrialRecord, float],
    other: tuple[TrialRecord, float],
    within: Study | None,
) -> Difference:
    (trial, value), (reference, against) = one, other
    floor = None
    if within is not None and metric.name in within.scaled:
        floor = noise.floor(within, metric)
    scaled = scales.onto(metric, np.array([value, against], dtype=np.float64))
    apart = None
    if floor is not None and not np.isnan(scaled).any():
        apart = bool(abs(scaled[0] - scaled[1]) > floor.detectable)
    lower = metric.direction == "down"
    better = None if metric.direction == "none" else (value < against) == lower
    who = trial.label, trial.uid, value, reference.label, reference.uid, against
    return Difference(metric.name, *who, better, apart)


def compare(trials: list[TrialRecord], within: Study | None = None) -> str:
    """The comparison as plain text: a table, and one line per difference.

    The table has one column per trial, one row per setting that differs and a final metric.
    """
    rows = [[name, *(str(getattr(trial, name)) for trial in trials)] for name in IDENTITY]
    rows += [*differing(trials), *finals(trials)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(trials) + 1)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    lines = [line.rstrip() for line in padded]
    told = [one.words.replace("`", "") for one in differences(trials, within)]
    return "\n".join([*lines, *([""] if told else []), *told])


def common_study(trials: Sequence[TrialRecord], reader: Reader) -> Study | None:
    """The newest sweep that has all the trials; None where there is none."""
    wanted = {trial.uid for trial in trials}
    for run in reader.runs():
        sweep = reader.sweep(run.name)
        if wanted <= {member.trial.uid for member in sweep.members}:
            return load(sweep)
    return None


def draw(trials: list[TrialRecord], reader: Reader, folder: Path) -> list[Path]:
    """Draw the trials' curves over one axis of tokens, one row per metric; empty without curves."""
    from analysis.page import style
    from analysis.topics import curves

    folder.mkdir(parents=True, exist_ok=True)
    with style.applied():
        drawn = curves.aligned(trials, reader.history, folder)
    return [folder / f"{name}.png" for name in drawn]


def side_by_side(context: ReportContext) -> list[Block]:
    """Settings in which the recommended trials differ, their metrics, and their courses."""
    study = context.study
    uids = list(dict.fromkeys(pick.uid for pick in picks(study)))
    if len(uids) < 2:
        return []
    trials = [study.member(uid).trial for uid in uids]
    settings = [[code(key), *map(escaped, values)] for key, *values in differing(trials)]
    metrics = [
        [one.name, *(number(study.value(uid, one.name)) for uid in uids)] for one in study.metrics
    ]
    header = ["", *(f"{code(one.label)} {one.uid}" for one in trials)]
    note = (
        "Settings in which they differ, then final metrics. The sentences put each trial beside "
        "the first. Chosen for a low value, a trial stands lower than it would on new seeds."
    )
    drawn = context.picture("comparison", "The recommended trials over training tokens")
    return [
        "## The recommended trials side by side",
        note,
        table(header, [*settings, *metrics]),
        *differences(trials, study),
        *drawn,
    ]
