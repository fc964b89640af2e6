"""Removing trials with all that belongs to them."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from sae_sweep.errors import BadInput
from sae_sweep.records.store.holding import bury
from sae_sweep.records.store.reader import trial_record
from sae_sweep.records.store.tables import EVENT, MEMBER, METRIC, RUN, TRIAL
from sae_sweep.records.trial import TrialRecord


def forget(connection: Connection, statuses: Sequence[str], sweep: str | None) -> list[TrialRecord]:
    """Remove trials by status, of one sweep or of all, and return what they were.

    Raises:
        BadInput: a running sweep counts on one of them.
    """
    query = select(TRIAL).where(TRIAL.c.status.in_(statuses))
    members = select(MEMBER.c.trial).join(RUN, RUN.c.id == MEMBER.c.run)
    if sweep is not None:
        query = query.where(TRIAL.c.pk.in_(members.where(RUN.c.name == sweep)))
    bury(connection)
    found = connection.execute(query).mappings().all()
    running = set(connection.scalars(members.where(RUN.c.finished.is_(None))))
    held = [row["uid"] for row in found if row["pk"] in running]
    if held:
        raise BadInput(
            f"{len(held)} of these trials belong to a running sweep ({held[0]}, ...): "
            "wait for it or stop it"
        )
    for row in found:
        for table in (METRIC, MEMBER, EVENT):
            connection.execute(delete(table).where(table.c.trial == row["pk"]))
        connection.execute(delete(TRIAL).where(TRIAL.c.pk == row["pk"]))
    return [trial_record(row) for row in found]
