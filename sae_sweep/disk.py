"""Files that are either whole or absent, and room for them."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from sae_sweep.errors import BadInput

ABANDONED_SECONDS = 3600
"""A temporary file that nobody has written to for so long belongs to a process that died."""

SECONDS_BETWEEN_LOOKS = 0.2
"""How often what another process makes is looked for."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, then flush it to disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock file if nobody else does: says whether it is held; killing a holder frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # one that its last holder has removed meanwhile locks nobody out
        held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        try:
            yield held
        finally:
            if held:
                path.unlink(missing_ok=True)


def make_once(path: Path, lock: Path, make: Callable[[], None]) -> None:
    """Make what is not there; of several processes that want it one does, the others wait."""
    while not path.exists():
        with claimed(lock) as mine:
            # another may have made it before the lock was free
            if mine and not path.exists():
                make()
        if not mine:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder.

    Ages are by the clock of the file system, which dates the writes of all hosts.
    """
    parts = list(folder.glob(".*.part"))
    if not parts:
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as clock:
        now = os.fstat(clock.fileno()).st_mtime
    for part in parts:
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it
            if now - part.stat().st_mtime > ABANDONED_SECONDS:
                part.unlink()


def require_space(folder: Path, need: int) -> None:
    """Check that `need` bytes fit on the disk of a folder that need not exist yet.

    Raises:
        BadInput: with the bytes needed and those that are free.
    """
    existing = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    have = shutil.disk_usage(existing).free
    if need > have:
        raise BadInput(
            f"activations need {need / 1e6:,.0f} MB in {folder}, where {have / 1e6:,.0f} MB are "
            "free: free some space, lower activations.train_tokens, or set outputs=DIR to a "
            "folder on another disk"
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
