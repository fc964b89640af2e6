"""The lock of a store: who waits for another process says for which, and not for ever."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from sae_sweep.errors import CutShort

WAIT_SECONDS = 30.0
"""How long a process waits for another's transaction on SQLite."""

SAID_SECONDS = 2.0
"""After so long a wait for another process's lock is said."""

PAUSE_SECONDS = 0.05

ADVISORY_LOCK = 7320
"""A number that processes which share a PostgreSQL store agree on."""

logger = logging.getLogger(__name__)


def take(connection: Connection, *, alone: bool) -> None:
    """Begin a transaction that writes.

    Args:
        connection: in no transaction of the database yet.
        alone: whether only one process can be in such a transaction at a time. SQLite has no other
            kind; on PostgreSQL it is an advisory lock.

    Raises:
        CutShort: another process does not give up the lock of a SQLite file.
    """
    if connection.dialect.name == "sqlite":
        file = Path(connection.engine.url.database or "")
        # SQLite would wait as long as its connection may, silently
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {SAID_SECONDS * 1000:.0f}")
        wait_for(lambda: _begins(connection), file)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000:.0f}")
    elif alone:
        _take_advisory(connection)


def wait_for(attempt: Callable[[], bool], file: Path) -> None:
    """Try until it succeeds; say after a while who holds the lock of a SQLite file.

    Raises:
        CutShort: it has not succeeded after `WAIT_SECONDS`.
    """
    began, said = time.monotonic(), False
    while not attempt():
        waited = time.monotonic() - began
        if waited > WAIT_SECONDS:
            raise CutShort(
                f"the store {file} is locked by {_holder_of(file)} for more than "
                f"{WAIT_SECONDS:.0f} s: let it go on, or end it; the same command continues"
            )
        if not said and waited > SAID_SECONDS:
            said = True
            logger.warning("waiting for the lock of %s, which %s holds", file, _holder_of(file))
        time.sleep(PAUSE_SECONDS)


def is_locked(error: Exception) -> bool:
    """Whether SQLite could not do a thing for another process's lock."""
    return "locked" in str(error)


def _begins(connection: Connection) -> bool:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except OperationalError as error:
        if is_locked(error):
            return False
        raise
    return True


def _holder_of(file: Path) -> str:
    """The process that writes to a SQLite file, as Linux lists it; locks may lie on its -shm."""
    listed = Path("/proc/locks")
    beside = (file, file.with_name(f"{file.name}-shm"))
    inodes = {str(one.stat().st_ino) for one in beside if one.exists()}
    for line in listed.read_text().splitlines() if listed.exists() else ():
        number, _, _, kind, pid, place, *_ = line.split()
        if number.endswith(":") and kind == "WRITE" and place.rpartition(":")[2] in inodes:
            with contextlib.suppress(psutil.Error, ValueError):  # of another PID namespace
                if int(pid) == os.getpid():
                    return "another thread of this process"
                return f"process {pid} ({psutil.Process(int(pid)).status()})"
    return "another process"


def _take_advisory(connection: Connection) -> None:
    began, said = time.monotonic(), False
    attempt = text("SELECT pg_try_advisory_xact_lock(:key)")
    while not connection.scalar(attempt, {"key": ADVISORY_LOCK}):
        if not said and time.monotonic() - began > SAID_SECONDS:
            said = True
            logger.warning(
                "waiting for the lock of the store (advisory lock %d), which %s holds",
                ADVISORY_LOCK,
                _advisory_holder(connection),
            )
        time.sleep(PAUSE_SECONDS)


def _advisory_holder(connection: Connection) -> str:
    query = text(
        "SELECT a.pid, a.usename, a.client_addr, a.state FROM pg_locks l "
        "JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.objid = :key AND l.granted"
    )
    found = connection.execute(query, {"key": ADVISORY_LOCK}).first()
    if found is None:
        return "another process"
    place = found.client_addr or "its own host"
    return f"server process {found.pid} ({found.usename} from {place}, {found.state})"
