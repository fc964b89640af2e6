"""Where the store is: URLs, passwords kept out of sight, and connections that fail with words."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
)

from sae_sweep.errors import BadInput, NoStore
from sae_sweep.records.store.tables import META, METADATA, SCHEMA_VERSION

LOCK_SECONDS = 30.0
"""How long a process waits for another's transaction."""

FULL = ("database or disk is full", "disk I/O error")
"""What SQLite says when its files cannot grow: on a full disk, and at a limit of the process."""

ADVISORY_LOCK = 7320
"""A number that processes which share a PostgreSQL store agree on."""


def default_url(outputs: Path) -> str:
    """The SQLite file that is used where no URL is given."""
    return f"sqlite:///{outputs / 'sae_sweep.db'}"


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
    """Connect, create the tables of a new store, and refuse what is not ours.

    Raises:
        BadInput: no connection, a file that is no database, somebody else's or a newer one.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(parsed.database or ""))
    engine = _engine(parsed, read_only=False)
    with explaining(engine):
        _check_ours(engine, parsed, may_be_new=True)
        with locked(engine) as connection:
            METADATA.create_all(connection)
            if connection.scalar(select(META.c.value).where(META.c.key == "schema")) is None:
                connection.execute(META.insert().values(key="schema", value=str(SCHEMA_VERSION)))
    return engine


def _make_folder(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"store.url=sqlite:///{database}: its folder cannot be made ({error.strerror}): "
            "name another file"
        ) from None


@contextmanager
def locked(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction that only one process can be in."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        yield connection


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


def _engine(url: URL, *, read_only: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, read_only=read_only)
    try:
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise BadInput(
            f"store.url={url.render_as_string()} needs a driver that is not installed: "
            "pip install 'sae-sweep[postgres]' and write postgresql+psycopg://..."
        ) from None
    if read_only:
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def _sqlite(url: URL, *, read_only: bool) -> Engine:
    if read_only:
        database = f"file:{Path(url.database or '').absolute().as_uri()[len('file://') :]}?mode=ro"
        url = URL.create("sqlite", database=database, query={"uri": "true"})
    engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
        if not read_only:
            _into_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _into_wal(connection: sqlite3.Connection) -> None:
    """Let readers and the writer work at once; SQLite does not wait for this lock by itself."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _check_ours(engine: Engine, url: URL, *, may_be_new: bool) -> None:
    names = set(inspect(engine).get_table_names())
    shown = url.render_as_string()
    if META.name not in names:
        if names and (engine.dialect.name == "sqlite" or _claims_our_names(names)):
            raise BadInput(
                f"store.url={shown} is not a store of sae_sweep: name another file or database"
            )
        if not may_be_new:
            raise NoStore(f"store.url={shown} holds no store yet: run a sweep first")
        return
    with engine.connect() as connection:
        found = connection.scalar(select(META.c.value).where(META.c.key == "schema"))
    if found is not None and int(found) != SCHEMA_VERSION:
        raise BadInput(
            f"store.url={shown} has schema {found}, this version reads {SCHEMA_VERSION}: "
            "update sae_sweep or name another store"
        )


def _claims_our_names(names: set[str]) -> bool:
    return any(name in names for name in METADATA.tables)


def _unusable(url: URL, error: DBAPIError) -> str:
    kind = "cannot be reached" if isinstance(error, OperationalError) else "cannot be used"
    return (
        f"store.url={url.render_as_string()} {kind} ({_reason(error)}): name another, or mend this "
        "one; the same command continues"
    )


def lasting(url: URL, error: DBAPIError) -> str:
    """Say that a store which was in use has failed, and what to do."""
    reason, again = _reason(error), "the same command continues"
    if url.get_backend_name() == "sqlite" and reason in FULL:
        folder = Path(url.database or "").parent
        return f"no room for the store in {folder} ({reason}): make room there; {again}"
    if url.get_backend_name() == "postgresql" and isinstance(error, OperationalError):
        return f"store.url={url.render_as_string()} has gone away ({reason}): mend it; {again}"
    return _unusable(url, error)


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
