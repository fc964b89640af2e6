"""Writing the store: one driver writes, every write may be repeated without harm."""

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import DBAPIError

from sae_sweep.errors import BadInput, CutShort
from sae_sweep.records.metrics import METRICS
from sae_sweep.records.store import owner, recording, state
from sae_sweep.records.store.forgetting import forget
from sae_sweep.records.store.holding import bury, let_go
from sae_sweep.records.store.patience import Outage, patient
from sae_sweep.records.store.reader import (
    CHUNK,
    Member,
    read_history,
    read_members,
    read_trials,
)
from sae_sweep.records.store.tables import EVENT, METRIC, METRIC_NAME, RUN, STATE, TRIAL
from sae_sweep.records.store.url import explaining, lasting, locked, open_for_writing
from sae_sweep.records.trial import FINAL, Outcome, Row, TrialRecord

HEARTBEAT_SECONDS = 5.0


class Place(NamedTuple):
    """Where and with what a trial runs: recorded, not part of its identity."""

    host: str
    device: str
    threads: int
    git: str | None
    versions: dict[str, str]


class Store:
    """Read and write access for the driver of a sweep."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_for_writing(url)
        with explaining(self._engine):
            self._names = self._metric_names()
        self.outage = Outage()
        self._stop_beating = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close; a database that failed on the way is a matter of the user's, said in words."""
        self.close()
        if isinstance(error, DBAPIError):
            raise CutShort(lasting(self._engine.url, error)) from None

    def close(self) -> None:
        """Stop the heartbeat and let the connections go."""
        self._stop_beating.set()
        if self._beat is not None:
            self._beat.join()
        self._engine.dispose()

    def _metric_names(self) -> dict[str, int]:
        with self._engine.begin() as connection:
            rows = [{"name": name} for name in METRICS]
            insert = recording.insert_into(connection, METRIC_NAME)
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
        now = time.time()
        with locked(self._engine) as connection:
            bury(connection)
            open_run = select(RUN).where(RUN.c.name == name, RUN.c.finished.is_(None))
            held = connection.execute(open_run).mappings().first()
            if held is not None:
                other = held["owner"]
                raise BadInput(
                    f"sweep.name={name} is being run by process {other['pid']} on "
                    f"{other['host']}: wait for it, stop it, or choose another sweep.name"
                )
            values = {"name": name, "started": now, "heartbeat": now, "owner": me, **fields}
            run = connection.execute(RUN.insert().values(values).returning(RUN.c.id)).scalar_one()
        self._beat = threading.Thread(target=self._keep_beating, args=(run,), daemon=True)
        self._beat.start()
        return run

    def _keep_beating(self, run: int) -> None:
        while not self._stop_beating.wait(HEARTBEAT_SECONDS):
            # a beat that finds the database busy or away is left out: the next one tries again
            with contextlib.suppress(DBAPIError), self._engine.begin() as connection:
                beat = update(RUN).where(RUN.c.id == run).values(heartbeat=time.time())
                connection.execute(beat)

    @patient
    def finish_run(self, run: int) -> None:
        """End a run; what it had not finished becomes interrupted."""
        with self._engine.begin() as connection:
            let_go(connection, run, finished=time.time())

    @patient
    def event(self, run: int, kind: str, text: str) -> None:
        """Note something that happened to a run."""
        with self._engine.begin() as connection:
            recording.note(connection, run, kind, text)

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
        with self._engine.begin() as connection:
            recording.enlist(connection, run, members, first)

    @patient
    def claim(self, run: int, uids: Iterable[str]) -> set[str]:
        """Take trials that have not ended and that no living driver holds.

        Returns:
            Those that are now this run's.
        """
        wanted = sorted(uids)
        mine: set[str] = set()
        with locked(self._engine) as connection:
            bury(connection)
            for start in range(0, len(wanted), CHUNK):
                free = (
                    TRIAL.c.uid.in_(wanted[start : start + CHUNK]),
                    TRIAL.c.run.is_(None) | (TRIAL.c.run == run),
                    TRIAL.c.status.not_in(FINAL),
                )
                taken = update(TRIAL).where(*free).values(run=run, status="queued", error=None)
                mine.update(connection.execute(taken.returning(TRIAL.c.uid)).scalars())
        return mine

    @patient
    def reset(self, uids: Sequence[str]) -> None:
        """Forget how trials ended, with their metrics, so that they train again."""
        with self._engine.begin() as connection:
            for pk in recording.keys(connection, uids).values():
                connection.execute(delete(METRIC).where(METRIC.c.trial == pk))
                cleared: dict[str, Any] = {
                    "status": "interrupted",
                    "final": {},
                    "error": None,
                    "started": None,
                    "finished": None,
                    "seconds": None,
                    "always_on_ids": [],
                }
                connection.execute(update(TRIAL).where(TRIAL.c.pk == pk).values(cleared))

    @patient
    def running(self, run: int, uid: str, place: Place) -> None:
        """A trial has started, or started again; nothing if another run has taken it over."""
        mine = (TRIAL.c.uid == uid, TRIAL.c.run == run)
        with self._engine.begin() as connection:
            values = {"status": "running", "error": None, "finished": None, **place._asdict()}
            if connection.scalar(select(TRIAL.c.started).where(*mine)) is None:
                values["started"] = time.time()
            connection.execute(update(TRIAL).where(*mine).values(values))

    @patient
    def rows(self, rows: Sequence[Row]) -> None:
        """Add reported metrics; a report that is repeated replaces itself."""
        if not rows:
            return
        with self._engine.begin() as connection:
            recording.report(connection, self._names, rows)

    @patient
    def outcome(self, run: int, outcome: Outcome) -> None:
        """A trial has ended, and its holder lets it go; nothing if another run holds it."""
        with self._engine.begin() as connection:
            recording.end(connection, run, outcome)

    @patient
    def trained_by(self, sweep: str) -> set[str]:
        """The trials that runs of a sweep have brought to their end."""
        query = (
            select(TRIAL.c.uid)
            .join(EVENT, EVENT.c.trial == TRIAL.c.pk)
            .join(RUN, RUN.c.id == EVENT.c.run)
            .where(RUN.c.name == sweep, EVENT.c.kind == "done")
        )
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def forget(self, statuses: Sequence[str], sweep: str | None) -> list[TrialRecord]:
        """Remove trials by status with all that belongs to them, and return what they were.

        Raises:
            BadInput: a running sweep counts on one of them.
        """
        with locked(self._engine) as connection:
            return forget(connection, statuses, sweep)

    @patient
    def keep(self, run: int, name: str, value: Any) -> None:
        """Keep plain values of a run by name; a value that is there already is replaced."""
        key = [STATE.c.run, STATE.c.name]
        with self._engine.begin() as connection:
            insert = recording.insert_into(connection, STATE)
            insert = insert.values(run=run, name=name, value=value)
            new = {"value": insert.excluded.value}
            connection.execute(insert.on_conflict_do_update(index_elements=key, set_=new))

    @patient
    def kept(self, sweep: str, name: str) -> tuple[int, Any] | None:
        """What the latest run of a sweep that kept a value kept under this name, and which run."""
        with self._engine.connect() as connection:
            return state.of_sweep(connection, sweep, name)

    @patient
    def members(self, run: int) -> list[Member]:
        """The trials of a run, in the order in which they were asked for."""
        with self._engine.connect() as connection:
            return read_members(connection, run)

    @patient
    def states(self, name: str) -> list[Any]:
        """What every run kept under a name, oldest first."""
        with self._engine.connect() as connection:
            return state.of_all(connection, name)

    @patient
    def history(
        self, uids: Iterable[str], metric: str
    ) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The course of one metric, as `Reader.history` gives it."""
        with self._engine.connect() as connection:
            return read_history(connection, uids, metric)
