"""Processes that outlive a killed driver: Ray's agents look for their head for another minute."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from sae_sweep.records.store import owner

MARK = "SAE_SWEEP_DRIVER"
"""In the environment of what a driver starts: which process it is."""


def mark_of(driver: dict[str, Any]) -> str:
    """The mark of a driver, as `owner.current_owner` describes it."""
    return f"{driver.get('namespace')}-{driver.get('pid')}-{driver.get('pid_started')}"


def mark() -> None:
    """Mark what this process starts from now on."""
    os.environ[MARK] = mark_of(owner.current_owner())


def end(drivers: Iterable[dict[str, Any]]) -> None:
    """Kill Ray's leftover processes of dead drivers.

    A process is ended only if all of this holds: its mark is that of a driver which the store
    knows, which ran in this PID namespace since this boot, and whose process is gone; it is in this
    namespace itself, and one of Ray's programs; it is neither this process nor an ancestor of it.

    Args:
        drivers: owners of runs in the store; those that still run are spared.
    """
    dead = (one for one in drivers if owner.state(one, 0.0) == "dead")
    marks = {f"{MARK}={mark_of(one)}".encode() for one in dead}
    if not marks:
        return
    here = owner.namespace()
    spared = {os.getpid(), *(one.pid for one in psutil.Process().parents())}
    for process in psutil.process_iter():
        # it has ended meanwhile, or is somebody else's
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in spared or owner.namespace(process.pid) != here:
                continue
            if not marks.isdisjoint(_environment(process.pid)) and _is_of_ray(process.cmdline()):
                process.kill()


def _environment(pid: int) -> list[bytes]:
    """NAME=VALUE of a process, also of one whose new title has overwritten the first of them.

    `psutil.Process.environ` ends at the gap which such a title leaves.
    """
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _is_of_ray(command: list[str]) -> bool:
    """Whether a command line is a program of Ray's: its workers call themselves ray::NAME."""
    return bool(command) and (
        command[0].startswith("ray::") or any("/ray/" in w for w in command[:3])
    )
