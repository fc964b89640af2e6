"""Notes that coordinate the readers and suppliers of a source's shards.

A note is a file that is locked as long as its writer lives: one that was killed says nothing.
"""

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import NamedTuple

from sae_sweep.activations.plan import Wanted

ENTRY_BYTES = 512


class Reading(NamedTuple):
    """The note of one process."""

    windows: tuple[int, ...] = ()
    """Those that it reads."""
    waits: bool = False
    """Whether it waits for a slower reader."""
    supplies: bool = False
    """Whether it computes shards for others and reads none."""

    @property
    def at(self) -> int | None:
        """The window that it came to last."""
        return self.windows[-1] if self.windows else None


def notes_folder(one: Wanted, outputs: Path) -> Path:
    """Folder of the notes about a source."""
    return outputs / "cache" / "readers" / one.source.fingerprint


class Entry:
    """A process's own note."""

    def __init__(self, folder: Path, reading: Reading | None = None) -> None:
        """Write the note into the folder shared by all processes of a source."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.json"
        new = self.path.with_suffix(".new")
        self._file = new.open("wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.write(reading or Reading())
        new.rename(self.path)  # whoever sees it finds it locked

    def write(self, reading: Reading) -> None:
        """Replace the note."""
        text = json.dumps(reading._asdict()).encode()
        os.pwrite(self._file.fileno(), text.ljust(ENTRY_BYTES), 0)

    def close(self) -> None:
        """Remove the note."""
        self.path.unlink(missing_ok=True)
        self._file.close()


def supplied(one: Wanted, outputs: Path) -> bool:
    """Whether a live supplier computes a source's shards."""
    return any(reading.supplies for reading in readings(notes_folder(one, outputs)))


def readings(folder: Path, but: Path | None = None) -> list[Reading]:
    """Notes of live processes, except one."""
    found = [_read(path) for path in folder.glob("*.json") if path != but]
    return [reading for reading in found if reading is not None]


def _read(path: Path) -> Reading | None:
    """Read a note; that of a killed process is removed."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.loads(file.read())
                return Reading(tuple(found["windows"]), found["waits"], found["supplies"])
            path.unlink(missing_ok=True)
            return None
    except FileNotFoundError:
        return None
