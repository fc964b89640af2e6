"""Failed runs: how many, and which settings go with them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.failures import Failing
from analysis.page import wording
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import counted, escaped, listed, table
from analysis.statistics.shares import share as share_of
from analysis.study.table import Study

MOST_CELLS = 3
"""Pairs of levels that a sentence names."""
Level = tuple[str, int, int, float, float]
"""A level, its runs that came to nothing, its runs, and the share's 95 % interval (Wilson)."""


@dataclass(frozen=True)
class FailuresBySetting:
    """A setting on which it depends whether a run comes to nothing."""

    hyperparameter: str
    levels: tuple[Level, ...]
    within: str | None
    """The setting that is held."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        parts = [
            f"{lost} of {n} at {escaped(level)} [{100 * low:.0f}, {100 * high:.0f} %]"
            for level, lost, n, low, high in self.levels
        ]
        held = "" if self.within is None else f", {escaped(self.within)} held"
        return (
            f"**Failures depend on {escaped(self.hyperparameter)}:** {listed(parts)} (permutation "
            f"test{held}, q {wording.equals(self.q)}). What follows compares the surviving runs."
        )


@dataclass(frozen=True)
class FailuresOfPair:
    """Two settings of which it depends together whether a run comes to nothing."""

    first: str
    second: str
    cells: tuple[tuple[str, str, int, int, float, float], ...]
    """Both levels, runs that came to nothing, runs, 95 % interval; the largest shares first."""
    lost_elsewhere: int
    runs_elsewhere: int
    within: str | None
    """The setting that is held."""
    q: float

    @property
    def words(self) -> str:
        """The sentence."""
        held = "" if self.within is None else f", {escaped(self.within)} held"
        names = escaped(self.first), escaped(self.second)
        parts = [
            f"{lost} of {n} at {names[0]} {escaped(one)} with {names[1]} {escaped(other)} "
            f"[{100 * low:.0f}, {100 * high:.0f} %]"
            for one, other, lost, n, low, high in self.cells
        ]
        return (
            f"**Failures depend on {names[0]} and {names[1]} together:** {listed(parts)}; "
            f"{self.lost_elsewhere} of {self.runs_elsewhere} elsewhere (permutation test"
            f"{held}, q {wording.equals(self.q)}). What follows compares the surviving runs."
        )


@dataclass(frozen=True)
class CameToNothing:
    """Failed runs, where no setting explains them."""

    lost: int
    runs: int
    kinds: tuple[tuple[str, int], ...]
    low: float
    """95 % interval of the share."""
    high: float
    tests: int
    """Settings that were tested."""

    @property
    def words(self) -> str:
        """The sentence."""
        kinds = listed([f"{n} {kind}" for kind, n in self.kinds])
        tested = "" if not self.tests else "; no setting is detectably the cause"
        if self.lost == self.runs:
            return f"Every one of {counted(self.runs, 'run')} came to nothing ({kinds})."
        return (
            f"{self.lost:,} of {counted(self.runs, 'run')} came to nothing ({kinds}; "
            f"{100 * self.low:.0f} to {100 * self.high:.0f} %){tested}. What follows compares the "
            "runs that survived."
        )


def sentences(study: Study) -> list[Claim]:
    """What is said of failures on the first screen; nothing where no run came to nothing.

    Of pairs only where they have a setting of which nothing is said by itself.
    """
    lost, ended = study.ruined, study.ended
    if not lost.any():
        return []
    tested = effect_tests.estimate(study).failing
    claimed = sorted((one for one in tested if one.is_claimed), key=lambda one: one.p)
    alone = [one for one in claimed if one.second is None]
    told = {one.hyperparameter.name for one in alone}
    pairs = [
        one
        for one in claimed
        if one.second is not None and not {one.hyperparameter.name, one.second.name} <= told
    ]
    # with three settings at work every pair with one of them shows some of it
    if alone or pairs:
        return [*map(_claim, alone), *map(_claim_of_pair, pairs[: 0 if alone else 1])]
    share = share_of(int(lost.sum()), int(ended.sum()))
    known = sum(one.second is None and one.p == one.p for one in tested)
    return [CameToNothing(share.lost, share.n, tuple(_kinds(study)), *share.interval, known)]


def _kinds(study: Study) -> Iterator[tuple[str, int]]:
    lost = study.ruined
    named = Counter(
        "with fvu at or above 1" if status == "done" else status
        for status in study.trials["status"][lost]
    )
    yield from sorted(named.items())


def _claim(one: Failing) -> FailuresBySetting:
    levels = tuple(
        (level, run.lost, run.n, *run.interval)
        for (level,), run in zip(one.levels, one.runs, strict=True)
    )
    return FailuresBySetting(one.hyperparameter.name, levels, one.within, one.q)


def _claim_of_pair(one: Failing) -> FailuresOfPair:
    assert one.second is not None
    order = sorted(range(len(one.runs)), key=lambda i: (-one.runs[i].value, -one.runs[i].n))
    shown = [i for i in order if one.runs[i].lost][:MOST_CELLS]
    cells = tuple(
        (a, b, one.runs[i].lost, one.runs[i].n, *one.runs[i].interval)
        for i in shown
        for a, b in [one.levels[i]]
    )
    rest = [run for i, run in enumerate(one.runs) if i not in shown]
    return FailuresOfPair(
        one.hyperparameter.name,
        one.second.name,
        cells,
        sum(run.lost for run in rest),
        sum(run.n for run in rest),
        one.within,
        one.q,
    )


def failure_section(context: ReportContext) -> list[Block]:
    """The share of runs that came to nothing, by setting and level."""
    study = context.study
    said = sentences(study)
    if not said:
        return []
    tested = effect_tests.estimate(study).failing
    note = (
        "Came to nothing: diverged (a loss or parameter that is not finite), out of memory, "
        "failed, or finished with fvu of 1 or more, no better than predicting the mean. Shares "
        "of the runs that ended, with 95 % intervals (Wilson). p by permutation of configurations, "
        "within the levels of the setting that goes with failures most; q over all "
        "settings and pairs of them (Holm)."
    )
    rows = [
        [
            escaped(one.hyperparameter.name) if i == 0 else "",
            escaped(level),
            f"{run.lost} of {run.n}",
            f"{100 * run.interval[0]:.0f} to {100 * run.interval[1]:.0f} %",
            wording.probability(one.q) if i == 0 else "",
        ]
        for one in tested
        if one.second is None
        for i, ((level,), run) in enumerate(zip(one.levels, one.runs, strict=True))
    ]
    header = ["setting", "level", "came to nothing", "interval", "q"]
    shown = [table(header, rows, left=2)] if rows else []
    return ["## Failures", note, *said, *shown]
