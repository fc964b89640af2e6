"""Reading ahead: shards come from the disk while training is busy with those before."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sae_sweep.activations.order import Visit


class ReadAhead:
    """Asks the system to read the shards that training comes to next.

    Rows of a window are read in random order, each from another place of the disk unless its shard
    is in memory by then. The system reads whole shards in the background, as far into the next
    window as training has come in this one and a shard further.
    """

    def __init__(self, paths: Sequence[Path], window_shards: int) -> None:
        """Nothing is read yet.

        Args:
            paths: the shards of training rows.
            window_shards: how many make a window.
        """
        self._paths = paths
        self._window_shards = window_shards
        self._asked: set[int] = set()

    def reach(self, visited: Iterable[Visit]) -> None:
        """Begin to read what trainings that are at these places need soon."""
        wanted = {number for visit in visited for number in self._soon(visit)}
        for number in sorted(wanted - self._asked):
            _read(self._paths[number])
        self._asked = wanted

    def _soon(self, visit: Visit) -> Iterator[int]:
        """Numbers of the shards of a window, and of the next one's first."""
        per_window, n_shards = self._window_shards, len(self._paths)
        first = visit.window * per_window
        yield from range(first, min(first + per_window, n_shards))
        following = first + per_window if first + per_window < n_shards else 0
        reached = visit.start * per_window // visit.rows + 1
        yield from range(following, min(following + reached, n_shards))


def _read(path: Path) -> None:
    """Begin to read a file into memory, where the system can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(file)
