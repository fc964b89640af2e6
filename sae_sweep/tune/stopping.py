"""The stop policy of a run: decisions are stored, and rows after them are ignored."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from sae_sweep.config import RunConfig, Trial, TrialConfig, nearest, settings
from sae_sweep.errors import BadInput
from sae_sweep.records import FINAL, Outcome, Row, TrialRecord
from sae_sweep.records.store import Store
from sae_sweep.rules.stop_rules import FEWEST_REPORTS, Moment, Subject
from sae_sweep.rules.stop_settings import build_policy, subject
from sae_sweep.rules.stopping import Policy, Pruner
from sae_sweep.tune.channel import Item, Room, Started

STATE = "stop"
"""Name of a run's state for its policy and the pruner."""

SECONDS_BETWEEN_KEEPS = 15.0
"""How often the pruner's clock is kept, where nothing else changes: what a kill can lose of it."""


def ended(
    records: Iterable[TrialRecord], config: RunConfig, states: Callable[[str], list[Any]]
) -> set[str]:
    """Trials that do not continue: finished, or stopped in any sweep with this policy.

    Args:
        records: of the trials.
        config: its stop is the policy.
        states: what every run of the store has kept under a name.
    """
    records = list(records)
    found = {one.uid for one in records if one.status in FINAL}
    stopped = {one.uid for one in records if one.status == "stopped"}
    if not stopped or not _policy(config).active:
        return found
    ours = [one["judge"] for one in states(STATE) if one["policy"] == definition(config)]
    return found | {uid for pruner in ours for uid in pruner["verdicts"] if uid in stopped}


class Stopping:
    """Applies the stop policy to slots' reports, for the driver."""

    def __init__(self, store: Store, run: int, config: RunConfig) -> None:
        policy = _policy(config)
        self._active = policy.active
        self._definition = definition(config)
        self._subject = partial(_subject, policy)
        self._store, self._run = store, run
        kept = store.kept(config.sweep.name, STATE) if policy.active else None
        alike = kept is not None and kept[1]["policy"] == self._definition
        self._pruner = Pruner(policy, kept[1]["judge"] if kept is not None and alike else None)
        self._clock: float | None = None
        self._kept = time.monotonic()

    def restart(self, uids: Iterable[str]) -> None:
        """Trials are to be trained from their beginning: earlier decisions do not count."""
        for uid in uids:
            self._pruner.forget(uid)
        self.keep()

    def begin(self, uid: str) -> None:
        """A slot is given a trial."""
        self._clock = self._clock or time.monotonic()
        self._pruner.begin(uid)

    @property
    def closed(self) -> bool:
        """Whether no new trial may begin."""
        return self._pruner.refusal() is not None

    def refusal(self, uid: str) -> Outcome | None:
        """Outcome of a queued trial that may not train; None where it may."""
        reason = self._pruner.refusal(uid) if self._active else None
        if reason is None:
            return None
        pruned = self._pruner.pruned.get(uid) or self._pruner.prune(
            uid, self._pruner.step(uid), reason
        )
        self.keep()
        return Outcome(uid, "stopped", pruned.step, {}, pruned.reason)

    def read(self, items: list[Item], trials: Mapping[str, Trial]) -> list[Item]:
        """Apply the policy to a slot's reports.

        Returns:
            What counts: no rows after a trial is pruned, and `stopped` however it has ended.
        """
        if not self._active:
            return items
        self._spend_time()
        counted = [one for item in items if (one := self._counted(item, trials)) is not None]
        reported = any(isinstance(item, Row) for item in items)
        if reported or time.monotonic() - self._kept > SECONDS_BETWEEN_KEEPS:
            self.keep()
        return counted

    def _counted(self, item: Item, trials: Mapping[str, Trial]) -> Item | None:
        """The item to record; None for a row after its trial was pruned."""
        if isinstance(item, Room):
            return item
        pruned = self._pruner.pruned.get(item.uid)
        match item:
            case Started():
                self._pruner.start(self._subject(trials[item.uid]), item.step)
            case Row() if pruned is None:
                subject = self._subject(trials[item.uid])
                self._pruner.observe(subject, item.step, item.values)
            case Row() if pruned is not None and item.step > pruned.step:
                return None
            case Outcome() if pruned is not None:
                end = Outcome(item.uid, "stopped", pruned.step, {}, pruned.reason)
                return end._replace(seconds=item.seconds)
        return item

    def to_stop(self, uids: Iterable[str]) -> list[str]:
        """Which of the trials in training to release: all, where the budget is used up."""
        if not self._active:
            return []
        reason, training = self._pruner.used_up(), list(uids)
        fresh = [uid for uid in training if reason and uid not in self._pruner.pruned]
        for uid in fresh:
            self._pruner.prune(uid, self._pruner.step(uid), reason or "")
        if fresh:
            self.keep()
        return [uid for uid in training if uid in self._pruner.pruned]

    def _spend_time(self) -> None:
        now = time.monotonic()
        if self._clock is not None:
            self._pruner.seconds += now - self._clock
        self._clock = now

    def keep(self) -> None:
        """Store the policy and the pruner's state."""
        if self._active:
            self._kept = time.monotonic()
            value = {"policy": self._definition, "judge": self._pruner.state}
            self._store.keep(self._run, STATE, value)


def definition(config: RunConfig) -> dict[str, Any]:
    """What makes two policies the same."""
    stop = config.stop.model_dump(mode="json", by_alias=True)
    return {"stop": stop, **config.search.targets}


def _policy(config: RunConfig) -> Policy:
    return build_policy(definition(config)["stop"], config.search.targets)


def refuse_idle_rules(config: RunConfig, trials: list[Trial]) -> None:
    """Refuse rules that no trial of a sweep can ever break.

    Args:
        config: its stop is looked at.
        trials: what may come to be trained.

    Raises:
        BadInput: names the rule.
    """
    policy = _policy(config)
    if not policy.active or not trials:
        return
    if policy.halving is not None:
        _refuse_unknown_groups(policy.halving.group_by)
    subjects = [_subject(policy, trial) for trial in trials]
    for warning in policy.warnings:
        _refuse_late("stop.warnings: at", warning.at, subjects)
    if (plateau := policy.plateau) is not None:
        _refuse_late("stop.plateau.after", plateau.after, subjects)
        most = max(plateau.reports(subject) for subject in subjects)
        if most < FEWEST_REPORTS:
            raise BadInput(
                f"stop.plateau.window_steps={plateau.window_steps} holds {most} reports, and a "
                f"deviation needs {FEWEST_REPORTS}: widen it, or lower train.report_every"
            )
    if policy.halving is not None:
        _refuse_late("stop.halving.first", policy.halving.first, subjects)
        largest = max(Counter(subject.group for subject in subjects).values())
        if largest < policy.halving.factor:
            raise BadInput(
                f"stop.halving.factor={policy.halving.factor:g} can never end a trial: the largest "
                f"group has {largest}; lower it, or compare wider groups"
            )
    spent = {
        "trials": len(subjects),
        "tokens": sum(subject.steps * subject.batch_size for subject in subjects),
    }
    for name, most in spent.items():
        bound = getattr(policy.budget, name)
        if bound is not None and bound >= most:
            raise BadInput(
                f"stop.budget.{name}={bound} can never be used up: the sweep has {most:,} in all; "
                "lower it or leave it out"
            )


def _refuse_late(what: str, at: Moment, subjects: list[Subject]) -> None:
    if all(at.reached(subject) is None for subject in subjects):
        when = f"_step={at.step}" if at.share is None else f"_share={at.share:g}"
        raise BadInput(
            f"{what}{when} can never apply: no trial reports between there and its end (at "
            f"most {max(one.steps for one in subjects):,} steps); choose an earlier one, or a "
            "smaller train.report_every"
        )


def _refuse_unknown_groups(keys: Iterable[str]) -> None:
    known = [one.key for one in settings(TrialConfig)]
    for key in keys:
        if key not in known:
            raise BadInput(f"stop.halving.group_by={key}: no such setting; {nearest(key, known)}")


def _subject(policy: Policy, trial: Trial) -> Subject:
    return subject(policy, trial.uid, trial.record, trial.report_every)
