"""Writing the store: one driver writes, every write may be repeated without harm."""

import contextlib
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from sae_sweep.errors import BadInput, CutShort
from sae_sweep.records.metrics import METRICS
from sae_sweep.records.store import claims, owner
from sae_sweep.records.store.claims import ClaimLost
from sae_sweep.records.store.connection import (
    Outage,
    explaining,
    lasting,
    now,
    open_for_writing,
    patient,
    transaction,
)
from sae_sweep.records.store.reader import (
    Member,
    keys,
    open_runs,
    read_history,
    read_members,
    read_states,
    read_trials,
)
from sae_sweep.records.store.tables import EVENT, MEMBER, METRIC, METRIC_NAME, RUN, STATE, TRIAL
from sae_sweep.records.trial import Outcome, Place, Row, TrialRecord

HEARTBEAT_SECONDS = 5.0


class Store:
    """Read and write access for the driver of a sweep.

    What belongs to a run or a trial is written only while the run is open and the claim under which
    this driver holds the trial is the latest; every such method raises ClaimLost otherwise.
    """

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_for_writing(url)
        with explaining(self._engine):
            self._names = self._metric_names()
        self.outage = Outage()
        self._numbers: dict[str, int] = {}
        """Of the claims that this driver has had, by uid."""
        self._stop_beating = threading.Event()
        self._beat: threading.Thread | None = None
        self._last_beat = 0.0
        self._closed = False
        """Whether another driver has closed the run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close; a database that failed on the way is a matter of the user's, said in words."""
        self.close()
        if isinstance(error, DBAPIError):
            raise CutShort(lasting(self._engine.url, error)) from None

    def close(self) -> None:
        """Stop the heartbeat and release the connections."""
        self._stop_beating.set()
        if self._beat is not None:
            self._beat.join()
        self._engine.dispose()

    def _metric_names(self) -> dict[str, int]:
        with transaction(self._engine) as connection:
            rows = [{"name": name} for name in METRICS]
            insert = _insert_into(connection, METRIC_NAME)
            connection.execute(insert.on_conflict_do_nothing(), rows)
            return {name: id_ for id_, name in connection.execute(select(METRIC_NAME))}

    # -- runs ----------------------------------------------------------------------------------

    def start_run(self, name: str, **fields: Any) -> int:
        """Begin a run and its heartbeat; trials of dead drivers become interrupted.

        Args:
            name: of the sweep.
            fields: question, config, command, git, versions of the run.

        Raises:
            BadInput: a living driver runs this sweep already.
        """
        me = owner.current_owner()
        with transaction(self._engine, alone=True) as connection:
            claims.close_dead_runs(connection, name=name)
            for one in open_runs(connection, RUN.c.name == name):
                raise BadInput(
                    f"sweep.name={name} is being run by process {one.owner.get('pid')} on "
                    f"{one.owner.get('host')}: wait for it, stop it, or choose another sweep.name"
                )
            clock = now(connection)
            values = {"name": name, "started": clock, "heartbeat": clock, "owner": me, **fields}
            run = connection.execute(RUN.insert().values(values).returning(RUN.c.id)).scalar_one()
        self._last_beat = _uptime()
        beat = threading.Thread(target=self._keep_beating, args=(run,), daemon=True)
        beat.start()
        self._beat = beat  # only one that runs can be waited for
        return run

    def _keep_beating(self, run: int) -> None:
        while not self._stop_beating.wait(HEARTBEAT_SECONDS):
            # a beat that finds the database busy or away is left out: the next one tries again
            with contextlib.suppress(DBAPIError, CutShort):
                self._beat_once(run)

    def _beat_once(self, run: int) -> None:
        with transaction(self._engine) as connection:
            open_ = (RUN.c.id == run, RUN.c.finished.is_(None))
            beat = update(RUN).where(*open_).values(heartbeat=now(connection))
            self._closed = not connection.execute(beat).rowcount
        self._last_beat = _uptime()

    @patient
    def confirm(self, run: int) -> None:
        """Make sure that the run is still this driver's, however long the process was frozen.

        Raises:
            ClaimLost: another driver has closed it.
        """
        if _uptime() - self._last_beat > owner.STALE_SECONDS / 2:
            self._beat_once(run)
        if self._closed:
            raise ClaimLost("another driver has taken this one for dead and closed its run")

    @contextmanager
    def _held(
        self, run: int, uids: Iterable[str] = ()
    ) -> Iterator[tuple[Connection, dict[str, int]]]:
        """Begin a transaction in which a run holds trials; gives their primary keys by uid."""
        with transaction(self._engine) as connection:
            numbers = {uid: self._numbers.get(uid, -1) for uid in uids}
            yield connection, claims.require_current(connection, run, numbers)

    @patient
    def finish_run(self, run: int) -> None:
        """End a run, unless it was closed; what it had not finished becomes interrupted."""
        with transaction(self._engine) as connection:
            claims.close(connection, run, now(connection))

    @patient
    def unfinished(self, sweep: str) -> bool:
        """Whether a run of a sweep has not finished: it may have further trials to come."""
        with self._engine.connect() as connection:
            return bool(open_runs(connection, RUN.c.name == sweep))

    @patient
    def owners(self) -> list[dict[str, Any]]:
        """The drivers of all runs, by what told them apart."""
        with self._engine.connect() as connection:
            found = connection.execute(select(RUN.c.owner)).scalars()
            return [one for one in found if isinstance(one, dict)]

    @patient
    def event(self, run: int, kind: str, text: str) -> None:
        """Note something that happened to a run."""
        with self._held(run) as (connection, _):
            _note(connection, run, kind, text)

    # -- trials --------------------------------------------------------------------------------

    @patient
    def trials(self, uids: Sequence[str]) -> dict[str, TrialRecord]:
        """The records that exist, by uid."""
        with self._engine.connect() as connection:
            return read_trials(connection, uids)

    @patient
    def enlist(
        self, run: int, members: Sequence[tuple[TrialRecord, dict[str, Any]]], first: int = 0
    ) -> None:
        """Make trials members of a run, from this place on; records that exist stay as they are."""
        if not members:
            return
        new = [
            {
                "uid": trial.uid,
                "label": trial.label,
                "status": trial.status,
                "config": trial.config,
                "final": {},
                "versions": {},
                "always_on_ids": [],
            }
            for trial, _ in sorted(members, key=lambda member: member[0].uid)
        ]
        with self._held(run) as (connection, _):
            connection.execute(_insert_into(connection, TRIAL).on_conflict_do_nothing(), new)
            found = keys(connection, [one.uid for one, _ in members])
            rows = [
                {"run": run, "trial": found[one.uid][0], "position": i, "assignment": values}
                for i, (one, values) in enumerate(members, start=first)
            ]
            connection.execute(_insert_into(connection, MEMBER).on_conflict_do_nothing(), rows)

    @patient
    def claim(self, run: int, uids: Iterable[str]) -> dict[str, int]:
        """Take trials that have not ended and that no living driver holds.

        Returns:
            Number of the claim, by uid, of those that are now this run's. Numbers grow.
        """
        with transaction(self._engine, alone=True) as connection:
            mine = claims.claim(connection, run, sorted(uids))
        self._numbers |= mine
        return mine

    @patient
    def reset(self, run: int, uids: Sequence[str]) -> dict[str, int]:
        """Forget how trials ended, with their metrics, and claim them.

        Returns:
            Number of the claim, by uid, of those that no other driver holds.
        """
        with transaction(self._engine, alone=True) as connection:
            mine = claims.claim(connection, run, claims.reset(connection, run, uids))
        self._numbers |= mine
        return mine

    @patient
    def running(self, run: int, uid: str, place: Place) -> None:
        """A trial has started or resumed."""
        with self._held(run, [uid]) as (connection, pks):
            mine = TRIAL.c.pk == pks[uid]
            values = {"status": "running", "error": None, "finished": None, **place._asdict()}
            if connection.scalar(select(TRIAL.c.started).where(mine)) is None:
                values["started"] = now(connection)
            connection.execute(update(TRIAL).where(mine).values(values))

    @patient
    def rows(self, run: int, rows: Sequence[Row]) -> None:
        """Add reported metrics; a report that is repeated replaces itself."""
        if not rows:
            return
        with self._held(run, {row.uid for row in rows}) as (connection, pks):
            scalars = [
                {"trial": pks[row.uid], "name": self._names[name], "step": row.step}
                | _finite(value)
                for row in rows
                for name, value in row.values.items()
            ]
            insert = _insert_into(connection, METRIC)
            keep = {"value": insert.excluded.value, "flag": insert.excluded.flag}
            key = [METRIC.c.trial, METRIC.c.name, METRIC.c.step]
            connection.execute(insert.on_conflict_do_update(index_elements=key, set_=keep), scalars)

    @patient
    def outcome(self, run: int, outcome: Outcome) -> int:
        """A trial has ended, and its holder releases it.

        Outcome and event stand in one transaction: a kill in between would leave a trial that
        nobody has ended.

        Returns:
            Number of the claim under which it was accepted: its files may be put in place.
        """
        number = self._numbers.get(outcome.uid, -1)
        with transaction(self._engine) as connection:
            if _is_recorded(connection, outcome, number):  # the answer to an earlier try was lost
                return number
            pk = claims.require_current(connection, run, {outcome.uid: number})[outcome.uid]
            final = {name: _finite(value)["value"] for name, value in outcome.final.items()}
            values = {
                "status": outcome.status,
                "final": final,
                "error": outcome.error,
                "seconds": outcome.seconds,
                "always_on_ids": list(outcome.always_on_ids),
                "finished": now(connection),
                "run": None,
            }
            ended = update(TRIAL).where(TRIAL.c.pk == pk).values(values).returning(TRIAL.c.label)
            label = connection.execute(ended).scalar_one()
            text = f"{label}: {outcome.error}" if outcome.error else label
            _note(connection, run, outcome.status, text, pk)
        return number

    @patient
    def claim_numbers(self, uids: Sequence[str]) -> dict[str, int]:
        """Number of the latest claim to trials, by uid; 0 where there was none."""
        with self._engine.connect() as connection:
            return {uid: number for uid, (_, number) in keys(connection, uids).items()}

    @patient
    def trained_by(self, sweep: str) -> set[str]:
        """Trials that runs of a sweep have finished."""
        query = (
            select(TRIAL.c.uid)
            .join(EVENT, EVENT.c.trial == TRIAL.c.pk)
            .join(RUN, RUN.c.id == EVENT.c.run)
            .where(RUN.c.name == sweep, EVENT.c.kind == "done")
        )
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    @patient
    def ended_by(self, run: int) -> set[str]:
        """Trials that a run has ended with any status."""
        query = (
            select(TRIAL.c.uid).join(EVENT, EVENT.c.trial == TRIAL.c.pk).where(EVENT.c.run == run)
        )
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    @contextmanager
    def forgetting(self, statuses: Sequence[str], sweep: str | None) -> Iterator[list[TrialRecord]]:
        """Give trials by status, and remove their records when the block has ended well.

        Raises:
            BadInput: a running sweep counts on one of them.
        """
        with transaction(self._engine, alone=True) as connection:
            found = claims.forgettable(connection, statuses, sweep)
            yield found
            claims.remove(connection, [trial.uid for trial in found])

    @patient
    def keep(self, run: int, name: str, value: Any) -> None:
        """Store plain values of a run by name, replacing earlier ones."""
        key = [STATE.c.run, STATE.c.name]
        with self._held(run) as (connection, _):
            insert = _insert_into(connection, STATE).values(run=run, name=name, value=value)
            new = {"value": insert.excluded.value}
            connection.execute(insert.on_conflict_do_update(index_elements=key, set_=new))

    @patient
    def kept(self, sweep: str, name: str) -> tuple[int, Any] | None:
        """What the latest run of a sweep that kept a value kept under this name, and which run."""
        query = (
            select(STATE.c.run, STATE.c.value)
            .join(RUN, RUN.c.id == STATE.c.run)
            .where(RUN.c.name == sweep, STATE.c.name == name)
            .order_by(STATE.c.run.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else (found.run, found.value)

    @patient
    def members(self, run: int) -> list[Member]:
        """The trials of a run, in the order in which they were asked for."""
        with self._engine.connect() as connection:
            return read_members(connection, run)

    @patient
    def states(self, name: str) -> list[Any]:
        """What every run kept under a name, oldest first."""
        with self._engine.connect() as connection:
            return read_states(connection, name)

    @patient
    def history(
        self, uids: Iterable[str], metric: str
    ) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The curve of one metric, as `Reader.history` returns it."""
        with self._engine.connect() as connection:
            return read_history(connection, uids, metric)


def _uptime() -> float:
    """Seconds that go on while this process is frozen, and while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _is_recorded(connection: Connection, outcome: Outcome, number: int) -> bool:
    same = (TRIAL.c.uid == outcome.uid, TRIAL.c.claim == number, TRIAL.c.run.is_(None))
    status = connection.scalar(select(TRIAL.c.status).where(*same))
    return status == outcome.status


def _insert_into(connection: Connection, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT, which both databases spell alike."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def _note(connection: Connection, run: int, kind: str, text: str, trial: int | None = None) -> None:
    """Note something that happened to a run, or to a trial of it."""
    values = {"run": run, "trial": trial, "time": now(connection), "kind": kind, "text": text}
    connection.execute(EVENT.insert().values(values))


def _finite(value: float) -> dict[str, Any]:
    if math.isfinite(value):
        return {"value": value, "flag": None}
    flag = "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return {"value": None, "flag": flag}
