"""The section on stop rules and early signals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from analysis.context import ReportContext
from analysis.page.blocks import Block
from analysis.page.markdown import code, counted, escaped, listed, number, table
from analysis.study import scales
from analysis.study.table import Study
from analysis.topics.stopping.early import Signal, signals
from analysis.topics.stopping.replay import Good, Replayed, good, replayed

NAMED = 10
"""Most trials that a sentence names."""
SURE = 0.9
"""Spearman above which an early order counts as the final one."""

RULES_NOTE = (
    "Each rule is replayed on the reports of the finished trials, as if all had trained side by "
    "side in the sweep's order. A rule that ends good trials costs results, one that ends none of "
    "the others saves nothing. A plateau rule ends what has settled, good or not."
)
SIGNALS_NOTE = (
    "Spearman's correlation between a metric as last reported by a share of the steps and its "
    "final value, over the configurations (means of their ranked seeds) and within groups of equal "
    "k, whose order is known before training, with its 95 % interval "
    "(bootstrap)."
)


@dataclass(frozen=True)
class GoodTrials:
    """The trials that a rule should not end."""

    objectives: tuple[tuple[str, str], ...]
    """Name and direction."""
    tolerances: tuple[str, ...]
    """In words, an objective each; none where the noise is unknown."""
    good: int
    trials: int
    """Replayed."""
    labels: tuple[str, ...]

    @property
    def words(self) -> str:
        """The definition with what it comes to."""
        objectives = [f"{name} {direction}" for name, direction in self.objectives]
        by = f" by more than noise explains ({listed(self.tolerances)})" if self.tolerances else ""
        than = f"better in {objectives[0]}{by}"
        if len(objectives) > 1:
            as_much = " by as much" if by else ""
            than = f"better in one of {listed(objectives)}{by} and not worse in another{as_much}"
        return (
            f"**Good** are {self.good} of {counted(self.trials, 'finished trial')}, than which no "
            f"other is {than}: {_names(self.labels)}"
        )


@dataclass(frozen=True)
class NotReplayed:
    """Trials that the table does not rest on."""

    statuses: tuple[tuple[str, int], ...]
    """Status and number; `done` are those without reports."""

    @property
    def words(self) -> str:
        """How many, by status."""
        parts = [
            f"{n:,} {'done without reports' if status == 'done' else status}"
            for status, n in self.statuses
        ]
        return f"Not replayed: {', '.join(parts)}"


@dataclass(frozen=True)
class WouldEnd:
    """The outcome of one rule."""

    rule: str
    good_ended: int
    good: int
    others_ended: int
    others: int
    saved: float
    """Share of the tokens."""
    labels: tuple[str, ...]
    """Of the good trials that it would have ended."""

    @property
    def words(self) -> str:
        """The rule's row as a sentence."""
        named = f" ({_names(self.labels)})" if self.labels else ""
        return (
            f"{code(self.rule)} would have ended {self.good_ended} of "
            f"{counted(self.good, 'good trial')}{named} and {self.others_ended} of "
            f"{counted(self.others, 'other')}, and saved {_percent(self.saved)} % of the tokens"
        )


@dataclass(frozen=True)
class KnownFrom:
    """How early a metric's order is the final one."""

    metric: str
    sure: float
    share: float
    """Of the steps: the first at which the interval lies above `sure`, or the last."""
    met: bool
    """Whether it does."""
    spearman: float
    low: float
    high: float
    n: int

    @property
    def words(self) -> str:
        """The moment, or that there is none."""
        figures = (
            f"{number(self.spearman, 3)}, 95 % interval {number(self.low, 3)} to "
            f"{number(self.high, 3)}, "
            f"{counted(self.n, 'configuration')}"
        )
        if self.met:
            return (
                f"{self.metric}: Spearman with the final value lies above {self.sure:g} from "
                f"{100 * self.share:g} % of the steps on ({figures})"
            )
        return (
            f"{self.metric}: at no share up to {100 * self.share:g} % of the steps does Spearman "
            f"with the final value certainly exceed {self.sure:g} "
            f"(at {100 * self.share:g} %: {figures})"
        )


@dataclass(frozen=True)
class NotKnown:
    """A metric whose early signal could not be computed."""

    metric: str
    remark: str
    n: int

    @property
    def words(self) -> str:
        """Why."""
        return (
            f"{self.metric}: no interval for the early order can be computed "
            f"({self.remark}, {counted(self.n, 'trial')})"
        )


def stopping(context: ReportContext) -> list[Block]:
    """The rules' table, then the early signals; none where no trial has reported anything.

    None either where the trials are of several tasks, which have no good trials in common.
    """
    study = context.study
    if study.tasks > 1:
        return []
    found = good(study)
    results, early = replayed(study, found), signals(study)
    if not results:
        return []
    blocks: list[Block] = ["## Stopping early", RULES_NOTE, *_trials(study, found, results[0])]
    header = ["rule", "ends a trial at", "good ended", "good kept", "others ended", "others kept"]
    rows = [_row(one) for one in results]
    blocks += [table([*header, "tokens saved"], rows, left=2)]
    blocks += [_would_end(study, one) for one in results]
    if early:
        shown = context.picture("early_signals", "Spearman with the final metric by share of steps")
        blocks += ["### Early signals", SIGNALS_NOTE, _signals_table(early), *shown]
        blocks += [_known(list(of)) for _, of in groupby(early, key=lambda one: one.metric.name)]
    return blocks


def _trials(study: Study, found: Good, any_result: Replayed) -> list[Block]:
    """What is good among the trials that are replayed, and which are not replayed."""
    heard = {uid for part in any_result[1:5] for uid in part}
    best = [uid for uid in map(str, study.trials.index) if uid in heard & found.uids]
    tolerances = [
        f"{metric.name}: {scales.difference(metric, tolerance)}"
        for metric, tolerance in zip(found.objectives, found.tolerances, strict=True)
        if tolerance > 0
    ]
    claims: list[Block] = [
        GoodTrials(
            tuple((one.name, one.direction) for one in found.objectives),
            tuple(tolerances),
            len(best),
            len(heard),
            _labels(study, best),
        )
    ]
    rest = Counter(record.status for record in study.records if record.uid not in heard)
    return claims + ([NotReplayed(tuple(sorted(rest.items())))] if rest else [])


def _labels(study: Study, uids: Sequence[str]) -> tuple[str, ...]:
    return tuple(study.member(uid).trial.label for uid in uids)


def _names(labels: Sequence[str]) -> str:
    shown = [code(label) for label in labels[:NAMED]]
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "") if labels else "none"


def _row(one: Replayed) -> list[str]:
    ended = (one.good_ended, one.good_kept, one.others_ended, one.others_kept)
    numbers = [str(len(uids)) for uids in ended]
    return [code(one.rule.name), escaped(one.rule.words), *numbers, f"{_percent(one.saved)} %"]


def _would_end(study: Study, one: Replayed) -> WouldEnd:
    return WouldEnd(
        one.rule.name,
        len(one.good_ended),
        len(one.good_ended) + len(one.good_kept),
        len(one.others_ended),
        len(one.others_ended) + len(one.others_kept),
        one.saved,
        _labels(study, one.good_ended),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signals_table(early: Sequence[Signal]) -> str:
    by_share = [
        [f"{100 * share:g} %", *(_cell(one) for one in of)]
        for share, of in groupby(sorted(early, key=lambda one: one.share), key=lambda o: o.share)
    ]
    names = list(dict.fromkeys(one.metric.name for one in early))
    return table(["share of the steps", *names], by_share)


def _cell(one: Signal) -> str:
    if one.interval is None:
        return f"{number(one.spearman, 3)} ({one.remark})"
    low, high = (number(end, 3) for end in one.interval)
    return f"{number(one.spearman, 3)} ({low} to {high}, n {one.n})"


def _known(of: Sequence[Signal]) -> Block:
    """The share from which on all intervals of a metric lie above SURE, in words."""
    measured = [(one, one.interval) for one in of if one.interval is not None]
    if not measured:
        return NotKnown(of[-1].metric.name, of[-1].remark, of[-1].n)
    sure = list(takewhile(lambda pair: pair[1][0] > SURE, reversed(measured)))
    shown, (low, high) = sure[-1] if sure else measured[-1]
    return KnownFrom(
        shown.metric.name,
        SURE,
        shown.share,
        bool(sure),
        shown.spearman,
        low,
        high,
        shown.n,
    )
