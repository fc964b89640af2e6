"""The quality of the first trials and of each layer, graded by one table of bands."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.context import ReportContext
from analysis.findings.ranking import leaders, picks
from analysis.findings.thresholds import Thresholds
from analysis.page.blocks import Block
from analysis.page.markdown import MISSING, code, counted, escaped, number, table
from analysis.study.table import Study
from analysis.topics.scorecard import grading
from analysis.topics.scorecard.grading import Grade

MOST_TRIALS = 15
MOST_IDS = 20
"""Always-on latents that are named of one trial."""
MOST_LISTED = 40
"""Trials whose always-on latents are named."""

Graded = tuple[str, float, str | None, str | None]
"""Metric, value, grade, band."""


@dataclass(frozen=True)
class TrialGrades:
    """What the table says of one trial."""

    uid: str
    label: str
    grades: tuple[Graded, ...]

    @property
    def words(self) -> str:
        """Each value with its grade and band."""
        return f"{code(self.label)}: {_in_words(self.grades)}"


@dataclass(frozen=True)
class LayerGrades:
    """What the table says of the medians over one layer's trials."""

    layer: int
    trials: int
    grades: tuple[Graded, ...]

    @property
    def words(self) -> str:
        """Each median with its grade and band."""
        of = counted(self.trials, "ranked trial")
        return f"layer {self.layer}, medians of {of}: {_in_words(self.grades)}"


@dataclass(frozen=True)
class CarriesNoInformation:
    """A metric that is the same in every ranked trial."""

    metric: str
    value: float
    trials: int

    @property
    def words(self) -> str:
        """The value."""
        return (
            f"{self.metric} is {number(self.value)} in all {self.trials:,} ranked trials: it "
            "carries no information on which of them to choose"
        )


def _in_words(grades: Sequence[Graded]) -> str:
    parts = [
        f"{metric} {number(value)} "
        + (f"{escaped(grade)} ({band})" if grade is not None else "(not graded)")
        for metric, value, grade, band in grades
    ]
    return "; ".join(parts)


def quality(context: ReportContext) -> list[Block]:
    """The scorecard of the recommended trials and the front, of each layer, and its bands."""
    study = context.study
    if study.ranked.empty:
        return []
    table_of_bands = context.thresholds
    shown = grading.metrics(study, table_of_bands)
    if not shown:
        return []
    note = (
        "The recommended trials, then the first front's, against one table of bands "
        f"({code(table_of_bands.name)}, below). A grade says where a value lies in that table, not "
        "that the trial serves a purpose."
    )
    first = leaders(study)
    grades = {uid: grading.of_trial(study, table_of_bands, uid) for uid in first[:MOST_TRIALS]}
    header = ["trial", *(one.name for one in shown)]
    rows = [[code(_label(study, uid)), *map(_cell, each)] for uid, each in grades.items()]
    recommended = dict.fromkeys(pick.uid for pick in picks(study))
    claims: list[Block] = [
        TrialGrades(uid, _label(study, uid), _graded(grades[uid]))
        for uid in recommended
        if uid in grades and _graded(grades[uid])
    ]
    claims += [
        CarriesNoInformation(one.metric.name, one.value, len(study.ranked))
        for one in grading.constant(study, table_of_bands)
    ]
    parts: list[Block] = ["## Quality scorecard", note, table(header, rows), *claims]
    return [
        *parts,
        *_layers(study, table_of_bands),
        *_always_on(study, first),
        *_bands(table_of_bands),
    ]


def _graded(grades: Sequence[Grade]) -> tuple[Graded, ...]:
    return tuple(
        (
            one.metric.name,
            one.value,
            one.band.grade if one.band else None,
            one.band.extent if one.band else None,
        )
        for one in grades
        if one.value == one.value
    )


def _cell(one: Grade) -> str:
    return f"{number(one.value)} {escaped(one.band.grade)}" if one.band else number(one.value)


def _layers(study: Study, bands: Thresholds) -> list[Block]:
    found = {
        layer: (len(uids), grading.of_layer(study, bands, uids))
        for layer, uids in grading.by_layer(study).items()
    }
    if not found:
        return []
    header = ["layer", "n", *(one.name for one in grading.metrics(study, bands))]
    rows = [[str(layer), f"{n:,}", *map(_cell, each)] for layer, (n, each) in found.items()]
    note = (
        "Medians over the ranked trials of each layer, whatever else differs between them. "
        "Activations of different layers are different tasks: their fvu are not comparable as "
        "qualities of the autoencoders."
    )
    claims = [LayerGrades(layer, n, _graded(each)) for layer, (n, each) in found.items()]
    return ["### By layer", note, table(header, rows), *claims]


def _always_on(study: Study, first: list[str]) -> list[Block]:
    """The latents that are always on, trial by trial: an id means nothing in another trial."""
    layers = {uid: layer for layer, uids in grading.by_layer(study).items() for uid in uids}
    wanted = list(layers) or first[:MOST_LISTED]
    having = [uid for uid in wanted if study.member(uid).trial.always_on_ids]
    if not having:
        return []
    rows = [
        [
            *([str(layers[uid])] if layers else []),
            code(_label(study, uid)),
            _ids(study.member(uid).trial.always_on_ids),
        ]
        for uid in having[:MOST_LISTED]
    ]
    header = [*(["layer"] if layers else []), "trial", "latents"]
    note = (
        "Latents that fire on more than 80 % of validation tokens. Ids count the latents of that "
        "one trial: the same id in another trial or layer is another latent."
    )
    hidden = len(having) - len(rows)
    more = [f"{counted(hidden, 'more trial')}: see `data/runs.csv`."] if hidden else []
    return ["### Always-on latents", note, table(header, rows, left=3), *more]


def _ids(ids: Sequence[int]) -> str:
    hidden = len(ids) - MOST_IDS
    return " ".join(map(str, ids[:MOST_IDS])) + (f" and {hidden:,} more" if hidden > 0 else "")


def _bands(found: Thresholds) -> list[Block]:
    rows = [
        [metric, band.extent, escaped(band.grade), escaped(band.source)]
        for metric, bands in found.bands.items()
        for band in bands
    ]
    rows += [
        [metric, MISSING, "not graded", escaped(reason)]
        for metric, reason in found.ungraded.items()
    ]
    header = ["metric", "band", "grade", "source"]
    note = "`python -m analysis report --thresholds FILE` grades by a table of your own."
    return ["### Bands", note, table(header, rows, left=4)]


def _label(study: Study, uid: str) -> str:
    return study.member(uid).trial.label
