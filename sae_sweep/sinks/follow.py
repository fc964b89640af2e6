"""Send a sink the reports of a sweep from the store, once or while the sweep runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records import FINAL, TrialRecord
from sae_sweep.records.store import Reader
from sae_sweep.sinks import Sink

POLL_SECONDS = 2.0
"""How often the store is read while a sweep runs."""

ENDED = FINAL | {"stopped"}
"""Statuses after which a trial's run is closed."""


class Sent(TypedDict):
    """What a sink has of one trial: the format of the ledger's file."""

    step: int
    """The last report that was sent."""
    status: str | None
    """The status that its run was closed with; None while it is open."""


class Ledger:
    """Record, in a file, of what a sink was sent, so that nothing is sent twice or lost.

    A file that is damaged or gone means that all is sent again, into the same runs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent: dict[str, Sent] = _read(path)

    def of(self, uid: str) -> Sent:
        """What was sent of a trial."""
        return self._sent.get(uid, {"step": 0, "status": None})

    def note(self, uid: str, sent: Sent) -> None:
        """Record what was sent."""
        self._sent[uid] = sent

    def keep(self) -> None:
        """Write the file."""
        temporary = self._path.with_name(f".{self._path.name}.part")
        temporary.write_text(json.dumps(self._sent), encoding="utf-8")
        temporary.replace(self._path)


def _read(path: Path) -> dict[str, Sent]:
    try:
        with edge(str(path), "all is sent again"):
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            return {
                str(uid): {"step": int(one["step"]), "status": one["status"]}
                for uid, one in found.items()
            }
    except BadInput:
        return {}


def follow(sink: Sink, url: str, sweep: str, folder: Path, over: Callable[[float], bool]) -> None:
    """Send what is new of a sweep until it is over, then its report.

    Args:
        sink: the tracker.
        url: of the store.
        sweep: its name.
        folder: the sweep's, with its report.
        over: waits for at most so many seconds and says whether the sweep has ended.

    Raises:
        BadInput: the sweep has ended and the store does not know it.
    """
    ledger = Ledger(folder / "sinks" / f"{type(sink).__name__}.json")
    opened: set[str] = set()
    last = False
    while not last:
        last = over(POLL_SECONDS)
        try:
            with Reader(url) as reader:
                _send(sink, reader, reader.sweep(sweep).trials, ledger, opened)
        except BadInput:  # its driver has not recorded it yet
            if last:
                raise
        ledger.keep()
    if (folder / "report.md").exists():
        sink.attach(folder)


def _send(
    sink: Sink, reader: Reader, trials: list[TrialRecord], ledger: Ledger, opened: set[str]
) -> None:
    """Send the reports and ends that the ledger does not have."""
    fresh = [
        trial
        for trial in trials
        if trial.status != "queued" and ledger.of(trial.uid)["status"] != trial.status
    ]
    rows = reader.rows({trial.uid: ledger.of(trial.uid)["step"] for trial in fresh})
    for trial in fresh:
        sent = ledger.of(trial.uid)
        new = rows.get(trial.uid, [])
        ended = trial.status in ENDED
        if not (new or ended):
            continue
        if trial.uid not in opened:
            sink.begin(trial)
            opened.add(trial.uid)
        batch_size = int(trial.config["train"]["batch_size"])
        for row in new:
            sink.log(trial, row.step * batch_size, row.values)
        step = new[-1].step if new else sent["step"]
        if ended:
            sink.end(trial, step * batch_size)
            opened.discard(trial.uid)
        ledger.note(trial.uid, {"step": step, "status": trial.status if ended else None})
