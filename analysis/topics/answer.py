"""The answer to the question that a sweep states, from the settings and metrics that it is about.

A sweep names them in `sweep.about`; without it they are everything that varies and the main
metrics. What is answered depends on the sweep: the setting of a target L0 and the trial nearest to
it, the kinds at equal L0, else what each setting changes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.context import ReportContext
from analysis.findings import effect_tests
from analysis.findings.beside_fvu import measured_rows, orders
from analysis.findings.effect_tests import Effect
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
from analysis.topics.response.section import AlphaForTarget, alphas_for_target, width_laws
from analysis.topics.searching import Established, established
from analysis.topics.tradeoffs import PRICES
from sae_sweep.records import METRICS, PENALTIES, Metric, l0_setting
from sae_sweep.records.metrics import GROUND_TRUTH, IN_MODEL

WIDTHS = ("sae.n_latents", "sae.expansion_factor")
PENALTY = {f"sae.{one}" for one in PENALTIES}
ASKED = {"sae.target_l0", "train.l0_target"}
"""Settings that ask for an L0 which training then comes near."""
SAME = {"explained_variance": "fvu", "l0_fraction": "l0"}
"""Metrics that say what another says, of which effects are known."""
BESIDE_FVU = {*IN_MODEL, *GROUND_TRUTH}
"""Metrics that are answered by their rank agreement with fvu."""
MOST = 6
"""Sentences of one answer."""
MOST_LEVELS = 8
"""Most levels whose means are listed."""


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
    """Means of a metric at the levels of a setting."""

    hyperparameter: str
    metric: str
    means: tuple[tuple[str, float], ...]
    """Level and mean over its ranked trials, in the metric's unit."""
    reason: str | None
    """Why there is no test; None where another sentence has it."""

    @property
    def words(self) -> str:
        """Each level's mean, and why there is no test."""
        (_, first), *others = self.means
        if all(mean == first for _, mean in others):
            name = escaped(self.hyperparameter)
            return f"**{name}**: {self.metric} is {number(first, 3)} at every level."
        parts = ", ".join(f"{escaped(level)}: {number(mean, 3)}" for level, mean in self.means)
        untested = "" if self.reason is None else f"; not tested ({escaped(self.reason)})"
        return f"**{escaped(self.hyperparameter)}**: mean {self.metric} at {parts}{untested}."


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
class OneConfiguration:
    """The answer of a sweep with one ranked configuration."""

    label: str
    seeds: int
    values: tuple[tuple[str, float], ...]
    """Metrics and their means."""

    @property
    def words(self) -> str:
        """Its metrics."""
        values = ", ".join(f"{name} {number(value)}" for name, value in self.values)
        return (
            f"One configuration is ranked, {code(self.label)} ({counted(self.seeds, 'seed')}): "
            f"{values}. Nothing can be compared with it."
        )


@dataclass(frozen=True)
class LargestChange:
    """The setting that moves a metric most, and those that do not move it detectably."""

    hyperparameter: str
    metric: str
    best: str
    """Its best level."""
    span: float
    """Between its best and its worst level, the other settings held, on the metric's scale."""
    second: str | None
    """The next whose effect is claimed."""
    second_best: str | None
    second_span: float | None
    undetected: tuple[str, ...]
    price: str | None
    """The metric that the first worsens by construction."""

    @property
    def words(self) -> str:
        """The two largest spans."""
        metric, name = METRICS[self.metric], escaped(self.hyperparameter)
        first = wording.percent(metric, self.span)
        held = "other settings held"
        held += "" if self.price is None else f", at the price of {self.price}"
        none = escaped(listed(list(self.undetected)))
        if self.second is None or self.second_span is None:
            rest = f"; no change by {none} is detected" if none else ""
            return (
                f"**Only {name} is worth changing for {self.metric}:** {first} between its worst "
                f"level and its best, {escaped(self.best)}, {held}{rest}."
            )
        rest = f"; not detectably {none}" if none else ""
        return (
            f"**{name} is worth most for {self.metric}:** {first} between its worst level and its "
            f"best, {escaped(self.best)}, {held}; next {escaped(self.second)}, "
            f"{wording.percent(metric, self.second_span)}, best {escaped(str(self.second_best))}"
            f"{rest}."
        )


@dataclass(frozen=True)
class NothingMoves:
    """Settings without a claimed effect on a metric."""

    metric: str
    settings: tuple[str, ...]

    @property
    def words(self) -> str:
        """Which."""
        names = escaped(listed(list(self.settings)))
        return f"**No change of {names} is worth anything detectable for {self.metric}.**"


@dataclass(frozen=True)
class NoInteraction:
    """Two settings of the question that were tested for an interaction."""

    first: str
    second: str
    metric: str
    q: float

    @property
    def words(self) -> str:
        """What was not detected."""
        return (
            f"No dependence of the effect of {escaped(self.first)} on {escaped(self.second)} is "
            f"detected ({self.metric}, q {wording.equals(self.q)})."
        )


@dataclass(frozen=True)
class Reached:
    """The L0 of the trials that asked for one."""

    setting: str
    levels: tuple[tuple[float, float, float, int], ...]
    """Asked for, the lowest and the highest L0 reached, trials."""
    worst: float
    """The largest relative deviation."""

    @property
    def words(self) -> str:
        """Each level's range."""
        parts = [
            f"{number(asked)}: {number(low, 3)} to {number(high, 3)}"
            for asked, low, high, _ in self.levels
        ]
        n = sum(trials for *_, trials in self.levels)
        return (
            f"**L0 reached for each {self.setting}** ({counted(n, 'trial')}): {'; '.join(parts)}; "
            f"at most {100 * self.worst:.2g} % off."
        )


@dataclass(frozen=True)
class NearestTrial:
    """The trial whose L0 is nearest to a target."""

    metric: str
    target: float
    label: str
    uid: str
    setting: str | None
    """What sets the L0 of its kind."""
    value: float | None
    reached: float
    within: bool
    """Whether it lies within the tolerance of the search."""
    tolerance: float
    fvu: float | None
    trials: int

    @property
    def words(self) -> str:
        """The trial, the setting of its L0, and by how much it misses."""
        off = 100 * (self.reached / self.target - 1)
        met = "within" if self.within else "outside"
        at = "" if self.value is None else f" at {self.setting} {number(self.value)}"
        fvu = "" if self.fvu is None else f", fvu {number(self.fvu)}"
        return (
            f"Nearest of {counted(self.trials, 'trial')} to {self.metric} {number(self.target)}: "
            f"{code(self.label)} ({code(self.uid)}){at}, {self.metric} {number(self.reached)} "
            f"({off:+.3g} %, {met} the tolerance of {100 * self.tolerance:g} %){fvu}."
        )


@dataclass(frozen=True)
class NothingRanked:
    """No trial can be compared."""

    trials: int
    statuses: tuple[tuple[str, int], ...]
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
        ended = listed([f"{n:,} {status}" for status, n in self.statuses])
        return (
            f"No trial of {self.trials:,} is ranked ({ended}): none ended with a finite fvu below "
            "1, which is what predicting the mean scores."
        )


def answer(context: ReportContext) -> list[Claim]:
    """The answer to the sweep's question, the most direct sentences first."""
    study = context.study
    if study.ranked.empty:
        finished = bool(study.where("done").any())
        statuses = tuple(Counter(study.trials["status"]).most_common())
        missing = finished and bool(np.isnan(study.trials.get("fvu", np.array([np.nan]))).all())
        return (
            [NothingRanked(len(study.trials), statuses, missing, _measured(study))]
            if len(study.trials)
            else []
        )
    settings, metrics, fixed = about(study)
    found: list[Claim] = [*_target(study)]
    found += [] if found else established(study)
    found += _joint(study, settings, metrics)
    keys = {one.key for one in settings}
    if keys & PENALTY and keys <= {*PENALTY, *WIDTHS} and keys & set(WIDTHS):
        found += width_laws(study)
    if any(one.name == "fvu" for one in metrics):
        beside = [one for one in metrics if one.name in BESIDE_FVU]
        found += orders(study, beside, measured_rows(study, beside))
    if "sae.kind" in keys:
        found += at_equal_l0(study, [one.name for one in metrics])
    found += [*_reached(study, "target_l0"), *_reached(study, "l0_target")]
    said = {"sae.kind", *ASKED, *PENALTY} if any(map(_is_direct, found)) else set()
    effects = [one for one in settings if one.key not in said]
    found += _effects(study, effects, metrics)
    lost = [
        one
        for one in failures.sentences(study)
        if isinstance(one, FailuresBySetting | FailuresOfPair)
    ]
    if len(study.configurations) == 1:
        found = [_only(study)]
    return [*lost, *found[:MOST], *([NotVaried(tuple(fixed))] if fixed else [])]


def _only(study: Study) -> Claim:
    uid = str(study.configurations.index[0])
    row = study.configurations.iloc[0]
    values = tuple((one.name, float(row[one.name])) for one in study.main_metrics)
    values += (("l0", float(row["l0"])),) if "l0" in row and not study.l0_varies else ()
    return OneConfiguration(study.member(uid).trial.label, int(row["seeds"]), values)


def _measured(study: Study) -> tuple[str, ...]:
    return tuple(one.name for one in study.metrics if study.trials[one.name].notna().any())


def _joint(study: Study, settings: list[Hyperparameter], metrics: list[Metric]) -> Iterator[Claim]:
    """The interactions that decide which level is best, then those within the question."""
    estimates = effect_tests.estimate(study)
    keys, names = {one.key for one in settings}, {one.name for one in metrics}
    for one in estimates.claimed_pairs:
        pair = {one.first.key, one.second.key}
        if one.metric.name in names and keys & pair and (one.moves or pair == keys):
            yield interactions.claim_of(one, estimates)


def _is_direct(claim: Claim) -> bool:
    """Whether a sentence answers for what sets the L0, or for the kinds, by itself."""
    return not isinstance(claim, Established | interactions.Interacts)


def about(study: Study) -> tuple[list[Hyperparameter], list[Metric], list[str]]:
    """The settings and metrics of the question, and settings of it that did not vary."""
    stated = _stated(study)
    wanted = stated.get("settings") or [one.key for one in study.hyperparameters]
    by_key = {one.key: one for one in study.hyperparameters}
    aliases = {"sae.n_latents": "sae.expansion_factor", "sae.expansion_factor": "sae.n_latents"}
    found, fixed = [], []
    for key in wanted:
        if (one := by_key.get(key) or by_key.get(aliases.get(key, ""))) is not None:
            found.append(one)
        else:
            fixed.append(key)
    names = stated.get("metrics") or [one.name for one in effect_tests.outcomes(study)]
    known = {one.name: one for one in [*study.metrics, *effect_tests.outcomes(study)]}
    wanted_metrics = dict.fromkeys(SAME.get(name, name) for name in names)
    return found, [known[name] for name in wanted_metrics if name in known], fixed


class Target(NamedTuple):
    """What a search was to reach, and the trial nearest to it."""

    metric: str
    """l0_fraction or l0."""
    value: float
    tolerance: float
    uid: str
    reached: float

    @property
    def is_met(self) -> bool:
        """Whether the trial lies within the tolerance."""
        return abs(self.reached / self.value - 1) <= self.tolerance


def target(study: Study) -> Target | None:
    """The target of a search for an L0; None without one, or without a trial that has an L0."""
    search = study.run.config.get("search", {})
    metric = "l0_fraction" if search.get("target") is not None else "l0"
    wanted = search.get("target") or search.get("target_count")
    values = study.ranked.get(metric, pd.Series(dtype=float)).dropna()
    if wanted is None or values.empty:
        return None
    uid = str((values / wanted - 1).abs().idxmin())
    tolerance = float(search.get("tolerance", 0.1))
    return Target(metric, float(wanted), tolerance, uid, float(values[uid]))


def _stated(study: Study) -> dict[str, Any]:
    return study.run.config.get("sweep", {}).get("about") or {}


def _target(study: Study) -> Iterator[Claim]:
    """The penalty that meets the target of a search, and the trial nearest to it."""
    found = target(study)
    if found is None:
        return
    weights = alphas_for_target(study)
    yield from (one for one in weights if isinstance(one, AlphaForTarget))
    trial, fvu = study.member(found.uid).trial, study.value(found.uid, "fvu")
    moves = l0_setting({"kind": "l1", **trial.config.get("sae", {})})
    yield NearestTrial(
        found.metric,
        found.value,
        trial.label,
        found.uid,
        None if moves is None else moves.name,
        None if moves is None else moves.value,
        found.reached,
        found.is_met,
        found.tolerance,
        None if np.isnan(fvu) else fvu,
        len(study.trials),
    )
    yield from (one for one in weights if not isinstance(one, AlphaForTarget))


def _reached(study: Study, name: str) -> Iterator[Claim]:
    """The L0 reached for each target, as a count or as a share of the latents."""
    section = "sae" if name == "target_l0" else "train"
    if f"{section}.{name}" not in {one.key for one in study.hyperparameters}:
        return
    metric = "l0" if name == "target_l0" else "l0_fraction"
    pairs: dict[float, list[float]] = {}
    for uid, reached in study.ranked.get(metric, pd.Series(dtype=float)).dropna().items():
        asked = study.member(str(uid)).trial.config.get(section, {}).get(name)
        if asked:
            pairs.setdefault(float(asked), []).append(float(reached))
    if pairs:
        levels = tuple((one, min(at), max(at), len(at)) for one, at in sorted(pairs.items()))
        worst = max(abs(end / one - 1) for one, low, high, _ in levels for end in (low, high))
        yield Reached(name, levels, worst)


def _effects(
    study: Study, settings: list[Hyperparameter], metrics: list[Metric]
) -> Iterator[Claim]:
    """What each setting changes, the settings that explain most first."""
    estimates = effect_tests.estimate(study)
    effects = [
        one
        for metric in metrics
        for one in estimates.of(metric)
        if any(one.hyperparameter is setting for setting in settings)
    ]
    keys = {one.key for one in settings}
    for metric in metrics[:1]:
        joint = any(
            one.metric is metric and {one.first.key, one.second.key} & keys
            for one in estimates.claimed_pairs
        )
        yield from _largest(metric, [one for one in effects if one.metric is metric], joint=joint)
    for pair in estimates.pairs:
        is_asked = {pair.first.key, pair.second.key} == keys
        if is_asked and pair.metric is metrics[0] and not pair.is_claimed:
            yield NoInteraction(pair.first.name, pair.second.name, pair.metric.name, pair.q)
    ranked = settings
    if not _stated(study).get("settings"):
        ranked = sorted(settings, key=lambda one: -_weight(effects, one))
    for setting in ranked:
        own = [one for one in effects if one.hyperparameter is setting]
        shaped = [one for one in own if one.finding in ("bent", "flat") or one.raw_disagrees]
        yield from (claims.claim_of(one, estimates) for one in shaped)
        own = [one for one in own if one not in shaped]
        yield from _changes(setting, own, held=len(study.hyperparameters) > 1)
        for one in own:
            yield from _best_or_means(study, one)
            if len(settings) == 1 and len(setting.order) > 2 and one.is_claimed:
                yield from _by_level(study, setting, one.metric, None)
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


def _largest(metric: Metric, effects: list[Effect], *, joint: bool) -> Iterator[Claim]:
    """Which of several settings is worth changing; `joint`: whether two of them interact."""
    tested = [one for one in effects if not one.reason and one.adjusted is not None]
    if len(tested) < 2:
        return
    claimed = [
        (float(np.ptp(one.adjusted.means)), one)
        for one in tested
        if one.adjusted and one.is_claimed
    ]
    claimed.sort(key=lambda pair: -pair[0])
    none = tuple(one.hyperparameter.name for one in tested if not one.is_claimed)
    if not claimed:
        if not joint:
            yield NothingMoves(metric.name, none)
        return
    sign = 1 if metric.direction == "up" else -1
    (span, first), *others = claimed
    second = others[0] if others else None
    yield LargestChange(
        first.hyperparameter.name,
        metric.name,
        _best_level(first),
        sign * span,
        None if second is None else second[1].hyperparameter.name,
        None if second is None else _best_level(second[1]),
        None if second is None else sign * second[0],
        none,
        PRICES.get(first.hyperparameter.key),
    )


def _best_level(one: Effect) -> str:
    return "" if one.best is None else one.best.level


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
    """Whether the best level is more informative than the change from first to last."""
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


def _by_level(
    study: Study, one: Hyperparameter, metric: Metric, reason: str | None
) -> Iterator[Claim]:
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
