"""Plain values that a run keeps by name: its search, its policies."""

from typing import Any

from sqlalchemy import Connection, select

from sae_sweep.records.store.tables import RUN, STATE


def of_run(connection: Connection, run: int, name: str) -> Any:
    """What a run kept under a name; None where it kept nothing."""
    query = select(STATE.c.value).where(STATE.c.run == run, STATE.c.name == name)
    return connection.scalar(query)


def of_sweep(connection: Connection, sweep: str, name: str) -> tuple[int, Any] | None:
    """The latest run of a sweep that kept something under a name, and what."""
    query = (
        select(STATE.c.run, STATE.c.value)
        .join(RUN, RUN.c.id == STATE.c.run)
        .where(RUN.c.name == sweep, STATE.c.name == name)
        .order_by(STATE.c.run.desc())
        .limit(1)
    )
    found = connection.execute(query).first()
    return None if found is None else (found.run, found.value)


def of_all(connection: Connection, name: str) -> list[Any]:
    """What every run kept under a name, oldest first."""
    query = select(STATE.c.value).where(STATE.c.name == name).order_by(STATE.c.run)
    return list(connection.execute(query).scalars())
