"""Training shards of a set larger than the cache: read from disk or computed on demand.

Nothing here changes what is read, only how often it is computed. A reader says which windows it is
in; whoever writes a shard first removes those that no reader is in, beginning with the one that all
of them will come to last. A reader that is about to leave a slower one so far behind that it would
find its windows gone waits for it. Where a supplier is at work, readers leave computing to it.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

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
from sae_sweep.activations.preparation import prepare
from sae_sweep.activations.presence import Entry, Reading, notes_folder, readings
from sae_sweep.activations.reader import Rows
from sae_sweep.activations.shards import origins_path, read_shard, written
from sae_sweep.errors import BadRows

SECONDS_BETWEEN_LOOKS = 0.2
PATIENCE_SECONDS = 300.0
"""Seconds that a reader waits for slower ones."""


class _Shelf:
    """The cached training shards of one source, and the bound of the cache."""

    def __init__(self, one: Wanted, outputs: Path) -> None:
        self.one = one
        self.folder = one.folder(outputs)
        self.notes = notes_folder(one, outputs)
        bound = cache_bytes(one)
        assert bound is not None
        self._bound = bound
        self.plan = shards(one, "train")
        self._per_window = len(window_shards(one, 0))
        self.n_windows = -(-len(self.plan) // self._per_window)
        self.holds = bound // stored_bytes(one, window_rows(one))

    def of(self, window: int) -> list[tuple[int, Planned]]:
        """The shards of a window, with their numbers."""
        first = window * self._per_window
        return list(enumerate(self.plan[first : first + self._per_window], first))

    def window(self, number: int) -> int:
        """The window of a shard."""
        return number // self._per_window

    def lacks(self, shard: Planned) -> bool:
        """Whether a shard is missing."""
        return not (self.folder / shard.name).exists()

    def until_needed(self, window: int, who: Sequence[Reading]) -> int:
        """Windows between this one and the nearest reader."""
        ahead = [(window - one.at) % self.n_windows for one in who if one.at is not None]
        return min(ahead, default=0)

    def make_room(self, coming: Planned, who: Sequence[Reading], after: int = -1) -> bool:
        """Remove shards that no reader is in, those needed last first, until another one fits.

        Args:
            coming: what needs the room.
            who: all readers.
            after: only of windows that their nearest reader is further away from than this.

        Returns:
            Whether it fits.
        """
        there = written(self.folder)
        sizes = {number for number, shard in enumerate(self.plan) if shard.name in there}
        rows = coming.rows + sum(self.plan[number].rows for number in sizes)
        excess = stored_bytes(self.one, rows) - self._bound
        held = {window for reading in who for window in reading.windows}
        distance = {number: self.until_needed(self.window(number), who) for number in sizes}
        free = [n for n in sizes if self.window(n) not in held and distance[n] > after]
        for number in sorted(free, key=lambda one: (-distance[one], one)):
            if excess <= 0:
                break
            path = self.folder / self.plan[number].name
            path.unlink(missing_ok=True)
            origins_path(path).unlink(missing_ok=True)
            excess -= stored_bytes(self.one, self.plan[number].rows)
        return excess <= 0


class Cache:
    """One reader's access to the training shards of a source."""

    def __init__(self, wanted: Sequence[Wanted], outputs: Path) -> None:
        """Register as a reader.

        Args:
            wanted: the source; after it others that the same pass of the model can serve, for
                readers of theirs that need the same rows at the same time.
            outputs: folder below which all lies.
        """
        self._wanted = wanted
        self._outputs = outputs
        self._shelves = [_Shelf(one, outputs) for one in wanted]
        self._own = self._shelves[0]
        self._extraction: Extraction | None = None
        self._open: dict[int, Rows] = {}
        self._entry = Entry(self._own.notes)
        self._windows: tuple[int, ...] = ()
        self._waited = 0.0

    def hold(self, windows: Collection[int]) -> None:
        """Announce which windows are read from now on; earlier ones may be evicted."""
        if tuple(windows) != self._windows:
            self._windows, self._waited = tuple(windows), 0.0
            self._open = {
                number: rows
                for number, rows in self._open.items()
                if self._own.window(number) in windows
            }
        self._entry.write(Reading(self._windows))

    def bring(self) -> bool:
        """Whether all held windows are cached; if not, compute one more shard."""
        lacking = [
            (number, shard)
            for window in self._windows
            for number, shard in self._own.of(window)
            if not self._at_hand(number)
        ]
        if not lacking:
            return True
        if self._ahead():
            self._entry.write(Reading(self._windows, waits=True))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self._waited += SECONDS_BETWEEN_LOOKS
            return False
        for number, shard in lacking:
            if self._compute(number, shard):
                return False
        time.sleep(SECONDS_BETWEEN_LOOKS)  # others are at work on all of them
        return False

    def shard(self, number: int) -> Rows:
        """The rows of a training shard, computed if missing."""
        while not self._at_hand(number):
            if not self._compute(number, self._own.plan[number]):
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return self._open[number]

    def close(self) -> None:
        """Stop reading."""
        self._open = {}
        self._entry.close()

    def _at_hand(self, number: int) -> bool:
        """Open a shard if it is cached: once open it can be read even when it is evicted."""
        if number not in self._open:
            try:
                self._open[number] = read_shard(self._own.folder / self._own.plan[number].name)
            except FileNotFoundError:
                return False
        return True

    def _compute(self, number: int, shard: Planned) -> bool:
        """Compute a shard for readers that need it now or soon, unless another process does."""
        if any(one.supplies for one in self._others(self._own)):
            return self._at_hand(number)
        if self._extraction is None:
            self._extraction = Extraction(self._wanted, self._outputs)
        window = self._own.window(number)
        served = []
        for other, shelf in enumerate(self._shelves):
            who = self._others(shelf)
            if shelf is self._own:
                who.append(Reading(self._windows))
            elif not any(window in one.windows for one in who):
                if self._soon(shelf, shard, window, who):
                    served.append(other)
                continue
            shelf.make_room(shard, who)
            served.append(other)
        try:
            computed = any(True for _ in list(self._extraction.compute(shard, served)))
        except BadRows:
            if len(served) == 1:
                raise
            # they may be another source's
            computed = any(True for _ in list(self._extraction.compute(shard, [0])))
        return self._at_hand(number) or computed

    def _soon(self, shelf: _Shelf, shard: Planned, window: int, who: Sequence[Reading]) -> bool:
        """Whether readers of another source come to a shard while it is cached, and it fits."""
        after = shelf.until_needed(window, who)
        near = any(one.at is not None for one in who) and after < shelf.holds
        return near and shelf.lacks(shard) and shelf.make_room(shard, who, after)

    def _ahead(self) -> bool:
        """Whether continuing would evict what a reader just behind is about to read."""
        last = self._windows[-1]
        behind = [
            reading
            for reading in self._others(self._own)
            if reading.at is not None
            and (last - reading.at) % self._own.n_windows == self._own.holds
        ]
        # readers that wait for each other would do so for ever
        return any(not one.waits for one in behind) and self._waited < PATIENCE_SECONDS

    def _others(self, shelf: _Shelf) -> list[Reading]:
        return readings(shelf.notes, but=self._entry.path)


class Supplier:
    """Computes shards of the sources of one pass ahead of their readers.

    It may be killed at any moment: what it was writing is not there, and readers see that it has
    gone and compute by themselves.
    """

    def __init__(self, wanted: Sequence[Wanted], outputs: Path) -> None:
        """Announce a supplier, so that readers need not compute.

        Args:
            wanted: sources that one pass serves.
            outputs: folder below which all lies.
        """
        self._wanted = wanted
        self._outputs = outputs
        self._entries = [
            Entry(notes_folder(one, outputs), Reading(supplies=True)) for one in wanted
        ]
        self._shelves: list[_Shelf] = []
        self._extraction: Extraction | None = None

    def prepare(self) -> Iterator[tuple[int, int]]:
        """Write what training begins with; yields as `prepare` does."""
        yield from prepare(self._wanted, self._outputs, supplies=True)
        self._shelves = [
            _Shelf(one, self._outputs) for one in self._wanted if cache_bytes(one) is not None
        ]

    def supply(self) -> bool:
        """Compute the shard that readers need next, if there is room; returns whether one was."""
        who = [readings(shelf.notes) for shelf in self._shelves]
        for after in range(max((shelf.holds for shelf in self._shelves), default=0)):
            for shelf, readers in zip(self._shelves, who, strict=True):
                at = {one.at for one in readers if one.at is not None}
                for window in sorted((one + after) % shelf.n_windows for one in at):
                    for number, shard in shelf.of(window):
                        if shelf.lacks(shard) and self._compute(number, shard, after, who):
                            return True
        return False

    def close(self) -> None:
        """Stop supplying."""
        for entry in self._entries:
            entry.close()

    def _compute(
        self, number: int, shard: Planned, after: int, who: Sequence[Sequence[Reading]]
    ) -> bool:
        if self._extraction is None:
            self._extraction = Extraction(self._wanted, self._outputs)
        served = []
        for other, (shelf, readers) in enumerate(zip(self._shelves, who, strict=True)):
            window = shelf.window(number)
            near = shelf.until_needed(window, readers) <= after and any(
                one.at is not None for one in readers
            )
            # what a reader is in comes even beyond the bound, as when it computes by itself
            if near and (shelf.make_room(shard, readers, after) or not after):
                served.append(other)
        return any(True for _ in list(self._extraction.compute(shard, served)))
