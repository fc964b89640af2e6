"""Replay of stop rules on the finished trials of a sweep."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.findings.fronts import fronts
from analysis.findings.noise import floor
from analysis.study.table import Curve, Study
from sae_sweep.records import METRICS, Metric
from sae_sweep.rules.replay import Course, replay
from sae_sweep.rules.stop_rules import Halving, Moment, Plateau, Warning
from sae_sweep.rules.stop_settings import SHIPPED, build_policy, subject
from sae_sweep.rules.stopping import Policy

Reports = tuple[Int[np.ndarray, " t"], dict[str, Float[np.ndarray, " t"]]]
"""Steps, and values by metric."""


class Good(NamedTuple):
    """The trials that a stop rule should not end.

    A trial is good while no other is better in one objective by more than its tolerance and not
    worse in any by more than that: without tolerances the front, with them whom noise does not
    tell from it.
    """

    objectives: list[Metric]
    tolerances: list[float]
    """The noise floor's detectable difference on the metric's scale; 0 where noise is unknown."""
    uids: frozenset[str]


def good(study: Study) -> Good:
    """Those of the report's first front, or the lowest in fvu where only it varies."""
    found = fronts(study)
    objectives = found[0].objectives if found else [METRICS["fvu"]]
    ranked = study.trials["ranked"].to_numpy()
    floors = [floor(study, one) if one.name in study.scaled else None for one in objectives]
    tolerances = [0.0 if one is None else one.detectable for one in floors]
    values = np.stack([_losses(study, one) for one in objectives], axis=1)
    known = ranked & ~np.isnan(values).any(axis=1)
    best = _unbeaten(values[known], np.array(tolerances))
    uids = frozenset(map(str, study.trials.index[known][best]))
    return Good(objectives, tolerances, uids)


def _losses(study: Study, metric: Metric) -> Float[np.ndarray, " n"]:
    """A metric on its scale, turned so that less is better; NaN where there is none."""
    table = study.scaled if metric.name in study.scaled else study.trials
    if metric.name not in table:
        return np.full(len(study.trials), np.nan)
    values = table[metric.name].to_numpy(dtype=np.float64)
    return -values if metric.direction == "up" else values


def _unbeaten(
    values: Float[np.ndarray, "n k"], tolerances: Float[np.ndarray, " k"]
) -> Bool[np.ndarray, " n"]:
    beaten = [
        bool(
            (
                (values <= one + tolerances).all(axis=1) & (values < one - tolerances).any(axis=1)
            ).any()
        )
        for one in values
    ]
    return ~np.array(beaten, dtype=bool)


class Rule(NamedTuple):
    """A rule that is replayed."""

    name: str
    policy: Policy
    words: str
    """When it ends a trial."""


class Replayed(NamedTuple):
    """The outcome of a rule, as uids in the sweep's order."""

    rule: Rule
    good_ended: list[str]
    good_kept: list[str]
    others_ended: list[str]
    others_kept: list[str]
    saved: float
    """Share of the tokens of all these trials."""


def rules(study: Study) -> list[Rule]:
    """The shipped rules, and the sweep's own where they differ."""
    found = [Rule(f"stop={name}", one, in_words(one)) for name, one in SHIPPED.items()]
    settings = study.run.config
    if "stop" in settings:
        search = settings.get("search", {})
        targets = {name: search.get(name) for name in ("target", "target_count")}
        own = build_policy(settings["stop"], targets)
        parts = {
            "the sweep's warnings": Policy(warnings=own.warnings),
            "the sweep's plateau": Policy(plateau=own.plateau),
            "the sweep's halving": Policy(halving=own.halving),
        }
        known = [Policy(), *SHIPPED.values()]
        found += [Rule(name, one, in_words(one)) for name, one in parts.items() if one not in known]
    return found


def replayed(study: Study, found: Good) -> list[Replayed]:
    """Every rule on the course of the finished trials that have one; none where no trial has."""
    asked = rules(study)
    reports = _reports(study, sorted({name for one in asked for name in one.policy.metrics}))
    if not reports:
        return []
    configs = {record.uid: record.config for record in study.records}
    results = []
    for rule in asked:
        courses = [
            Course(subject(rule.policy, uid, configs[uid], _cadence(steps)), steps, values)
            for uid, (steps, values) in reports.items()
        ]
        pruned = replay(rule.policy, courses)
        left = [
            (one.subject.steps - pruned[one.subject.uid].step) * one.subject.batch_size
            for one in courses
            if one.subject.uid in pruned
        ]
        parts: dict[tuple[bool, bool], list[str]] = {}
        for one in courses:
            uid = one.subject.uid
            parts.setdefault((uid in found.uids, uid in pruned), []).append(uid)
        whole = sum(one.subject.steps * one.subject.batch_size for one in courses)
        results.append(
            Replayed(
                rule,
                parts.get((True, True), []),
                parts.get((True, False), []),
                parts.get((False, True), []),
                parts.get((False, False), []),
                sum(left) / whole,
            )
        )
    return results


def _reports(study: Study, metrics: Sequence[str]) -> dict[str, Reports]:
    """What the finished trials reported while they trained, by uid in the sweep's order."""
    done = study.trials.index[study.where("done") & study.trials["tokens"].notna().to_numpy()]
    uids = list(map(str, done))
    curves = {name: study.history(uids, name) for name in metrics}
    each = {uid: {name: of[uid] for name, of in curves.items() if uid in of} for uid in uids}
    return {uid: _aligned(own) for uid, own in each.items() if own}


def _aligned(curves: Mapping[str, Curve]) -> Reports:
    """A trial's curves over one sequence of steps, NaN where a metric has no report."""
    steps = np.unique(np.concatenate([steps for steps, _ in curves.values()]))
    values = {}
    for name, (at, of) in curves.items():
        values[name] = np.full(len(steps), np.nan)
        values[name][np.searchsorted(steps, at)] = of
    return steps, values


def _cadence(steps: Int[np.ndarray, " t"]) -> int:
    """Steps between reports: it is no part of a trial's settings."""
    return int(np.diff(steps, prepend=0).min())


def in_words(policy: Policy) -> str:
    """When a policy ends a trial."""
    parts = [_warning(one) for one in policy.warnings]
    parts += [_plateau(policy.plateau)] if policy.plateau is not None else []
    parts += [_halving(policy.halving)] if policy.halving is not None else []
    return "; ".join(parts)


def _moment(at: Moment) -> str:
    return f"step {at.step:,}" if at.share is None else f"{100 * at.share:g} % of the steps"


def _warning(rule: Warning) -> str:
    joined = (" and " if rule.every else " or ").join(
        f"{one.metric} {one.comparison} {one.bound:g}" for one in rule.conditions
    )
    return f"{joined} at {_moment(rule.at)}"


def _plateau(rule: Plateau) -> str:
    unit = METRICS[rule.metric].unit
    return (
        f"sd of {rule.metric} over {rule.window_steps:,} steps below {rule.sd_below:g} {unit} with "
        f"confidence {rule.confidence:g}, from {_moment(rule.after)} on"
    )


def _halving(rule: Halving) -> str:
    group = (
        f"one l0 band of a factor of {rule.l0_band:g}"
        if rule.l0_band is not None
        else f"equal {', '.join(rule.group_by)}"
    )
    return (
        f"{rule.metric} not among the best 1/{rule.factor:g} of those of {group} so far, at "
        f"{_moment(rule.first)} and every {rule.factor:g} times as far"
    )
