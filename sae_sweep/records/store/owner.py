"""The process that drives a run, and whether it is still there."""

import os
import socket
from pathlib import Path
from typing import Any, Literal

STALE_SECONDS = 60.0
"""A driver whose process cannot be looked at is taken for dead when its heartbeat is older."""

State = Literal["alive", "silent", "dead"]
"""silent: its process cannot be looked at from here, and its heartbeat is old."""


def current_owner() -> dict[str, Any]:
    """This process, distinguishable from a later one with the same number, here and elsewhere."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": namespace(),
        "pid": os.getpid(),
        "pid_started": process_start(os.getpid()),
    }


def state(owner: dict[str, Any], age: float) -> State:
    """Whether a driver still runs.

    Args:
        owner: as `current_owner` gave it.
        age: seconds since its last heartbeat, by the clock of the database.
    """
    if not is_here(owner):
        return "alive" if age < STALE_SECONDS else "silent"
    return "alive" if process_start(owner["pid"]) == owner["pid_started"] else "dead"


def is_here(owner: dict[str, Any]) -> bool:
    """Whether a process number of this owner means the same process here."""
    me = current_owner()
    same = all(me[name] and owner.get(name) == me[name] for name in ("host", "boot", "namespace"))
    return same and all(isinstance(owner.get(name), int) for name in ("pid", "pid_started"))


def namespace(pid: int | str = "self") -> str:
    """The PID namespace of a process, such as pid:[4026531836].

    Empty where it cannot be known: another system, a process of another user, or a /proc that
    belongs to another namespace than this process.
    """
    try:
        if Path("/proc/self").readlink() != Path(str(os.getpid())):
            return ""
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Clock ticks between boot and the start of a process; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
