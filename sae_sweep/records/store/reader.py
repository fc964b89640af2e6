"""Reading the store: sweeps, their trials, the course of metrics. Never writes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np
from sqlalchemy import Connection, Engine, RowMapping, func, select

from sae_sweep.errors import BadInput
from sae_sweep.records.store import owner, state
from sae_sweep.records.store.tables import EVENT, MEMBER, METRIC, METRIC_NAME, RUN, TRIAL
from sae_sweep.records.store.url import open_for_reading
from sae_sweep.records.trial import Row, TrialRecord
from sae_sweep.records.uid import digest

CHUNK = 500
"""Values in one IN (...), below the limits of both databases."""


class Run(NamedTuple):
    """One start of a sweep."""

    id: int
    name: str
    question: str
    started: float
    """Seconds since the epoch."""
    finished: float | None
    config: dict[str, Any]
    """The run's settings, axes included; store.url masked."""
    command: str
    git: str | None
    versions: dict[str, str]
    alive: bool
    """Whether its driver runs at this moment."""


class Member(NamedTuple):
    """A trial as a sweep asked for it."""

    assignment: dict[str, Any]
    """The axes' values, by dotted key, in the order of the axes."""
    trial: TrialRecord


class Sweep(NamedTuple):
    """The latest run of a sweep and its trials, in the order of the expansion."""

    run: Run
    members: list[Member]

    @property
    def trials(self) -> list[TrialRecord]:
        """The records of its trials."""
        return [member.trial for member in self.members]

    @property
    def digest(self) -> str:
        """Changes when the records that a report shows change; clocks do not count."""
        seen = [
            (member.assignment, trial.uid, trial.status, trial.final, trial.error)
            for member in self.members
            for trial in [member.trial]
        ]
        return digest([self.run.name, self.run.question, seen])


class Event(NamedTuple):
    """Something that happened to a run or a trial."""

    time: float
    kind: str
    text: str
    uid: str | None


class Reader:
    """Read-only access to a store."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_for_reading(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def runs(self) -> list[Run]:
        """The latest run of every sweep, newest first."""
        latest = select(func.max(RUN.c.id)).group_by(RUN.c.name)
        query = select(RUN).where(RUN.c.id.in_(latest)).order_by(RUN.c.id.desc())
        with self._engine.connect() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def sweep(self, name: str | None = None) -> Sweep:
        """A sweep by name; the latest where none is given.

        Raises:
            BadInput: no sweep of that name, or none at all.
        """
        query = select(RUN).order_by(RUN.c.id.desc()).limit(1)
        if name is not None:
            query = query.where(RUN.c.name == name)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
            if row is None:
                raise BadInput(self._no_sweep(name))
            return Sweep(_run(row), read_members(connection, row["id"]))

    def _no_sweep(self, name: str | None) -> str:
        names = [run.name for run in self.runs()]
        if not names:
            return "the store holds no sweep yet: run one, e.g. python -m sae_sweep +sweep=smoke"
        return f"no sweep is called {name}: there are {', '.join(names)}"

    def trials(self, uids: Sequence[str]) -> dict[str, TrialRecord]:
        """The records that exist, by uid."""
        with self._engine.connect() as connection:
            return read_trials(connection, uids)

    def find(self, name: str) -> TrialRecord:
        """A trial by label, folder name or unique beginning of its uid.

        Raises:
            BadInput: none or several match.
        """
        uid = name.rsplit("-", maxsplit=1)[-1]
        query = select(TRIAL).where(
            TRIAL.c.uid.startswith(name, autoescape=True)
            | (TRIAL.c.label == name)
            | (TRIAL.c.uid == uid)
        )
        with self._engine.connect() as connection:
            found = [trial_record(row) for row in connection.execute(query).mappings()]
        if not found:
            raise BadInput(f"no trial is called {name}: give a label or the beginning of a uid")
        if len(found) > 1:
            names = ", ".join(sorted(trial.folder for trial in found)[:5])
            raise BadInput(f"{name} names {len(found)} trials ({names}): give more of the uid")
        return found[0]

    def history(
        self, uids: Iterable[str], metric: str
    ) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The course of one metric: steps [t] and values [t] of every trial that reported it.

        Values that were not finite are NaN.
        """
        with self._engine.connect() as connection:
            return read_history(connection, uids, metric)

    def rows(self, after: Mapping[str, int]) -> dict[str, list[Row]]:
        """The reports of some trials after a step each, in order, by uid; NaN where not finite."""
        query = (
            select(TRIAL.c.uid, METRIC.c.step, METRIC_NAME.c.name, METRIC.c.value)
            .join(METRIC, METRIC.c.trial == TRIAL.c.pk)
            .join(METRIC_NAME, METRIC_NAME.c.id == METRIC.c.name)
            .order_by(METRIC.c.step)
        )
        found: dict[str, list[Row]] = {}
        with self._engine.connect() as connection:
            for uid, step in after.items():
                part = query.where(TRIAL.c.uid == uid, METRIC.c.step > step)
                for step, named in groupby(connection.execute(part), key=attrgetter("step")):
                    values = {
                        one.name: math.nan if one.value is None else one.value for one in named
                    }
                    found.setdefault(uid, []).append(Row(uid, step, values))
        return found

    def state(self, run: int, name: str) -> Any:
        """What a run kept under a name; None where it kept nothing."""
        with self._engine.connect() as connection:
            return state.of_run(connection, run, name)

    def states(self, name: str) -> list[Any]:
        """What every run kept under a name, oldest first."""
        with self._engine.connect() as connection:
            return state.of_all(connection, name)

    def all_trials(self) -> list[TrialRecord]:
        """Every trial of the store, in the order in which they came."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(TRIAL).order_by(TRIAL.c.pk)).mappings()
            return [trial_record(row) for row in rows]

    def events(self, run: int) -> list[Event]:
        """What happened in a run, in order."""
        query = (
            select(EVENT.c.time, EVENT.c.kind, EVENT.c.text, TRIAL.c.uid)
            .outerjoin(TRIAL, TRIAL.c.pk == EVENT.c.trial)
            .where(EVENT.c.run == run)
            .order_by(EVENT.c.id)
        )
        with self._engine.connect() as connection:
            return [Event(*row) for row in connection.execute(query)]


def _run(row: RowMapping) -> Run:
    alive = row["finished"] is None and owner.is_alive(row["owner"], row["heartbeat"])
    fields = {name: row[name] for name in Run._fields if name != "alive"}
    return Run(**fields, alive=alive)


def read_trials(connection: Connection, uids: Sequence[str]) -> dict[str, TrialRecord]:
    """The records that exist, by uid."""
    found = {}
    for start in range(0, len(uids), CHUNK):
        query = select(TRIAL).where(TRIAL.c.uid.in_(uids[start : start + CHUNK]))
        for row in connection.execute(query).mappings():
            found[row["uid"]] = trial_record(row)
    return found


def read_members(connection: Connection, run: int) -> list[Member]:
    """The trials of a run, in the order of the expansion."""
    query = (
        select(TRIAL, MEMBER.c.assignment)
        .join(MEMBER, MEMBER.c.trial == TRIAL.c.pk)
        .where(MEMBER.c.run == run)
        .order_by(MEMBER.c.position)
    )
    found = connection.execute(query).mappings()
    return [Member(one["assignment"], trial_record(one)) for one in found]


def read_history(
    connection: Connection, uids: Iterable[str], metric: str
) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The course of one metric: steps [t] and values [t], by uid."""
    wanted = list(uids)
    found = {}
    query = (
        select(TRIAL.c.uid, METRIC.c.step, METRIC.c.value)
        .join(METRIC, METRIC.c.trial == TRIAL.c.pk)
        .join(METRIC_NAME, METRIC_NAME.c.id == METRIC.c.name)
        .where(METRIC_NAME.c.name == metric)
        .order_by(TRIAL.c.uid, METRIC.c.step)
    )
    for start in range(0, len(wanted), CHUNK):
        part = query.where(TRIAL.c.uid.in_(wanted[start : start + CHUNK]))
        rows = connection.execute(part).all()
        if not rows:
            continue
        of, steps, values = zip(*rows, strict=True)
        # NULL, which stands for what is not finite, becomes NaN
        columns = np.array(of), np.array(steps), np.array(values, dtype=np.float64)
        starts = [0, *np.flatnonzero(columns[0][1:] != columns[0][:-1]) + 1]
        for start, stop in pairwise([*starts, len(rows)]):
            found[of[start]] = (columns[1][start:stop].copy(), columns[2][start:stop].copy())
    return found


def trial_record(row: Mapping[Any, Any]) -> TrialRecord:
    """A row of sweep_trial as a record."""
    names = TrialRecord.__dataclass_fields__
    fields = {name: row[name] for name in names if name != "always_on_ids"}
    return TrialRecord(**fields, always_on_ids=tuple(row["always_on_ids"]))
