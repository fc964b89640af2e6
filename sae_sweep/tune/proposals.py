"""Between a search and the driver: makes trials of points and reports outcomes to the search."""

import math
from functools import partial
from typing import Any

from sae_sweep.config import RunConfig, Trial
from sae_sweep.errors import BadInput
from sae_sweep.records import FINAL, METRICS, Outcome, Row, TrialRecord
from sae_sweep.records.store import Store
from sae_sweep.search import Point, Told, definition
from sae_sweep.tune.expansion import Expansion, Member
from sae_sweep.tune.stopping import ended

STATE = "search"
"""Name of a run's state for the search's definition."""

COSTS = [metric.name for metric in METRICS.values() if metric.kind == "cost"]


def costs(trial: Trial) -> dict[str, float]:
    """Settings of a trial that can be objectives, by name."""
    sae = trial.sae.model_dump()
    return {name: float(sae[name]) for name in COSTS if sae.get(name) is not None}


def take_up(store: Store, expansion: Expansion, config: RunConfig) -> None:
    """Add the trials of earlier starts of this search to this run.

    Raises:
        BadInput: it was another search, or its trials had other settings.
    """
    name, wanted = config.sweep.name, definition(config.sweep, config.search)
    kept = store.kept(name, STATE) if wanted is not None else None
    if kept is None or wanted is None:
        return
    run, before = kept
    for group, settings in wanted.items():
        for key, value in settings.items():
            if before[group].get(key) != value:
                raise BadInput(
                    f"{group}.{key}={value}, and sweep.name={name} has searched with "
                    f"{before[group].get(key)}: its trials answer another question; give a name "
                    f"of its own, e.g. sweep.name={name}-2"
                )
    for member in store.members(run):
        point = expansion.search.resume(member.assignment)
        trial = expansion.resolver.trial(point)
        if trial.uid != member.trial.uid:
            raise BadInput(
                f"sweep.name={name} has searched with other settings than these: its trial "
                f"{member.trial.label}-{member.trial.uid} would be {trial.folder} now; give a name "
                f"of its own, e.g. sweep.name={name}-2"
            )
        expansion.members.append(Member(trial, member.assignment))


class Proposals:
    """Gives the driver trials as the search names them; each is recorded before it runs."""

    def __init__(self, store: Store, run: int, expansion: Expansion, config: RunConfig) -> None:
        self._ended_before = partial(ended, config=config, states=store.states)
        self._store = store
        self._run = run
        self._expansion = expansion
        self._search = expansion.search
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        """Assignments that wait for the outcome of their trial, by uid."""
        self.notes: list[str] = []
        """Notes of the search."""
        for member in expansion.members:
            self._waiting[member.trial.uid] = [member.assignment]

    @property
    def exhausted(self) -> bool:
        """Whether no more trials will come."""
        return self._search.exhausted

    def ask(self, n: int) -> list[Trial]:
        """Name at most n trials to train; reports outcomes that the store holds to the search."""
        found: list[Trial] = []
        while len(found) < n and not self.exhausted:
            points = self._search.ask(n - len(found))
            self._note()
            found += [trial for point in points if (trial := self._enlist(point)) is not None]
            if not points:
                break
        return found

    def _enlist(self, point: Point) -> Trial | None:
        """Make a point's trial a member of the run; None where it needs no training of its own."""
        trial = self._expansion.resolver.trial(point)
        known = trial.uid in self._waiting
        self._waiting.setdefault(trial.uid, []).append(point.assignment)
        if not known:
            place = len(self._expansion.members)
            self._expansion.members.append(Member(trial, point.assignment))
            queued = TrialRecord(trial.uid, trial.label, "queued", trial.record)
            self._store.enlist(self._run, [(queued, point.assignment)], place)
        record = self._store.trials([trial.uid])[trial.uid]
        if self._ended_before([record]):
            self.ended(trial, record.outcome)
            return None
        return None if known else trial

    def _course(self, uid: str) -> dict[str, dict[int, float]]:
        """Curves of all metrics that a stopped trial has reported."""
        found = {name: self._store.history([uid], name).get(uid) for name in METRICS}
        return {
            name: {int(step): float(value) for step, value in zip(*course, strict=True)}
            for name, course in found.items()
            if course is not None
        }

    def _note(self) -> None:
        for text in self._search.notes():
            self.notes.append(text)
            self._store.event(self._run, "search", text)

    # -- what the driver tells -----------------------------------------------------------------

    def started(self, trial: Trial, step: int) -> None:
        """Do nothing: a search uses final outcomes only."""

    def reported(self, row: Row) -> None:
        """Do nothing: a search uses final outcomes only."""

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Report the outcome to the search, unless the trial will resume."""
        if outcome.status not in FINAL and outcome.status != "stopped":
            return
        finite = {name: one for name, one in outcome.final.items() if math.isfinite(one)}
        course = self._course(trial.uid) if outcome.status == "stopped" else {}
        waiting, self._waiting[trial.uid] = self._waiting.get(trial.uid, []), []
        for assignment in waiting:
            told = Told(outcome.status, {**costs(trial), **finite} if finite else {}, course)
            self._search.tell(assignment, told)
