"""What a driver records of trials: membership, reports, ends. In the transaction of the caller."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sae_sweep.records.store.reader import CHUNK
from sae_sweep.records.store.tables import EVENT, MEMBER, METRIC, TRIAL
from sae_sweep.records.trial import Outcome, Row, TrialRecord


def insert_into(connection: Connection, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT, which both databases spell alike."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def keys(connection: Connection, uids: Sequence[str]) -> dict[str, int]:
    """Primary keys of the trials that exist, by uid."""
    found: dict[str, int] = {}
    for start in range(0, len(uids), CHUNK):
        query = select(TRIAL.c.uid, TRIAL.c.pk).where(TRIAL.c.uid.in_(uids[start : start + CHUNK]))
        found.update((uid, pk) for uid, pk in connection.execute(query))
    return found


def enlist(
    connection: Connection,
    run: int,
    members: Sequence[tuple[TrialRecord, dict[str, Any]]],
    first: int,
) -> None:
    """Make trials members of a run, from this place on; records that exist stay as they are."""
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
    connection.execute(insert_into(connection, TRIAL).on_conflict_do_nothing(), new)
    pks = keys(connection, [one.uid for one, _ in members])
    rows = [
        {"run": run, "trial": pks[trial.uid], "position": i, "assignment": values}
        for i, (trial, values) in enumerate(members, start=first)
    ]
    connection.execute(insert_into(connection, MEMBER).on_conflict_do_nothing(), rows)


def report(connection: Connection, names: Mapping[str, int], rows: Sequence[Row]) -> None:
    """Add reported metrics; a report that is repeated replaces itself."""
    pks = keys(connection, list({row.uid for row in rows}))
    scalars = [
        {"trial": pks[row.uid], "name": names[name], "step": row.step, **_finite(value)}
        for row in rows
        for name, value in row.values.items()
    ]
    insert = insert_into(connection, METRIC)
    keep = {"value": insert.excluded.value, "flag": insert.excluded.flag}
    key = [METRIC.c.trial, METRIC.c.name, METRIC.c.step]
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=keep), scalars)


def end(connection: Connection, run: int, outcome: Outcome) -> None:
    """Let a trial go with its outcome and the event; nothing if the run does not hold it.

    Both or neither: a kill in between would leave a trial that nobody has ended. An outcome that
    is recorded again finds that the run has let the trial go.
    """
    values = {
        "status": outcome.status,
        "final": {name: _finite(value)["value"] for name, value in outcome.final.items()},
        "error": outcome.error,
        "seconds": outcome.seconds,
        "always_on_ids": list(outcome.always_on_ids),
        "finished": time.time(),
        "run": None,
    }
    mine = (TRIAL.c.uid == outcome.uid, TRIAL.c.run == run)
    ended = update(TRIAL).where(*mine).values(values).returning(TRIAL.c.pk, TRIAL.c.label)
    trial = connection.execute(ended).first()
    if trial is not None:
        text = f"{trial.label}: {outcome.error}" if outcome.error else trial.label
        note(connection, run, outcome.status, text, trial.pk)


def note(connection: Connection, run: int, kind: str, text: str, trial: int | None = None) -> None:
    """Note something that happened to a run, or to a trial of it."""
    values = {"run": run, "trial": trial, "time": time.time(), "kind": kind, "text": text}
    connection.execute(EVENT.insert().values(values))


def _finite(value: float) -> Mapping[str, float | str | None]:
    if math.isfinite(value):
        return {"value": value, "flag": None}
    flag = "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return {"value": None, "flag": flag}
