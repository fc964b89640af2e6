"""Who may write: runs hold trials, a claim has a number, and only the latest counts.

A run that is not heard of any more is closed by the driver that needs its trials. Whatever the
driver of a closed run wants to write afterwards is refused, however long it was frozen or cut off.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from sae_sweep.errors import BadInput
from sae_sweep.records.store.connection import damaged, now
from sae_sweep.records.store.reader import CHUNK, keys, open_runs, trial_records
from sae_sweep.records.store.tables import EVENT, MEMBER, META, METRIC, RUN, TRIAL
from sae_sweep.records.trial import FINAL, Status, TrialRecord

OPEN: tuple[Status, ...] = ("queued", "running")

LEFT = "the sweep was stopped before this trial ended"


class ClaimLost(Exception):  # noqa: N818  (no fault: another driver has taken over)
    """What was to be written belongs to another driver now; nothing was written."""


# -- runs --------------------------------------------------------------------------------------


def require_open(connection: Connection, run: int) -> None:
    """Check that a run still holds its trials, and keep it so until the transaction ends.

    Raises:
        ClaimLost: another driver has taken this one for dead, and closed its run.
    """
    query = select(RUN.c.finished).where(RUN.c.id == run).with_for_update()
    found = connection.execute(query).first()
    if found is None or found.finished is not None:
        raise ClaimLost("another driver has taken this one for dead and closed its run")


def close_dead_runs(
    connection: Connection, name: str | None = None, uids: Collection[str] = ()
) -> None:
    """Close the runs of dead drivers.

    A driver whose process cannot be looked at from here may only be frozen or cut off: where its
    heartbeat is old, its run is closed only if it is in the way.

    Args:
        connection: in a transaction that only one process can be in.
        name: of the sweep that is to start.
        uids: trials that are to be claimed.
    """
    for one in open_runs(connection):
        in_the_way = one.name == name or _holds(connection, one.id, uids)
        if one.state == "dead" or (one.state == "silent" and in_the_way):
            close(connection, one.id, one.heartbeat, seen=one.heartbeat)


def close(connection: Connection, run: int, finished: float, seen: float | None = None) -> None:
    """End a run: what it had not finished becomes interrupted, and nobody holds it any more.

    Args:
        connection: in a transaction.
        run: nothing happens where it is closed already.
        finished: when.
        seen: its heartbeat when it was found dead; one that has beaten since is left alone.
    """
    ended = update(RUN).where(RUN.c.id == run, RUN.c.finished.is_(None))
    if seen is not None:
        ended = ended.where(RUN.c.heartbeat == seen)
    if not connection.execute(ended.values(finished=finished)).rowcount:
        return
    held = update(TRIAL).where(TRIAL.c.run == run)
    left = held.where(TRIAL.c.status.in_(OPEN)).values(status="interrupted", error=LEFT)
    connection.execute(left)
    connection.execute(held.values(run=None))


def _holds(connection: Connection, run: int, uids: Collection[str]) -> bool:
    held = connection.scalars(select(TRIAL.c.uid).where(TRIAL.c.run == run))
    return not set(uids).isdisjoint(held)


# -- trials ------------------------------------------------------------------------------------


def require_current(connection: Connection, run: int, numbers: Mapping[str, int]) -> dict[str, int]:
    """Check that a run holds trials under these claims.

    Args:
        connection: in a transaction.
        run: the caller's.
        numbers: of the claims, by uid.

    Returns:
        Primary keys, by uid.

    Raises:
        ClaimLost: it does not, or no more.
    """
    require_open(connection, run)
    found = keys(connection, list(numbers), TRIAL.c.run == run)
    lost = [uid for uid, number in numbers.items() if uid not in found or found[uid][1] != number]
    if lost:
        raise ClaimLost(f"the claim to trial {', '.join(lost)} is not this driver's any more")
    return {uid: pk for uid, (pk, _) in found.items()}


def next_number(connection: Connection) -> int:
    """A number greater than that of every claim before.

    It is at least the time in milliseconds, so that it grows even where a store was lost, or where
    two stores share a folder of outputs.
    """
    latest = select(META.c.value).where(META.c.key == "claim")
    found = connection.scalar(latest)
    if not re.fullmatch(r"\d{1,18}", found or "0"):
        raise BadInput(damaged(connection.engine.url, f"the latest claim is {found}"))
    number = max(int(found or 0) + 1, int(now(connection) * 1000))
    if found is None:
        connection.execute(META.insert().values(key="claim", value=str(number)))
    else:
        connection.execute(update(META).where(META.c.key == "claim").values(value=str(number)))
    return number


def claim(connection: Connection, run: int, uids: Sequence[str]) -> dict[str, int]:
    """Take those trials that have not ended and that no living driver holds.

    Args:
        connection: in a transaction that only one process can be in.
        run: the caller's.
        uids: what it wants.

    Returns:
        Number of the claim, by uid, of those that are now this run's.

    Raises:
        ClaimLost: the run was closed.
    """
    require_open(connection, run)
    close_dead_runs(connection, uids=uids)
    number = next_number(connection)
    mine: dict[str, int] = {}
    for start in range(0, len(uids), CHUNK):
        free = (
            TRIAL.c.uid.in_(uids[start : start + CHUNK]),
            TRIAL.c.run.is_(None) | (TRIAL.c.run == run),
            TRIAL.c.status.not_in(FINAL),
        )
        values = {"run": run, "claim": number, "status": "queued", "error": None}
        taken = update(TRIAL).where(*free).values(values).returning(TRIAL.c.uid)
        mine.update(dict.fromkeys(connection.execute(taken).scalars(), number))
    return mine


def reset(connection: Connection, run: int, uids: Sequence[str]) -> list[str]:
    """Forget how trials ended, with their metrics; returns those that no other run holds."""
    require_open(connection, run)
    close_dead_runs(connection, uids=uids)
    free = keys(connection, uids, TRIAL.c.run.is_(None) | (TRIAL.c.run == run))
    cleared: dict[str, Any] = {
        "status": "interrupted",
        "final": {},
        "error": None,
        "started": None,
        "finished": None,
        "seconds": None,
        "always_on_ids": [],
    }
    for pk, _ in free.values():
        connection.execute(delete(METRIC).where(METRIC.c.trial == pk))
        connection.execute(update(TRIAL).where(TRIAL.c.pk == pk).values(cleared))
    return list(free)


def forgettable(
    connection: Connection, statuses: Sequence[str], sweep: str | None
) -> list[TrialRecord]:
    """Trials by status, of one sweep or of all, that may be removed.

    Raises:
        BadInput: a running sweep counts on one of them.
    """
    wanted: ColumnElement[bool] = TRIAL.c.status.in_(statuses)
    members = select(MEMBER.c.trial).join(RUN, RUN.c.id == MEMBER.c.run)
    if sweep is not None:
        wanted &= TRIAL.c.pk.in_(members.where(RUN.c.name == sweep))
    uids = connection.scalars(select(TRIAL.c.uid).where(wanted)).all()
    close_dead_runs(connection, name=sweep, uids=uids)
    found = trial_records(connection, wanted)
    held = select(TRIAL.c.uid).where(TRIAL.c.pk.in_(members.where(RUN.c.finished.is_(None))))
    running = set(connection.scalars(held))
    if counted := [trial.uid for trial in found if trial.uid in running]:
        raise BadInput(
            f"{len(counted)} of these trials belong to a running sweep ({counted[0]}, ...): "
            "wait for it or stop it"
        )
    return found


def remove(connection: Connection, uids: Sequence[str]) -> None:
    """Remove trials with all that belongs to them."""
    for pk, _ in keys(connection, uids).values():
        for table in (METRIC, MEMBER, EVENT):
            connection.execute(delete(table).where(table.c.trial == pk))
        connection.execute(delete(TRIAL).where(TRIAL.c.pk == pk))
