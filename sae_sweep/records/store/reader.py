"""Reading the store: sweeps, their trials, the course of metrics. Never writes.

A database is a file that anybody may have sent: what is read of it is checked here, once.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, func, select

from sae_sweep.errors import BadInput, printable
from sae_sweep.records.names import checked_component, checked_name
from sae_sweep.records.store import owner
from sae_sweep.records.store.connection import (
    damaged,
    explaining,
    now,
    open_for_reading,
    shown,
)
from sae_sweep.records.store.tables import (
    EVENT,
    MEMBER,
    METRIC,
    METRIC_NAME,
    RUN,
    STATE,
    TRIAL,
)
from sae_sweep.records.trial import Row, TrialRecord
from sae_sweep.records.uid import digest

NOTES = "notes"
"""The name under which a run keeps what it noted of how inputs were read."""

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


class OpenRun(NamedTuple):
    """A run that has not finished."""

    id: int
    name: str
    owner: dict[str, Any]
    heartbeat: float
    """When its driver was last heard of, by the clock of the database."""
    state: owner.State


class Member(NamedTuple):
    """A trial as a sweep asked for it."""

    assignment: dict[str, Any]
    """The axes' values, by dotted key, in the order of the axes."""
    trial: TrialRecord


class Sweep(NamedTuple):
    """The latest run of a sweep and its trials, in the order of the expansion."""

    run: Run
    members: list[Member]
    notes: tuple[str, ...] = ()
    """What its runs noted of how inputs were read."""

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
        noted = [list(self.notes)] if self.notes else []
        return digest([self.run.name, self.run.question, seen, *noted])


class Event(NamedTuple):
    """Something that happened to a run or a trial."""

    time: float
    kind: str
    text: str
    uid: str | None


T = TypeVar("T")

RECORD = [TRIAL.c[field.name] for field in fields(TrialRecord)]
"""The columns of a record: a store of an earlier schema has them too."""

GROUPS = ("activations", "sae", "train")
"""What every trial has settings of."""

_TRIAL = TypeAdapter(TrialRecord)
_RUN = TypeAdapter(Run)
_OPEN_RUN = TypeAdapter(OpenRun)
_EVENT = TypeAdapter(Event)
_ASSIGNMENT = TypeAdapter(dict[str, Any])
_TEXTS = TypeAdapter(list[str])


class Reader:
    """Read-only access to a store."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_for_reading(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with explaining(self._engine), self._engine.connect() as connection:
            yield connection

    def runs(self) -> list[Run]:
        """The latest run of every sweep, newest first."""
        latest = select(func.max(RUN.c.id)).group_by(RUN.c.name)
        query = select(RUN).where(RUN.c.id.in_(latest)).order_by(RUN.c.id.desc())
        with self._connection() as connection:
            return [_run(connection, row) for row in connection.execute(query).mappings().all()]

    def sweep(self, name: str | None = None) -> Sweep:
        """A sweep by name; the latest where none is given.

        Raises:
            BadInput: no sweep of that name, or none at all.
        """
        query = select(RUN).order_by(RUN.c.id.desc()).limit(1)
        if name is not None:
            query = query.where(RUN.c.name == name)
        with self._connection() as connection:
            row = connection.execute(query).mappings().first()
            if row is None:
                raise BadInput(self._no_sweep(name))
            members = read_members(connection, row["id"])
            return Sweep(_run(connection, row), members, _notes(connection, row["name"]))

    def _no_sweep(self, name: str | None) -> str:
        names = [run.name for run in self.runs()]
        if not names:
            return "the store holds no sweep yet: run one, e.g. python -m sae_sweep +sweep=smoke"
        return f"no sweep is called {name}: there are {', '.join(names)}"

    def trials(self, uids: Sequence[str]) -> dict[str, TrialRecord]:
        """The records that exist, by uid."""
        with self._connection() as connection:
            return read_trials(connection, uids)

    def find(self, name: str) -> TrialRecord:
        """A trial by label, folder name or unique beginning of its uid.

        Raises:
            BadInput: none or several match.
        """
        uid = name.rsplit("-", maxsplit=1)[-1]
        wanted = (
            TRIAL.c.uid.startswith(name, autoescape=True)
            | (TRIAL.c.label == name)
            | (TRIAL.c.uid == uid)
        )
        with self._connection() as connection:
            found = trial_records(connection, wanted)
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
        with self._connection() as connection:
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
        with self._connection() as connection:
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
        query = select(STATE.c.value).where(STATE.c.run == run, STATE.c.name == name)
        with self._connection() as connection:
            return connection.scalar(query)

    def states(self, name: str) -> list[Any]:
        """What every run kept under a name, oldest first."""
        with self._connection() as connection:
            return read_states(connection, name)

    def all_trials(self) -> list[TrialRecord]:
        """Every trial of the store, in the order in which they came."""
        with self._connection() as connection:
            return trial_records(connection)

    def events(self, run: int) -> list[Event]:
        """What happened in a run, in order."""
        query = (
            select(EVENT.c.time, EVENT.c.kind, EVENT.c.text, TRIAL.c.uid)
            .outerjoin(TRIAL, TRIAL.c.pk == EVENT.c.trial)
            .where(EVENT.c.run == run)
            .order_by(EVENT.c.id)
        )
        with self._connection() as connection:
            rows = connection.execute(query).mappings().all()
            return [_checked(connection, _EVENT, dict(row)) for row in rows]


def _notes(connection: Connection, sweep: str) -> tuple[str, ...]:
    """What the runs of a sweep noted, once each."""
    query = (
        select(STATE.c.value)
        .join(RUN, RUN.c.id == STATE.c.run)
        .where(RUN.c.name == sweep, STATE.c.name == NOTES)
        .order_by(STATE.c.run)
    )
    kept = [_checked(connection, _TEXTS, one) for one in connection.execute(query).scalars()]
    return tuple(dict.fromkeys(text for one in kept for text in one))


def _run(connection: Connection, row: RowMapping) -> Run:
    named = {name: row[name] for name in Run._fields if name != "alive"}
    alive = row["finished"] is None and any(
        one.state == "alive" for one in open_runs(connection, RUN.c.id == row["id"])
    )
    run = _checked(connection, _RUN, {**named, "alive": alive})
    checked_name(run.name, f"store.url={shown(connection.engine.url)}: sweep")
    return run


def open_runs(connection: Connection, *where: ColumnElement[bool]) -> list[OpenRun]:
    """The runs that have not finished, and what is known of their drivers."""
    columns = (RUN.c.id, RUN.c.name, RUN.c.owner, RUN.c.heartbeat)
    query = select(*columns).where(RUN.c.finished.is_(None), *where)
    rows = connection.execute(query).mappings().all()
    clock = now(connection) if rows else 0.0
    found = [_checked(connection, _OPEN_RUN, {**row, "state": "dead"}) for row in rows]
    return [one._replace(state=owner.state(one.owner, clock - one.heartbeat)) for one in found]


def keys(
    connection: Connection, uids: Sequence[str], *where: ColumnElement[bool]
) -> dict[str, tuple[int, int]]:
    """Primary key and number of the latest claim of the trials that exist, by uid."""
    found: dict[str, tuple[int, int]] = {}
    query = select(TRIAL.c.uid, TRIAL.c.pk, TRIAL.c.claim).where(*where)
    for start in range(0, len(uids), CHUNK):
        part = query.where(TRIAL.c.uid.in_(uids[start : start + CHUNK]))
        found.update((uid, (pk, claim)) for uid, pk, claim in connection.execute(part))
    return found


def trial_records(connection: Connection, *where: ColumnElement[bool]) -> list[TrialRecord]:
    """The trials of which this is so, in the order in which they came."""
    query = select(*RECORD).where(*where).order_by(TRIAL.c.pk)
    rows = connection.execute(query).mappings().all()
    return [_trial_record(connection, row) for row in rows]


def read_trials(connection: Connection, uids: Sequence[str]) -> dict[str, TrialRecord]:
    """The records that exist, by uid."""
    found = {}
    for start in range(0, len(uids), CHUNK):
        for one in trial_records(connection, TRIAL.c.uid.in_(uids[start : start + CHUNK])):
            found[one.uid] = one
    return found


def read_members(connection: Connection, run: int) -> list[Member]:
    """The trials of a run, in the order of the expansion."""
    query = (
        select(*RECORD, MEMBER.c.assignment)
        .join(MEMBER, MEMBER.c.trial == TRIAL.c.pk)
        .where(MEMBER.c.run == run)
        .order_by(MEMBER.c.position)
    )
    found = connection.execute(query).mappings().all()
    return [
        Member(
            _checked(connection, _ASSIGNMENT, one["assignment"]),
            _trial_record(connection, one),
        )
        for one in found
    ]


def read_states(connection: Connection, name: str) -> list[Any]:
    """What every run kept under a name, oldest first."""
    query = select(STATE.c.value).where(STATE.c.name == name).order_by(STATE.c.run)
    return list(connection.execute(query).scalars())


def read_history(
    connection: Connection, uids: Iterable[str], metric: str
) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The course of one metric: steps [t] and values [t], by uid."""
    wanted = list(uids)
    name = select(METRIC_NAME.c.id).where(METRIC_NAME.c.name == metric).scalar_subquery()
    query = (
        select(METRIC.c.trial, METRIC.c.step, METRIC.c.value)
        .where(METRIC.c.name == name)
        .order_by(METRIC.c.trial, METRIC.c.step)
    )
    found = {}
    for start in range(0, len(wanted), CHUNK):
        named = select(TRIAL.c.pk, TRIAL.c.uid).where(
            TRIAL.c.uid.in_(wanted[start : start + CHUNK])
        )
        uid = {row["pk"]: row["uid"] for row in connection.execute(named).mappings()}
        cursor = connection.execute(query.where(METRIC.c.trial.in_(list(uid)))).cursor
        assert cursor is not None
        # the driver's own tuples: a large sweep has millions, and each SQLAlchemy row costs as much
        rows = cursor.fetchall()
        if not rows:
            continue
        # NULL, which stands for what is not finite, becomes NaN
        try:
            columns = np.array(rows, np.float64)
        except (ValueError, TypeError) as error:
            raise BadInput(damaged(connection.engine.url, f"{metric}: {error}")) from None
        of, steps = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64)
        starts = [0, *np.flatnonzero(of[1:] != of[:-1]) + 1]
        for first, stop in pairwise([*starts, len(rows)]):
            found[uid[int(of[first])]] = (steps[first:stop].copy(), columns[first:stop, 2].copy())
    return found


def _trial_record(connection: Connection, row: RowMapping) -> TrialRecord:
    record = _checked(connection, _TRIAL, {column.name: row[column.name] for column in RECORD})
    try:
        checked_component(record.folder)
    except ValueError as error:
        raise BadInput(damaged(connection.engine.url, str(error))) from None
    if lacking := [name for name in GROUPS if not isinstance(record.config.get(name), dict)]:
        said = f"trial {record.uid} has no settings of {', '.join(lacking)}"
        raise BadInput(damaged(connection.engine.url, said))
    return record


def _checked(connection: Connection, kind: TypeAdapter[T], values: Any) -> T:
    """Check what a row or a cell holds, and show what would act on a terminal."""
    try:
        return kind.validate_python(_shown(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(damaged(connection.engine.url, f"{place}: {first['msg']}")) from None


def _shown(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_shown(key): _shown(item) for key, item in value.items()}
        case list():
            return [_shown(item) for item in value]
        case _:
            return value
