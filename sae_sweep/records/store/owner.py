"""Who holds a run, and whether it still lives."""

import os
import socket
import time
from pathlib import Path
from typing import Any

STALE_SECONDS = 60.0
"""A driver on another host is taken for dead when its heartbeat is older than this."""


def current_owner() -> dict[str, Any]:
    """This process, told apart from a later one with the same number."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "pid_started": process_start(os.getpid()),
    }


def is_alive(owner: dict[str, Any], heartbeat: float) -> bool:
    """Whether a driver still runs: exact on this host, by its heartbeat on another."""
    if (owner["host"], owner["boot"]) != (socket.gethostname(), _boot()) or not owner["boot"]:
        return time.time() - heartbeat < STALE_SECONDS
    return process_start(owner["pid"]) == owner["pid_started"]


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def process_start(pid: int) -> int | None:
    """Clock ticks between boot and the start of a process; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])
