"""Statements on imported records."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.foreign.mapping import Column
from analysis.foreign.reading import Source
from analysis.page.blocks import Claim
from analysis.page.markdown import code, counted, escaped, listed, number

MOST_NAMED = 10
"""Unread columns that a sentence names; the mapping has them all."""


class Scored(NamedTuple):
    """One row's published score beside the recomputed one."""

    uid: str
    stated: str
    low: float
    """Smallest and largest score that the row's rounded metrics allow."""
    high: float
    reproduced: bool
    """Whether the stated score, rounded as it is, lies between them."""


@dataclass(frozen=True)
class Imported:
    """Where a sweep's records come from and how they were read."""

    source: Source
    command: str
    columns: list[Column]
    definitions: dict[str, str]
    """By metric: the foreign column that it was taken from, and how."""
    notes: list[Claim]
    """Notes on the rows."""
    scores: list[Scored]
    """Rows with a published score, where its bounds were given."""
    seeds: bool
    """Whether the file names seeds."""
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """By uid and metric: steps and values of a run's checkpoints."""

    def history(self, uids: Iterable[str], metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The course of a metric, where the file has checkpoints."""
        return {uid: self.curves[uid][metric] for uid in uids if metric in self.curves.get(uid, {})}


@dataclass(frozen=True)
class Unread:
    """Columns that vary and were not understood."""

    columns: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        varies, verb = ("varies", "is") if len(self.columns) == 1 else ("vary", "are")
        named = [code(name) for name in self.columns[:MOST_NAMED]]
        if more := len(self.columns) - len(named):
            named.append(f"{more:,} more")
        return (
            f"{counted(len(self.columns), 'column')} that {varies} {verb} not read: "
            f"{listed(named)}. What a setting among them does would show as "
            "noise or as an effect of the others."
        )


@dataclass(frozen=True)
class Folded:
    """Rows that are checkpoints of one run."""

    rows: int
    runs: int
    step: str | None
    """The column that orders a run's rows."""
    id: str | None
    """The column that names the run; None where equal settings do."""

    @property
    def words(self) -> str:
        """The sentence."""
        last = "last row" if self.step is None else f"last {code(self.step)}"
        if self.id is not None:
            return (
                f"{counted(self.rows, 'row')} are checkpoints of {counted(self.runs, 'run')} "
                f"({code(self.id)}): a run counts once, with the {last}."
            )
        return (
            f"{counted(self.rows, 'row')} that differ in {code(str(self.step))} alone are taken as "
            f"checkpoints of {counted(self.runs, 'run')}: a run counts once, with the {last}. If "
            f"each was trained by itself: `--map {self.step}=train.steps`."
        )


@dataclass(frozen=True)
class NoStatus:
    """A file without a column that says how runs ended."""

    rows: int
    without_metrics: int = 0
    diverged: int = 0

    @property
    def words(self) -> str:
        """The sentence."""
        done = self.rows - self.without_metrics - self.diverged
        parts = [f"{counted(done, 'row')} taken as done"]
        if self.without_metrics:
            parts.append(f"{self.without_metrics:,} without any metric as failed")
        if self.diverged:
            parts.append(f"{self.diverged:,} whose reconstruction is not finite as diverged")
        return f"No column says how a run ended: {', '.join(parts)}."


@dataclass(frozen=True)
class Skipped:
    """Entries of a folder of runs that are no runs."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "is" if len(self.names) == 1 else "are"
        named = listed([code(name) for name in self.names[:MOST_NAMED]])
        return (
            f"{counted(len(self.names), 'name')} in the folder {verb} hidden or a "
            f"link to another one and no run: {named}."
        )


@dataclass(frozen=True)
class NotANumberSetting:
    """Settings that are NaN."""

    column: str
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "is" if self.rows == 1 else "are"
        return f"{counted(self.rows, 'cell')} of {code(self.column)} {verb} NaN: taken as not set."


@dataclass(frozen=True)
class Repeated:
    """Rows with equal settings."""

    same_settings: int
    """Rows with the settings and seeds of an earlier row."""
    identical: int
    """Those among them that repeat an earlier row cell for cell."""

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "has" if self.same_settings == 1 else "have"
        return (
            f"{counted(self.same_settings, 'row')} {verb} the settings and seeds of an earlier "
            f"row, {self.identical:,} of them all its cells: rows of equal settings and seeds are "
            "one observation, and none counts as another seed."
        )


@dataclass(frozen=True)
class FromNames:
    """Settings that no column has."""

    settings: tuple[str, ...]
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"{escaped(listed(self.settings))} {'is' if len(self.settings) == 1 else 'are'} read "
            f"from the names of {counted(self.rows, 'run')}: names round, so different values may "
            "look equal."
        )


@dataclass(frozen=True)
class NameDisagrees:
    """Names that tell another value than the column."""

    setting: str
    rows: int
    first: str

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "tells" if self.rows == 1 else "tell"
        return (
            f"{counted(self.rows, 'name')} {verb} another {escaped(self.setting)} than the column, "
            f"{code(self.first)} first: the column counts."
        )


@dataclass(frozen=True)
class InactiveTarget:
    """Targets of a loss that is off."""

    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        verb = "has" if self.rows == 1 else "have"
        return (
            f"{counted(self.rows, 'row')} {verb} an aux_target beside an aux_coeff of 0: it has no "
            "effect there and counts as inactive."
        )


@dataclass(frozen=True)
class NotFinite:
    """Cells with NaN or an infinity."""

    metric: str
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"{self.metric} is NaN or infinite in {counted(self.rows, 'row')}: left out of every "
            "figure."
        )


@dataclass(frozen=True)
class ScoreReproduced:
    """Whether the published score is the sum that it is taken for."""

    column: str
    bounds: tuple[tuple[str, float, float], ...]
    reproduced: int
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        terms = [f"{name} ({low:.9g} to {high:.9g})" for name, low, high in self.bounds]
        return (
            f"{code(self.column)} is the sum of {listed(terms)}, each scaled to its bounds, in "
            f"{self.reproduced:,} of {counted(self.rows, 'row')}, within the digits that are "
            "written."
        )


@dataclass(frozen=True)
class ScoreSpread:
    """How far a metric moves the published score."""

    column: str
    metric: str
    spread: float
    """Largest minus smallest scaled value over the scored rows."""
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"Scaled so, {self.metric} spans {number(self.spread, 3)} over the "
            f"{counted(self.rows, 'row')} with {code(self.column)}."
        )


@dataclass(frozen=True)
class ScoreOrder:
    """How the published score ranks against a metric."""

    column: str
    metric: str
    spearman: float
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"Spearman's correlation of {code(self.column)} with {self.metric} is "
            f"{self.spearman:.2f} over {counted(self.rows, 'row')}."
        )


@dataclass(frozen=True)
class ScoreOfPoor:
    """Scored rows that are not ranked here."""

    column: str
    worse_than_mean: int
    rows: int

    @property
    def words(self) -> str:
        """The sentence."""
        return (
            f"{self.worse_than_mean:,} of the {counted(self.rows, 'row')} with "
            f"{code(self.column)} reconstruct no better than the mean (fvu not below 1)."
        )
