"""The first page: the answer, whether it can be trusted, effects, front, limits, the next run.

It fits 150 lines and 1,500 words for any sweep; everything else stands in details.md.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.context import ReportContext
from analysis.findings import effect_tests, noise
from analysis.findings.adaptive import adaptive
from analysis.findings.effect_tests import Effect
from analysis.findings.fronts import Front
from analysis.findings.ranking import lowest, picks, tied_with_first, whole
from analysis.foreign.imported import NotFinite
from analysis.page import wording
from analysis.page.blocks import Block, Claim
from analysis.page.markdown import MISSING, code, counted, escaped, listed, number, table
from analysis.page.wording import probability
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.table import Study
from analysis.topics import failures
from analysis.topics.answer import answer, target
from analysis.topics.failures import FailuresBySetting, FailuresOfPair
from analysis.topics.in_model import headline
from analysis.topics.limitations import Lost, NoiseUnknown, limitations
from analysis.topics.next_runs import next_runs
from analysis.topics.noise import detectable
from analysis.topics.overview import Noted, extent
from analysis.topics.pareto import on_front
from analysis.topics.recommended import latents_link, recommendations
from sae_sweep.records import METRICS, Metric, TrialRecord

DETAILS = "details.md"
MOST_TRUST = 6
MOST_GUESSES = 4
MOST_LIMITS = 2
MOST_SETTINGS = 10
"""Rows of the table of effects."""
MOST_ON_FRONT = 10
MOST_FAILURES = 5
MOST_LABELLED = 60
"""Characters of a trial's label in a table."""


@dataclass(frozen=True)
class Selected:
    """Trials that a search chose by the results of earlier ones."""

    search: str | None
    """The kind of search; None where the draws alone show it."""
    settings: tuple[str, ...]
    """Whose draws follow the results."""
    trials: int

    @property
    def words(self) -> str:
        """What that does to effects."""
        names = escaped(listed(list(self.settings)))
        who = (
            f"The draws of {names} crowd as those of a search do"
            if self.search is None
            else f"{escaped(self.search)} chose {names} of the {counted(self.trials, 'trial')} by "
            "earlier results"
        )
        return (
            f"{who}: they are no design, no effect is claimed of them, and the best values are "
            "optimistic."
        )


@dataclass(frozen=True)
class Unreplicated:
    """How many configurations have a single ranked seed."""

    single: int
    configurations: int
    most: int
    """Ranked seeds of the configuration that has most."""

    @property
    def words(self) -> str:
        """The seeds."""
        if not self.single:
            return (
                f"Every one of {counted(self.configurations, 'ranked configuration')} has two "
                f"seeds or more, at most {self.most:,}."
            )
        return (
            f"{self.single:,} of {counted(self.configurations, 'ranked configuration')} have a "
            f"single seed; the most is {self.most:,}."
        )


@dataclass(frozen=True)
class MoreNoted:
    """Further notes of the kind."""

    number: int

    @property
    def words(self) -> str:
        """How many."""
        return f"{counted(self.number, 'further note')} on how the records were read: details."


def summary(context: ReportContext) -> list[Block]:
    """The whole first page."""
    study = context.study
    where = "`sweep.question`" if study.imported is None else "`--question`"
    question = escaped(study.run.question) or f"none was written down ({where})."
    parts: list[Block] = [f"# {escaped(study.run.name)}", f"**Question:** {question}"]
    if found := answer(context):
        parts += ["**Answer**", *found]
    parts += context.picture("pareto_frontier", "the Pareto front")
    parts += ["**Can it be trusted?**", *_trust(study)]
    parts += _effects(study)
    parts += _front(context)
    if limits := _limits(study):
        parts += ["**Limits**", *limits]
    parts += _next(study)
    parts += _figures(context)
    parts += _failures(study)
    return [*parts, *_methods(study)]


def _trust(study: Study) -> list[Claim]:
    claims: list[Claim] = extent(study)[:1]
    guesses: list[Claim] = [Noted(one) for one in study.notes]
    if study.imported is not None:
        guesses += [one for one in study.imported.notes if not isinstance(one, NotFinite)]
    shown = guesses[:MOST_GUESSES]
    claims += shown
    if len(guesses) > len(shown):
        claims.append(MoreNoted(len(guesses) - len(shown)))
    lost = failures.sentences(study)
    claims += [one for one in lost if not isinstance(one, FailuresBySetting | FailuresOfPair)]
    if study.ranked.empty:
        return claims
    if followed := adaptive(study):
        kind = str(study.run.config.get("search", {}).get("kind", "")) or None
        claims.append(Selected(kind, followed, len(study.trials)))
    seeds = study.configurations["seeds"]
    if len(seeds) and noise.floor(study, METRICS["fvu"]) is not None:
        claims.append(Unreplicated(int((seeds == 1).sum()), len(seeds), int(seeds.max())))
    told = [claim for metric in study.main_metrics[:1] for claim in detectable(study, metric)]
    unknown = [one for one in limitations(study) if isinstance(one, NoiseUnknown)]
    return [*claims, *told, *unknown][: MOST_TRUST + len(shown)]


def _effects(study: Study) -> list[Block]:
    """A row a setting, a column an outcome: the change, or the bound of a change not detected."""
    if not study.hyperparameters or study.ranked.empty:
        return []
    estimates, metrics = effect_tests.estimate(study), effect_tests.outcomes(study)
    rows, switches = [], []
    for one in study.hyperparameters:
        effects = [estimates.get(one, metric) for metric in metrics]
        if len({*one.order} - {INACTIVE}) == 1 and all(effect.reason for effect in effects):
            switches.append(escaped(one.name))
            continue
        rows.append([escaped(one.name), _range(one), *map(_cell, effects), _q(effects)])
    note = (
        "Change from the first level to the last, other settings held, with its 95 % interval; "
        "bold: claimed (q < 0.05 over all effects)."
    )
    header = ["setting", "levels", *(one.name for one in metrics), "q"]
    more = len(rows) - MOST_SETTINGS
    rest = [f"{counted(more, 'more setting')} in [details]({DETAILS})."] if more > 0 else []
    if switches:
        rest.append(f"Left out, for one level where active: {listed(switches)}.")
    return ["**Effects**", note, table(header, rows[:MOST_SETTINGS], left=2), *rest]


def _range(one: Hyperparameter) -> str:
    if len(one.order) <= 4:
        return escaped(", ".join(one.order))
    return escaped(f"{one.order[0]} to {one.order[-1]} ({len(one.order)})")


def _cell(one: Effect) -> str:
    if one.reason or one.adjusted is None:
        return "not tested"
    move = one.adjusted.change
    if one.finding == "flat":
        (step,) = one.adjusted.shape.steps
        levels = [one.adjusted.factor.levels[i] for i in one.adjusted.ordered]
        size = wording.percent(one.metric, step.change)
        if one.adjusted.shape.kind == "flat first":
            return f"**flat to {escaped(levels[step.first])}, then {size}**"
        return f"**{size} to {escaped(levels[step.last])}, then flat**"
    if move is None or one.finding == "bent":
        best = one.best
        if best is None:
            return "differs" if one.is_claimed else "none detected"
        return f"**best at {escaped(best.level)}**" if one.is_claimed else "none detected"
    bounds = move.adjusted_interval
    if one.is_claimed:
        size = wording.percent(one.metric, move.adjusted)
        return f"**{size}**{wording.percent_interval(one.metric, bounds)}"
    if max(map(abs, bounds)) > wording.SMALL[one.metric.scale]:
        return f"none detected{wording.percent_interval(one.metric, bounds)}"
    return f"none within {wording.within(one.metric, bounds)}"


def _q(effects: Sequence[Effect]) -> str:
    known = [one.q for one in effects if one.q == one.q]
    return ", ".join(probability(q) for q in known) or MISSING


def _front(context: ReportContext) -> list[Block]:
    """The first front, one row per configuration, and what each is picked for."""
    study = context.study
    if not context.fronts:
        return []
    front = context.fronts[0]
    rows = study.configurations.loc[front.uids]
    shown = _spread(front)
    columns = list(dict.fromkeys([front.objectives[1].name, *_shown_metrics(study)]))
    uses, failed = _uses(study), _failed_seeds(study)
    lines = [
        [
            str(front.uids.index(uid) + 1),
            code(_short(study.member(uid).trial.label)),
            *(number(float(rows[name][uid])) for name in columns),
            str(int(rows["seeds"][uid])),
            failed.get(int(rows["configuration"][uid]), "0"),
            _with_link(study, uid, uses.get(uid, "")),
        ]
        for uid in shown
    ]
    header = ["#", "trial", *columns, "seeds", "failed seeds", "picked for"]
    parts: list[Block] = ["**Front**", on_front(study, front), table(header, lines, left=2)]
    others = [one for one in recommendations(study) if one.uid not in shown]
    return [*parts, *([] if target(study) else others[:2])]


def _with_link(study: Study, uid: str, uses: str) -> str:
    """What a configuration is picked for, and where its latents are shown, if they are."""
    return ": ".join(one for one in (uses, latents_link(study, uid)) if one)


def _shown_metrics(study: Study) -> list[str]:
    """The main metrics, and what the model loses where that was measured."""
    return [one.name for one in [*study.main_metrics, *headline(study)]]


def _spread(front: Front) -> list[str]:
    """Members of a front, evenly along it where it has more than there is room for."""
    n = len(front.uids)
    if n <= MOST_ON_FRONT:
        return front.uids
    step = (n - 1) / (MOST_ON_FRONT - 1)
    return [front.uids[round(i * step)] for i in range(MOST_ON_FRONT)]


def _short(label: str) -> str:
    return label if len(label) <= MOST_LABELLED else f"{label[: MOST_LABELLED - 1]}…"


def _uses(study: Study) -> dict[str, str]:
    """What each recommended configuration is picked for, with its ties; of a target the nearest."""
    if (sought := target(study)) is not None:
        return {sought.uid: "nearest to the target"}
    found: dict[str, list[str]] = {}
    for pick in picks(study):
        tied = ""
        if pick.metric is not None:
            rows = lowest(study, pick.metric, whole(study))
            ties = tied_with_first(study, METRICS[pick.metric], rows)
            if ties is not None and ties.sum() > 1:
                tied = f" (tied with {int(ties.sum()) - 1:,})"
        found.setdefault(pick.uid, []).append(pick.title.lower() + tied)
    return {uid: ", ".join(titles) for uid, titles in found.items()}


def _failed_seeds(study: Study) -> dict[int, str]:
    """How many trials of each configuration came to nothing."""
    counts = Counter(study.trials["configuration"].to_numpy()[study.ruined].tolist())
    return {one: f"**{n}**" for one, n in counts.items()}


def _limits(study: Study) -> list[Claim]:
    """The gravest that are not said above."""
    found = [one for one in limitations(study) if not isinstance(one, Lost | NoiseUnknown)]
    return found[:MOST_LIMITS]


def _next(study: Study) -> list[Block]:
    found = next_runs(study)
    return ["**Next**", found[0]] if found else []


def _figures(context: ReportContext) -> list[Block]:
    """The effects on the first metric, and the interactions that are claimed."""
    names = [name for name in context.figures if name.startswith("interaction_")][:2]
    names = [*names, *(name for name in context.figures if name.startswith("effects_"))][:3]
    shown = [line for name in names for line in context.picture(name, context.figures[name])]
    return ["## Figures", *shown] if shown else []


def _failures(study: Study) -> list[Block]:
    lost = [
        record
        for record, ranked in zip(study.records, study.trials["ranked"], strict=True)
        if not ranked and record.status not in ("queued", "running", "interrupted")
    ]
    # without any fvu it is the measurement that is missing, which the answer says
    lost = [one for one in lost if one.status != "done" or "fvu" in one.final]
    if not lost:
        return []
    rows = [[code(_short(one.label)), one.status, _why(one)] for one in lost[:MOST_FAILURES]]
    more = len(lost) - len(rows)
    rest = [f"{counted(more, 'more trial')} in [details]({DETAILS}#status)."] if more else []
    return ["## Failures", table(["trial", "status", "reason"], rows, left=3), *rest]


def _why(record: TrialRecord) -> str:
    if record.worse_than_mean:
        return "fvu not below 1: no better than predicting the mean"
    if record.error is None:
        return "no finite fvu" if record.status == "done" else MISSING
    text = " ".join(record.error.split()[:12])
    return escaped(text if len(text) <= 100 else f"{text[:99]}…")


def _methods(study: Study) -> list[Block]:
    """How the figures come about, in a few lines."""
    names = listed([_scale(one) for one in study.main_metrics]) or "no metric"
    return [
        "## Methods",
        "Ranked: trials that ended with a finite fvu below 1; the mean of a configuration's ranked "
        f"seeds is one observation ({names}). Effects: additive model of all settings' levels, "
        "F-tests that hold with equal and with unequal variances (HC3), against the noise between "
        "seeds where there is one; q-values over effects and interactions together "
        "(Benjamini-Yekutieli). Seeds that configurations share are blocks. Front: configurations "
        "that no other beats in every objective. Ties and noise: Tukey's range over all "
        "configurations, for single seeds a permutation test too; 5 % for the page. Every sentence "
        "stands with its figures in `data/claims.json`, every trial in `data/runs.csv`.",
    ]


def _scale(metric: Metric) -> str:
    return f"{metric.name} {'as log10' if metric.scale == 'log' else 'as it is'}"


def contents(titles: Sequence[tuple[str, str]]) -> Iterator[Block]:
    """Links to every topic in details.md: title and anchor."""
    yield "## Details"
    yield " · ".join(f"[{title}]({DETAILS}#{anchor})" for title, anchor in titles)
