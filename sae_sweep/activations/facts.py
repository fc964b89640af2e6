"""Facts computed from a file, kept until the file changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge, sha256


class FileFacts:
    """One fact per file (its checksum, say), remembered by path, size, times and inode.

    The time of the last change of the inode cannot be set: a file that was put in another's place
    with its size and modification time is still another.

    Use it as a context manager; new facts are written when it ends.
    """

    def __init__(self, memory: Path, compute: Callable[[Path], Any]) -> None:
        """Remember the results of `compute` in the JSON file `memory`."""
        self._memory = memory
        self._compute = compute
        self._known = self._read()
        self._new: dict[str, list[Any]] = {}

    def __call__(self, path: Path) -> Any:
        """The fact of a file, computed only when the file is new or has changed."""
        path = path.absolute()
        with edge(str(path), "check the path and its permissions"):
            return self._fact(path)

    def _fact(self, path: Path) -> Any:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        *known_stamp, fact = self._known.get(str(path), [None])
        if known_stamp != stamp:
            fact = self._compute(path)
            self._known[str(path)] = self._new[str(path)] = [*stamp, fact]
        return fact

    def __enter__(self) -> "FileFacts":
        return self

    def __exit__(self, *_: object) -> None:
        if self._new:
            # read again: another process may have added facts since
            with replacing(self._memory) as temporary:
                temporary.write_text(json.dumps({**self._read(), **self._new}, indent=0))

    def _read(self) -> dict[str, list[Any]]:
        """The remembered facts; a file that cannot be read counts as empty."""
        try:
            with edge(str(self._memory), "it is written again"):
                known = json.loads(self._memory.read_text(encoding="utf-8"))
                return {
                    path: fact for path, fact in known.items() if isinstance(fact, list) and fact
                }
        except BadInput:
            return {}


def checksums(outputs: Path) -> FileFacts:
    """Checksums of files, remembered below the folder of outputs."""
    return FileFacts(outputs / "cache" / "checksums.json", sha256)
