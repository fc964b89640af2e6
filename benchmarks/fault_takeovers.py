"""Two drivers and one sweep: one is frozen or only seems dead, the other takes over or must not.

Each driver believes itself on a host of its own (`benchmarks/elsewhere`), so that only heartbeats
tell whether the other lives, and they are taken for stopped after a few seconds.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from benchmarks.fault_sweep import LIMIT_SECONDS, LOOK_SECONDS, Struck, Sweep
from sae_sweep.records.store import Reader
from sae_sweep.records.store.tables import METADATA

STALE_SECONDS = 4.0
PATIENT_SECONDS = 600.0
"""For a driver that must not take the other for dead."""

IN_A_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
REFUSED = 2


def host(name: str, skew: float = 0.0, stale: float = STALE_SECONDS) -> dict[str, str]:
    """What makes a driver believe that it is on a host of this name."""
    path = [str(Path(__file__).parent / "elsewhere"), os.environ.get("PYTHONPATH", "")]
    return {
        "ELSEWHERE": name,
        "STALE_SECONDS": str(stale),
        "CLOCK_SKEW": str(skew),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def namespaces_allowed() -> bool:
    """Whether this machine lets us make a PID namespace."""
    ran = subprocess.run([*IN_A_NAMESPACE, "true"], check=False, capture_output=True)
    return ran.returncode == 0


def frozen(sweep: Sweep, rival: Sweep, *, until_done: int | None) -> Struck:
    """Freeze a driver at work; let another take over; wake the first.

    Args:
        sweep: the first driver's.
        rival: the same sweep, started elsewhere.
        until_done: how many trials are to be done when the first wakes; None: the other has ended.
    """
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    process.send_signal(signal.SIGSTOP)
    other = _insist(rival)
    if until_done is None:
        other.wait(LIMIT_SECONDS)
    else:
        rival.wait_until(lambda: rival.status_counts()["done"] >= until_done, other)
        other.send_signal(signal.SIGSTOP)  # something is still missing when the first wakes
    before = _state(sweep)
    process.send_signal(signal.SIGCONT)
    code = process.wait(LIMIT_SECONDS)
    other.send_signal(signal.SIGCONT)
    last_code = other.wait(LIMIT_SECONDS)
    wrong = []
    if "lost: " not in sweep.said:
        wrong.append("it does not say what it has lost")
    if until_done is None and _state(sweep) != before:
        wrong.append("it has written after it woke")
    if code != (0 if until_done is None else 1):
        wrong.append(f"it exits with {code}")
    when = "when all was done" if until_done is None else f"with {until_done} done"
    running = [*sweep.still_running(), *rival.still_running()]
    what = f"frozen after 1 done, woken {when}"
    return Struck(what, sweep.said + rival.said, code, 0, last_code, running, tuple(wrong))


def not_dead(sweep: Sweep, rival: Sweep, what: str) -> Struck:
    """Start the same sweep elsewhere while the first driver is at work: it must be refused.

    The first one is held up meanwhile, so that it does not end too early.
    """
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["running"], process)
    wrong = []
    process.send_signal(signal.SIGSTOP)
    refused = rival.start().wait(LIMIT_SECONDS)
    process.send_signal(signal.SIGCONT)
    if refused != REFUSED or "is being run by process" not in rival.said:
        wrong.append(f"the other driver exits with {refused}: {rival.said[-300:]}")
    struck = sweep.finish(what, process)
    return struck._replace(wrong=tuple(wrong), said=struck.said + rival.said)


def _insist(rival: Sweep) -> subprocess.Popen[bytes]:
    """Start a driver again and again until it is not refused."""
    first, deadline = _latest_run(rival), time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        process = rival.start()
        while process.poll() is None:
            if _latest_run(rival) > first:
                return process
            time.sleep(LOOK_SECONDS)
        if process.returncode != REFUSED or "is being run by process" not in rival.said:
            break
    raise RuntimeError(f"the other driver does not get in: {rival.said[-2000:]}")


def _latest_run(sweep: Sweep) -> int:
    with Reader(sweep.url) as reader:
        return reader.sweep("faults").run.id


def _state(sweep: Sweep) -> dict[str, Any]:
    """All that a sweep has written: its rows, and every file with its time."""
    engine = create_engine(sweep.url)
    with engine.connect() as connection:
        found: dict[str, Any] = {
            name: sorted(map(repr, connection.execute(table.select())))
            for name, table in METADATA.tables.items()
        }
    engine.dispose()
    for folder in ("trials", "faults", "activations"):
        for path in sorted((sweep.outputs / folder).rglob("*")):
            stat = path.lstat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found
