"""Training shards of a set that the disk does not hold: there, or computed when they are read.

Nothing here changes what is read, only how often it is computed. A reader says which windows it is
in; whoever writes a shard first removes those that no reader is in, beginning with the one that all
of them will come to last. A reader that is about to leave a slower one so far behind that it would
find its windows gone waits for it.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from sae_sweep.activations.extraction import Extraction
from sae_sweep.activations.plan import (
    Planned,
    Wanted,
    cache_bytes,
    shards,
    stored_bytes,
    window_rows,
    window_shards,
)
from sae_sweep.activations.reader import Rows
from sae_sweep.activations.shards import origins_path, read_shard

SECONDS_BETWEEN_LOOKS = 0.2
PATIENCE_SECONDS = 300.0
"""How long a reader waits for slower ones before it goes on without them."""
ENTRY_BYTES = 512


class _Reading(NamedTuple):
    """What a reader says of itself."""

    windows: tuple[int, ...]
    waits: bool

    @property
    def at(self) -> int | None:
        """The window that it came to last."""
        return self.windows[-1] if self.windows else None


class Cache:
    """One reader's access to the training shards of a source."""

    def __init__(self, wanted: Sequence[Wanted], outputs: Path) -> None:
        """Begin to read.

        Args:
            wanted: the source; after it others that the same pass of the model can serve, for
                readers of theirs that need the same rows at the same time.
            outputs: folder below which all lies.
        """
        self._wanted = wanted
        self._outputs = outputs
        self._one = wanted[0]
        self._folder = self._one.folder(outputs)
        bound = cache_bytes(self._one)
        assert bound is not None
        self._bound = bound
        self._plan = shards(self._one, "train")
        self._per_window = len(window_shards(self._one, 0))
        self._n_windows = -(-len(self._plan) // self._per_window)
        self._holds = bound // stored_bytes(self._one, window_rows(self._one))
        self._extraction: Extraction | None = None
        self._open: dict[int, Rows] = {}
        self._entry = _Entry(self._readers(self._one))
        self._windows: tuple[int, ...] = ()
        self._waited = 0.0

    def hold(self, windows: Collection[int]) -> None:
        """Say which windows are read from now on; those before are let go."""
        if tuple(windows) != self._windows:
            self._windows, self._waited = tuple(windows), 0.0
            self._open = {
                number: rows
                for number, rows in self._open.items()
                if number // self._per_window in windows
            }
        self._entry.write(_Reading(self._windows, waits=False))

    def bring(self) -> bool:
        """Whether the windows held are all there; if not, one more shard is, or may soon be."""
        lacking = [
            (number, shard)
            for window in self._windows
            for number, shard in self._of(window)
            if not self._at_hand(number)
        ]
        if not lacking:
            return True
        if self._ahead():
            self._entry.write(_Reading(self._windows, waits=True))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self._waited += SECONDS_BETWEEN_LOOKS
            return False
        for number, shard in lacking:
            if self._compute(number, shard):
                return False
        time.sleep(SECONDS_BETWEEN_LOOKS)  # others are at work on all of them
        return False

    def shard(self, number: int) -> Rows:
        """The rows of a training shard, computed where they are not there."""
        while not self._at_hand(number):
            if not self._compute(number, self._plan[number]):
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return self._open[number]

    def close(self) -> None:
        """Read no more."""
        self._open = {}
        self._entry.close()

    def _of(self, window: int) -> list[tuple[int, Planned]]:
        first = window * self._per_window
        return list(enumerate(self._plan[first : first + self._per_window], first))

    def _at_hand(self, number: int) -> bool:
        """Open a shard if it is there: once open it can be read even when it is removed."""
        if number not in self._open:
            try:
                self._open[number] = read_shard(self._folder / self._plan[number].name)
            except FileNotFoundError:
                return False
        return True

    def _compute(self, number: int, shard: Planned) -> bool:
        """Compute a shard for all who need it now, unless somebody else does."""
        if self._extraction is None:
            self._extraction = Extraction(self._wanted, self._outputs)
        window = number // self._per_window
        served = [
            other
            for other, one in enumerate(self._wanted)
            if other == 0 or any(window in reading.windows for reading in self._others(one))
        ]
        for other in served:
            self._make_room(self._wanted[other], shard)
        computed = any(True for _ in list(self._extraction.compute(shard, served)))
        return self._at_hand(number) or computed

    def _ahead(self) -> bool:
        """Whether going on would take away what a reader just behind is about to read."""
        last = self._windows[-1]
        behind = [
            reading
            for reading in self._others(self._one)
            if reading.at is not None and (last - reading.at) % self._n_windows == self._holds
        ]
        # readers that wait for each other would do so for ever
        return any(not one.waits for one in behind) and self._waited < PATIENCE_SECONDS

    def _make_room(self, one: Wanted, coming: Planned) -> None:
        """Remove shards that are needed last, until another one fits."""
        folder = one.folder(self._outputs)
        sizes = {}
        for number, shard in enumerate(self._plan):
            try:
                sizes[number] = (folder / shard.name).stat().st_size
            except FileNotFoundError:
                continue
        excess = stored_bytes(one, coming.rows + sum(self._plan[n].rows for n in sizes))
        excess -= self._bound
        readings = self._others(one)
        if one is self._one:
            readings.append(_Reading(self._windows, waits=False))
        held = {window for reading in readings for window in reading.windows}

        def until_needed(number: int) -> int:
            window = number // self._per_window
            ahead = [(window - one.at) % self._n_windows for one in readings if one.at is not None]
            return min(ahead, default=0)

        free = [number for number in sizes if number // self._per_window not in held]
        for number in sorted(free, key=until_needed, reverse=True):
            if excess <= 0:
                return
            path = folder / self._plan[number].name
            path.unlink(missing_ok=True)
            origins_path(path).unlink(missing_ok=True)
            excess -= stored_bytes(one, self._plan[number].rows)

    def _readers(self, one: Wanted) -> Path:
        return self._outputs / "cache" / "readers" / one.source.fingerprint

    def _others(self, one: Wanted) -> list[_Reading]:
        """What the other readers of a source say, of those that are alive."""
        paths = self._readers(one).glob("*.json")
        found = [_read_entry(path) for path in paths if path != self._entry.path]
        return [reading for reading in found if reading is not None]


class _Entry:
    """A reader's note to the others; it is locked as long as its reader lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.json"
        new = self.path.with_suffix(".new")
        self._file = new.open("wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.write(_Reading((), waits=False))
        new.rename(self.path)  # whoever sees it finds it locked

    def write(self, reading: _Reading) -> None:
        text = json.dumps(reading._asdict()).encode()
        os.pwrite(self._file.fileno(), text.ljust(ENTRY_BYTES), 0)

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()


def _read_entry(path: Path) -> _Reading | None:
    """What a reader says; the note of one that was killed is removed."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = json.loads(file.read())
                return _Reading(tuple(found["windows"]), found["waits"])
            path.unlink(missing_ok=True)
            return None
    except FileNotFoundError:
        return None
