"""A write-only copy of a sweep as an Optuna study, for optuna-dashboard."""

import math
import queue
import sqlite3
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sae_sweep.config import Trial, settings
from sae_sweep.records import FINAL, Outcome, Row, Status, TrialRecord
from sae_sweep.search import Objective
from sae_sweep.tune.expansion import Member
from sae_sweep.tune.proposals import costs

LOG_FROM_RATIO = 10.0
"""An axis of positive numbers is shown on a log scale from this ratio of its ends."""

STATES: dict[Status, TrialState] = {
    "done": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "oom": TrialState.FAIL,
}


class Ended(NamedTuple):
    """A trial that ended, as passed to the writer."""

    label: str
    outcome: Outcome
    course: dict[int, float]
    """The objective by step; empty where there are several."""


class OptunaMirror:
    """Adds each trial to the study when it ends: parameters, objectives, course, final metrics.

    A thread of its own writes, and what goes wrong there is said at the end: a copy that fails
    must neither hold up a sweep nor end it.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        records: Mapping[str, TrialRecord],
        path: Path,
        objective: Objective,
        ends: Sequence[Member] = (),
    ) -> None:
        """Create the study anew, with the trials that are done.

        Args:
            name: of the sweep and of the study.
            members: the trials and their axes; a search adds to them while it runs.
            records: what the store knows of them.
            path: SQLite file for Optuna's tables.
            objective: what the sweep's search seeks.
            ends: trials at the ends of a search's axes, for the bounds.
        """
        self._name = name
        self._path = path
        self._members = members
        self._objective = objective
        self._ends = ends
        self._course: dict[str, dict[int, float]] = {}
        self._ended: queue.Queue[Ended | None] = queue.Queue()
        self._failure: str | None = None
        for record in records.values():
            if record.status in FINAL:
                self._ended.put(Ended(record.label, record.outcome, {}))
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def started(self, trial: Trial, step: int) -> None:
        """Do nothing: a trial is shown when it ends."""

    def reported(self, row: Row) -> None:
        """Keep the curve of a single objective until the trial ends; Optuna has no other."""
        values = self._objective.values(row.values)
        if values is not None and len(values) == 1:
            self._course.setdefault(row.uid, {})[row.step] = values[0]

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Pass on a trial that will not run again by itself."""
        if outcome.status in STATES:
            self._ended.put(Ended(trial.label, outcome, self._course.pop(outcome.uid, {})))

    def close(self) -> None:
        """Wait until all is written; log what was not."""
        self._ended.put(None)
        self._writer.join()
        if self._failure is not None:
            sys.stderr.write(f"the Optuna mirror is incomplete: {self._failure}\n")

    def _write(self) -> None:
        try:
            known = [*self._ends, *self._members]
            axes = _distributions([member.assignment for member in known])
            with _fresh_study(self._name, self._path, self._objective) as study:
                for batch in _batches(self._ended):
                    asked = {member.trial.uid: member for member in self._members}
                    trials = [
                        _frozen(one, asked[one.outcome.uid], axes, self._objective) for one in batch
                    ]
                    study.add_trials(trials)
        except Exception as error:  # noqa: BLE001  (the copy's boundary: said by close())
            first = str(error).strip().partition("\n")[0]
            self._failure = f"{type(error).__name__}: {first}"


@contextmanager
def _fresh_study(name: str, path: Path, objective: Objective) -> Iterator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # not by URL: Optuna and SQLAlchemy, by version, see a meaning in a path's ?, %, { and }
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    storage = RDBStorage("sqlite:///optuna.db", engine_kwargs={"creator": connect})
    try:
        if name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            storage=storage, study_name=name, directions=objective.directions
        )
        with warnings.catch_warnings():  # Optuna calls the naming of objectives experimental
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(objective.titles)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _batches(ended: queue.Queue[Ended | None]) -> Iterator[list[Ended]]:
    """Batches of what is queued, until None."""
    while (first := ended.get()) is not None:
        waiting = [ended.get() for _ in range(ended.qsize())]
        yield [first, *(one for one in waiting if one is not None)]
        if None in waiting:
            return


def _frozen(
    ended: Ended, member: Member, axes: Mapping[str, BaseDistribution], objective: Objective
) -> FrozenTrial:
    """Make an Optuna trial: a failed one has no value, a complete one must."""
    label, outcome, course = ended
    params = {key: value for key, value in member.assignment.items() if value is not None}
    final = {key: value if math.isfinite(value) else None for key, value in outcome.final.items()}
    state = STATES[outcome.status]
    values = objective.values({**costs(member.trial), **outcome.final})
    if state is TrialState.COMPLETE and values is None:
        state = TrialState.FAIL
    told = {"uid": outcome.uid, "label": label, "status": outcome.status, "error": outcome.error}
    return create_trial(
        state=state,
        values=values if state is TrialState.COMPLETE else None,
        params={key: _plain(axes[key], value) for key, value in params.items()},
        distributions={key: axes[key] for key in params},
        user_attrs={**told, **final},
        intermediate_values=course,
    )


def _distributions(assignments: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """An axis as Optuna knows it: an interval of numbers, or choices."""
    values: dict[str, list[Any]] = {}
    for assignment in assignments:
        for key, value in assignment.items():
            if value is not None:
                values.setdefault(key, []).append(value)
    allowed = {setting.key: setting.choices for setting in settings()}
    return {
        key: _distribution(found, allowed.get(key, frozenset())) for key, found in values.items()
    }


def _distribution(values: Sequence[Any], allowed: frozenset[str]) -> BaseDistribution:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(sorted({*allowed, *map(str, values)}))
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOG_FROM_RATIO
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _plain(axis: BaseDistribution, value: Any) -> Any:
    return str(value) if isinstance(axis, CategoricalDistribution) else value
