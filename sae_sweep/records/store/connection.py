"""Reaching the database: URLs, schema, transactions, its clock, and failures said in words."""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import unquote

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from sae_sweep.errors import BadInput, NoStore, lacks_processes, lacks_room, printable
from sae_sweep.inputs import reason
from sae_sweep.records.store import locks
from sae_sweep.records.store.tables import META, METADATA, MIGRATIONS, SCHEMA_VERSION

IDLE_SECONDS = 20
"""PostgreSQL ends a transaction whose process has been silent for so long: it may be frozen."""

PATIENCE_SECONDS = 60.0
"""How long a server may be away: a restart takes seconds."""

PAUSE_SECONDS = 0.5

AWAY = ("08", "57P", "25P03", "40")
"""How PostgreSQL's codes begin of lost connections, shutdowns and starts, transactions that idled,
deadlocks."""

logger = logging.getLogger(__name__)

FULL = ("database or disk is full", "disk I/O error")
"""What SQLite says when its files cannot grow: on a full disk, and at a limit of the process."""


def parse(url: str) -> URL:
    """Read a SQLAlchemy URL.

    Raises:
        BadInput: what is not a URL of SQLite or PostgreSQL; the text is not repeated, since it
            may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BadInput(
            "store.url is not a database URL: use sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise BadInput(
            f"store.url={parsed.render_as_string()} names {parsed.get_backend_name()}: "
            "only sqlite and postgresql are supported"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise BadInput(f"store.url={url} names no file: use sqlite:///FILE")
    return parsed


def open_for_writing(url: str) -> Engine:
    """Connect, create the tables of a new store, bring an older one up to date, refuse others.

    Raises:
        BadInput: no connection, a file that is no database, somebody else's or a newer one.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(parsed.database or ""))
    engine = _engine(parsed, read_only=False)
    with explaining(engine):
        _check_ours(engine, parsed, may_be_new=True)
        with transaction(engine, alone=True) as connection:
            METADATA.create_all(connection)
            _bring_up_to_date(connection)
    return engine


def _bring_up_to_date(connection: Connection) -> None:
    number = select(META.c.value).where(META.c.key == "schema")
    found = connection.scalar(number)
    if found is None:
        connection.execute(META.insert().values(key="schema", value=str(SCHEMA_VERSION)))
        return
    for version in range(int(found), SCHEMA_VERSION):
        connection.execute(text(MIGRATIONS[version]))
        raised = update(META).where(META.c.key == "schema").values(value=str(version + 1))
        connection.execute(raised)


def _make_folder(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"store.url=sqlite:///{database}: its folder cannot be made ({error.strerror}): "
            "name another file"
        ) from None


@contextmanager
def transaction(engine: Engine, *, alone: bool = False) -> Iterator[Connection]:
    """Begin a transaction that writes.

    Args:
        engine: of the store.
        alone: whether only one process can be in such a transaction at a time, as on SQLite always.

    Raises:
        CutShort: another process does not give up the lock of a SQLite file.
    """
    with engine.begin() as connection:
        locks.take(connection, alone=alone)
        yield connection


def now(connection: Connection) -> float:
    """Seconds since the epoch by the clock of the database, which all drivers share."""
    if connection.dialect.name == "sqlite":
        return connection.execute(
            text("SELECT (julianday('now') - 2440587.5) * 86400")
        ).scalar_one()
    return float(
        connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )


def open_for_reading(url: str) -> Engine:
    """Connect without the right to write.

    Raises:
        NoStore: nothing is there yet.
        BadInput: no connection, or a store that is not ours or newer.
    """
    parsed = parse(url)
    missing = parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file()
    if missing:
        raise NoStore(
            f"no store at {parsed.database}: run a sweep first, or name another with --store"
        )
    engine = _engine(parsed, read_only=True)
    with explaining(engine):
        _check_ours(engine, parsed, may_be_new=False)
    return engine


@contextmanager
def explaining(engine: Engine) -> Iterator[None]:
    """Close the connections and say why, when a store turns out not to be usable."""
    try:
        yield
    except DatabaseError as error:
        engine.dispose()
        raise BadInput(_unusable(engine.url, error)) from None
    except BadInput:
        engine.dispose()
        raise
    except Exception as error:
        engine.dispose()
        if lacks_room(error) or lacks_processes(error):
            raise
        raise BadInput(damaged(engine.url, reason(error))) from error


def _engine(url: URL, *, read_only: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, read_only=read_only)
    try:
        engine = create_engine(
            url, pool_pre_ping=True, hide_parameters=True, json_deserializer=_read_json
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise BadInput(
            f"store.url={url.render_as_string()} needs a driver that is not installed: "
            "pip install 'sae-sweep[postgres]' and write postgresql+psycopg://..."
        ) from None
    if read_only:
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @event.listens_for(engine, "connect")
    def _end_idle(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
        connection.commit()

    return engine


def _sqlite(url: URL, *, read_only: bool) -> Engine:
    if read_only:
        database = f"file:{Path(url.database or '').absolute().as_uri()[len('file://') :]}?mode=ro"
        url = URL.create("sqlite", database=database, query={"uri": "true"})
    engine = create_engine(
        url,
        connect_args={"timeout": locks.WAIT_SECONDS},
        hide_parameters=True,
        json_deserializer=_read_json,
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
        if not read_only:
            # SQLite does not wait for this lock by itself
            locks.wait_for(lambda: _into_wal(connection), Path(url.database or ""))
            connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _read_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(
            f"the store is damaged or was written by something else ({error}): restore it from a "
            "copy, or name another with store.url"
        ) from None


def _into_wal(connection: sqlite3.Connection) -> bool:
    """Let readers and the writer work at once; False while another process is in the way."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if locks.is_locked(error):
            return False
        raise
    return True


def _check_ours(engine: Engine, url: URL, *, may_be_new: bool) -> None:
    names = set(inspect(engine).get_table_names())
    if META.name not in names:
        if names and (engine.dialect.name == "sqlite" or _claims_our_names(names)):
            raise BadInput(
                f"store.url={shown(url)} is not a store of sae_sweep: name another file or database"
            )
        if not may_be_new:
            raise NoStore(f"store.url={shown(url)} holds no store yet: run a sweep first")
        return
    with engine.connect() as connection:
        found = connection.scalar(select(META.c.value).where(META.c.key == "schema"))
    if found is not None and found not in map(str, [*MIGRATIONS, SCHEMA_VERSION]):
        raise BadInput(
            f"store.url={shown(url)} has schema {found}, this version reads {SCHEMA_VERSION}: "
            "update sae_sweep or name another store"
        )


def _claims_our_names(names: set[str]) -> bool:
    return any(name in names for name in METADATA.tables)


def shown(url: URL) -> str:
    """A URL as a user writes it, without its password; a file that is read only has another."""
    if url.get_backend_name() == "sqlite" and url.query:
        path = unquote((url.database or "").removeprefix("file:").partition("?")[0])
        return f"sqlite:///{path}"
    return url.render_as_string()


def _unusable(url: URL, error: DBAPIError) -> str:
    kind = "cannot be reached" if isinstance(error, OperationalError) else "cannot be used"
    return (
        f"store.url={shown(url)} {kind} ({_reason(error)}): name another, or mend this "
        "one; the same command continues"
    )


def damaged(url: URL, reason: str) -> str:
    """Say that a store holds what no version of ours has written."""
    return (
        f"store.url={shown(url)} is damaged or was written by something else "
        f"({printable(reason)}): restore it from a copy, or name another store"
    )


def lasting(url: URL, error: DBAPIError) -> str:
    """Say that a store which was in use has failed, and what to do."""
    reason, again = _reason(error), "the same command continues"
    if url.get_backend_name() == "sqlite" and reason in FULL:
        folder = Path(url.database or "").parent
        return f"no room for the store in {folder} ({reason}): make room there; {again}"
    if url.get_backend_name() == "postgresql" and isinstance(error, OperationalError):
        return f"store.url={shown(url)} has gone away ({reason}): mend it; {again}"
    return _unusable(url, error)


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__


class Outage:
    """Since when the server of a store has not answered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self) -> None:
        """It has answered."""
        self._since = None

    def wait(self, error: DBAPIError) -> bool:
        """Wait a little for the next attempt; False where that is of no use any more."""
        if not _is_away(error):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning(
                "the store does not answer: waiting up to %.0f s for it", PATIENCE_SECONDS
            )
        if now - self._since > PATIENCE_SECONDS:
            return False
        time.sleep(PAUSE_SECONDS)
        return True


class _HasOutage(Protocol):
    outage: Outage


S = TypeVar("S", bound=_HasOutage)
P = ParamSpec("P")
T = TypeVar("T")


def patient(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Retry a method of a store while the server is unreachable.

    Only for what may be done twice: a commit can succeed although its answer is lost.
    """

    @wraps(method)
    def repeated(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                found = method(self, *args, **kwargs)
            except DBAPIError as error:
                if not self.outage.wait(error):
                    raise
            else:
                self.outage.over()
                return found

    return repeated


def _is_away(error: DBAPIError) -> bool:
    """Whether a server cannot be reached, or is not up yet; SQLite has none."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlstate", None)
    return code is None or code.startswith(AWAY)
