"""The answer to the question that a sweep states, from the settings and metrics that it is about.

A sweep names them in `sweep.about`; without it they are everything that varies and the main
metrics. What is answered depends on the sweep: the l1_alpha of a target, the kinds at equal L0,
else what each setting changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.context import ReportContext
from analysis.findings import verdicts
from analysis.findings.verdicts import Effect
from analysis.page import wording
from analysis.page.blocks import Claim
from analysis.page.markdown import code, counted, escaped, listed, number
from analysis.study import scales
from analysis.study.hyperparameters import INACTIVE, Hyperparameter
from analysis.study.table import Study
from analysis.topics import failures, interactions
from analysis.topics.effects import claims
from analysis.topics.equal_l0 import at_equal_l0
from analysis.topics.failures import FailuresBySetting, FailuresOfPair
from analysis.topics.response.section import alphas_for_target, width_laws
from analysis.topics.searching import Established, established
from sae_sweep.records import METRICS, Metric

WIDTHS = ("sae.n_latents", "sae.expansion_factor")
SAME = {"explained_variance": "fvu", "l0_fraction": "l0"}
"""Metrics that say what another says, of which effects are known."""
MOST = 6
"""Sentences of one answer."""
MOST_LEVELS = 8
"""Levels that are told one by one."""


Part = tuple[str, float, tuple[float, float] | None, bool, float]
"""A metric, its change on its scale, the 95 % interval, whether it is claimed, q."""


@dataclass(frozen=True)
class Changes:
    """What a setting changes from its first level to its last, metric by metric."""

    hyperparameter: str
    first: str
    last: str
    held: bool
    """Whether the other settings are held."""
    parts: tuple[Part, ...]
    """Claimed changes first."""

    @property
    def words(self) -> str:
        """Each change with its interval; or the bound of one that is not detected."""
        held = ", other settings held" if self.held else ""
        return (
            f"**{escaped(self.hyperparameter)}** {escaped(self.first)} to {escaped(self.last)}"
            f"{held}: {'; '.join(map(_part, self.parts))}."
        )


def _part(part: Part) -> str:
    name, change, interval, claimed, q = part
    metric = METRICS[name]
    size = f"{wording.percent(metric, change)}{wording.percent_interval(metric, interval)}"
    if claimed:
        return f"{name} {size} (q {wording.equals(q)})"
    return f"no change of {name} is detected: {size} (q {wording.equals(q)})"


@dataclass(frozen=True)
class BestOf:
    """The best level of a setting whose effect has no one direction."""

    hyperparameter: str
    metric: str
    level: str
    mean: float
    """Adjusted, in the metric's unit."""
    second: str
    second_mean: float
    apart: bool
    """Whether the two levels are told apart."""
    q: float

    @property
    def words(self) -> str:
        """The level and the next."""
        told = "" if self.apart else ", not told apart from it"
        return (
            f"**{escaped(self.hyperparameter)}**: {self.metric} is best at {escaped(self.level)} "
            f"({number(self.mean)}; next {escaped(self.second)}, {number(self.second_mean)}{told}; "
            f"q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class ByLevel:
    """Means of a metric at the levels of a setting, of which no effect can be tested."""

    hyperparameter: str
    metric: str
    means: tuple[tuple[str, float], ...]
    """Level and mean over its ranked trials, in the metric's unit."""
    reason: str

    @property
    def words(self) -> str:
        """Each level's mean, and why there is no test."""
        parts = ", ".join(f"{escaped(level)}: {number(mean, 3)}" for level, mean in self.means)
        return (
            f"**{escaped(self.hyperparameter)}**: mean {self.metric} at {parts}; not tested "
            f"({escaped(self.reason)})."
        )


@dataclass(frozen=True)
class NotVaried:
    """Settings of the question that the sweep held fixed."""

    settings: tuple[str, ...]

    @property
    def words(self) -> str:
        """Which."""
        names = listed([code(one) for one in self.settings])
        them = "it" if len(self.settings) == 1 else "them"
        return f"{names} did not vary in this sweep: nothing is said of {them}."


@dataclass(frozen=True)
class LargestChange:
    """The setting that moves a metric most."""

    hyperparameter: str
    metric: str
    span: float
    """Between its best and its worst level, the other settings held, on the metric's scale."""
    second: str
    second_span: float

    @property
    def words(self) -> str:
        """The two largest spans."""
        metric = METRICS[self.metric]
        return (
            f"Of the settings, **{escaped(self.hyperparameter)}** moves {self.metric} most: "
            f"{wording.percent(metric, self.span)} between its best and its worst level, other "
            f"settings held; next {escaped(self.second)}, "
            f"{wording.percent(metric, self.second_span)}."
        )


@dataclass(frozen=True)
class NearestTrial:
    """The trial whose sparsity is nearest to a target."""

    metric: str
    target: float
    label: str
    uid: str
    l1_alpha: float | None
    reached: float
    within: bool
    """Whether it lies within the tolerance of the search."""
    tolerance: float
    fvu: float | None
    trials: int

    @property
    def words(self) -> str:
        """The trial, its l1_alpha, and by how much it misses."""
        off = 100 * (self.reached / self.target - 1)
        met = "within" if self.within else "outside"
        alpha = "" if self.l1_alpha is None else f" at l1_alpha {number(self.l1_alpha)}"
        fvu = "" if self.fvu is None else f", fvu {number(self.fvu)}"
        return (
            f"Nearest of {counted(self.trials, 'trial')} to {self.metric} {number(self.target)}: "
            f"{code(self.label)} ({code(self.uid)}){alpha}, {self.metric} {number(self.reached)} "
            f"({off:+.3g} %, {met} the tolerance of {100 * self.tolerance:g} %){fvu}."
        )


@dataclass(frozen=True)
class NothingRanked:
    """No trial can be compared."""

    trials: int
    without_fvu: bool
    """Whether it is for want of an fvu that no trial is ranked."""
    measured: tuple[str, ...]
    """The metrics that there are."""

    @property
    def words(self) -> str:
        """Why."""
        if self.without_fvu:
            return (
                f"No trial of {self.trials:,} is ranked: none has an fvu, or an explained_variance "
                f"to take it from; there are {listed(list(self.measured)) or 'no metrics'}. Where "
                "an imported file has it under another name: `--map COLUMN=fvu`."
            )
        return (
            f"No trial of {self.trials:,} is ranked: none ended with a finite fvu below 1, which "
            "is what predicting the mean scores."
        )


def answer(context: ReportContext) -> list[Claim]:
    """What the sweep says of its question, the most direct sentences first."""
    study = context.study
    if study.ranked.empty:
        finished = bool(study.where("done").any())
        missing = finished and bool(np.isnan(study.trials.get("fvu", np.array([np.nan]))).all())
        return (
            [NothingRanked(len(study.trials), missing, _measured(study))]
            if len(study.trials)
            else []
        )
    settings, metrics, fixed = about(study)
    found: list[Claim] = [*_target(study), *established(study), *_moving(study, settings, metrics)]
    if {"sae.l1_alpha", *WIDTHS} >= {one.key for one in settings} > {"sae.l1_alpha"}:
        found += width_laws(study)
    if "sae.kind" in {one.key for one in settings}:
        found += at_equal_l0(study)
    said = {"sae.kind", "sae.l1_alpha"} if any(map(_is_direct, found)) else set()
    effects = [one for one in settings if one.key not in said]
    found += _effects(study, effects, metrics)
    lost = [
        one
        for one in failures.sentences(study)
        if isinstance(one, FailuresBySetting | FailuresOfPair)
    ]
    return [*lost, *found[:MOST], *([NotVaried(tuple(fixed))] if fixed else [])]


def _measured(study: Study) -> tuple[str, ...]:
    return tuple(one.name for one in study.metrics if study.trials[one.name].notna().any())


def _moving(study: Study, settings: list[Hyperparameter], metrics: list[Metric]) -> Iterator[Claim]:
    """The interactions that decide which level is best, of settings and metrics of the question."""
    judged = verdicts.judge(study)
    keys, names = {one.key for one in settings}, {one.name for one in metrics}
    for one in judged.claimed_pairs:
        if one.moves and one.metric.name in names and keys & {one.first.key, one.second.key}:
            yield interactions.claim_of(one, judged)


def _is_direct(claim: Claim) -> bool:
    """Whether a sentence answers for l1_alpha or for the kinds by itself."""
    return not isinstance(claim, Established | interactions.Interacts)


def about(study: Study) -> tuple[list[Hyperparameter], list[Metric], list[str]]:
    """The settings and metrics of the question, and settings of it that did not vary."""
    stated = study.run.config.get("sweep", {}).get("about") or {}
    wanted = stated.get("settings") or [one.key for one in study.hyperparameters]
    by_key = {one.key: one for one in study.hyperparameters}
    aliases = {"sae.n_latents": "sae.expansion_factor", "sae.expansion_factor": "sae.n_latents"}
    found, fixed = [], []
    for key in wanted:
        if (one := by_key.get(key) or by_key.get(aliases.get(key, ""))) is not None:
            found.append(one)
        else:
            fixed.append(key)
    names = stated.get("metrics") or [one.name for one in verdicts.outcomes(study)]
    known = {one.name: one for one in [*study.metrics, *verdicts.outcomes(study)]}
    wanted_metrics = dict.fromkeys(SAME.get(name, name) for name in names)
    return found, [known[name] for name in wanted_metrics if name in known], fixed


def _target(study: Study) -> Iterator[Claim]:
    """The l1_alpha that meets the target of a search, and the trial nearest to it."""
    search = study.run.config.get("search", {})
    metric = "l0_fraction" if search.get("target") is not None else "l0"
    target = search.get("target") or search.get("target_count")
    if target is None or metric not in study.trials:
        return
    yield from alphas_for_target(study)
    values = study.ranked[metric].dropna()
    if values.empty:
        return
    uid = str((values / target - 1).abs().idxmin())
    reached, tolerance = float(values[uid]), float(search.get("tolerance", 0.1))
    trial, fvu = study.member(uid).trial, study.value(uid, "fvu")
    yield NearestTrial(
        metric,
        float(target),
        trial.label,
        uid,
        trial.config.get("sae", {}).get("l1_alpha"),
        reached,
        abs(reached / target - 1) <= tolerance,
        tolerance,
        None if np.isnan(fvu) else fvu,
        len(study.trials),
    )


def _effects(
    study: Study, settings: list[Hyperparameter], metrics: list[Metric]
) -> Iterator[Claim]:
    """What each setting changes, the settings that explain most first."""
    judged = verdicts.judge(study)
    effects = [
        one
        for metric in metrics
        for one in judged.of(metric)
        if any(one.hyperparameter is setting for setting in settings)
    ]
    for metric in metrics[:1]:
        yield from _largest([one for one in effects if one.metric is metric and one.is_claimed])
    ranked = sorted(settings, key=lambda one: -_weight(effects, one))
    for setting in ranked:
        own = [one for one in effects if one.hyperparameter is setting]
        shaped = [one for one in own if one.verdict in ("bent", "flat") or one.raw_disagrees]
        yield from (claims.claim_of(one, judged) for one in shaped)
        own = [one for one in own if one not in shaped]
        yield from _changes(setting, own, held=len(study.hyperparameters) > 1)
        for one in own:
            yield from _best_or_means(study, one)
        tested = {one.metric.name for one in own}
        for metric in metrics:
            if metric.name not in tested and metric.name in study.scaled:
                yield from _by_level(study, setting, metric, "no test of this metric")


def _weight(effects: list[Effect], setting: Hyperparameter) -> float:
    """The largest share of a metric's variance that a claimed effect of a setting explains."""
    own = [one for one in effects if one.hyperparameter is setting and one.is_claimed]
    return max(map(_share, own), default=-1.0)


def _share(one: Effect) -> float:
    return one.adjusted.partial_eta_squared if one.adjusted is not None else 0.0


def _largest(effects: list[Effect]) -> Iterator[Claim]:
    spans = [(float(np.ptp(one.adjusted.means)), one) for one in effects if one.adjusted]
    if len(spans) < 2:
        return
    spans.sort(key=lambda pair: -pair[0])
    (span, first), (other, second) = spans[:2]
    names = first.hyperparameter.name, second.hyperparameter.name
    yield LargestChange(names[0], first.metric.name, span, names[1], other)


def _changes(setting: Hyperparameter, effects: list[Effect], *, held: bool) -> Iterator[Claim]:
    """One sentence on the metrics that a setting changes in one direction, or not detectably."""
    parts: list[Part] = []
    ends = ("", "")
    for one in sorted(effects, key=lambda one: not one.is_claimed):
        move = None if one.adjusted is None or one.reason else one.adjusted.change
        if move is not None and not _has_best(one):
            ends = move.first, move.last
            parts.append(
                (one.metric.name, move.adjusted, move.adjusted_interval, one.is_claimed, one.q)
            )
    if parts:
        yield Changes(setting.name, *ends, held, tuple(parts))


def _has_best(one: Effect) -> bool:
    """Whether the best level says more than the change from the first to the last."""
    ordered = one.adjusted is not None and one.adjusted.change is not None
    return one.is_claimed and one.best is not None and not ordered


def _best_or_means(study: Study, one: Effect) -> Iterator[Claim]:
    name, metric = one.hyperparameter.name, one.metric
    if one.correlation.remark == "metric constant":
        return
    if one.reason or one.adjusted is None:
        reason = one.reason or "each level is one configuration"
        yield from _by_level(study, one.hyperparameter, metric, reason)
    elif one.best is not None and _has_best(one):
        best = one.best
        values = [scales.back(metric, mean) for mean in (best.mean, best.second_mean)]
        yield BestOf(
            name, metric.name, best.level, values[0], best.second, values[1], best.is_apart, one.q
        )


def _by_level(study: Study, one: Hyperparameter, metric: Metric, reason: str) -> Iterator[Claim]:
    means = _means(study, one, metric)
    if 1 < len(means) <= MOST_LEVELS:
        yield ByLevel(one.name, metric.name, means, reason)


def _means(study: Study, one: Hyperparameter, metric: Metric) -> tuple[tuple[str, float], ...]:
    """The mean at each level over its ranked trials."""
    values = study.scaled[metric.name].to_numpy()
    counted_ = study.trials["ranked"].to_numpy() & ~np.isnan(values)
    found = []
    for level in one.order:
        here = counted_ & one.at(level)
        if level != INACTIVE and here.any():
            found.append((level, scales.back(metric, float(values[here].mean()))))
    return tuple(found)
