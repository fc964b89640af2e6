"""Runs hold trials; those of dead drivers let them go."""

from sqlalchemy import Connection, select, update

from sae_sweep.records.store import owner
from sae_sweep.records.store.tables import RUN, TRIAL
from sae_sweep.records.trial import Status

OPEN: tuple[Status, ...] = ("queued", "running")

LEFT = "the sweep was stopped before this trial ended"


def bury(connection: Connection) -> None:
    """Close the runs of dead drivers and let go of their trials."""
    unfinished = select(RUN.c.id, RUN.c.owner, RUN.c.heartbeat).where(RUN.c.finished.is_(None))
    for run, holder, heartbeat in connection.execute(unfinished).all():
        if not owner.is_alive(holder, heartbeat):
            let_go(connection, run, finished=heartbeat)


def let_go(connection: Connection, run: int, finished: float) -> None:
    """End a run: what it had not finished becomes interrupted."""
    mine = update(TRIAL).where(TRIAL.c.run == run)
    left = mine.where(TRIAL.c.status.in_(OPEN)).values(status="interrupted", error=LEFT)
    connection.execute(left)
    connection.execute(mine.values(run=None))
    connection.execute(update(RUN).where(RUN.c.id == run).values(finished=finished))
