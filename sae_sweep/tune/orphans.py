"""Processes that outlive a killed driver: Ray's agents look for their head for another minute."""

import contextlib
import os
import signal
from pathlib import Path

from sae_sweep.records.store.owner import process_start

MARK = "SAE_SWEEP_DRIVER"
"""In the environment of what a driver starts: its number and when it started."""


def mark() -> None:
    """Let what this process starts from now on be known for its own."""
    os.environ[MARK] = f"{os.getpid()}-{process_start(os.getpid())}"


def end() -> None:
    """Kill the processes whose driver has died."""
    for folder in Path("/proc").glob("[0-9]*"):
        # it has ended meanwhile, or is somebody else's
        with contextlib.suppress(OSError):
            for entry in (folder / "environ").read_bytes().split(b"\0"):
                name, _, value = entry.decode(errors="replace").partition("=")
                if name == MARK and not _lives(value):
                    os.kill(int(folder.name), signal.SIGKILL)


def _lives(driver: str) -> bool:
    pid, _, started = driver.partition("-")
    return str(process_start(int(pid))) == started
