"""What was computed of a file, kept until the file changes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_sweep.activations.disk import replacing


class FileFacts:
    """One fact a file (its checksum, say), remembered by path, size and modification time.

    Use it as a context manager; new facts are written when it ends.
    """

    def __init__(self, memory: Path, compute: Callable[[Path], Any]) -> None:
        """Remember in the JSON file `memory` what `compute` gives."""
        self._memory = memory
        self._compute = compute
        self._known = self._read()
        self._new: dict[str, list[Any]] = {}

    def __call__(self, path: Path) -> Any:
        """The fact of a file, computed only when the file is new or has changed."""
        path = path.absolute()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
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
        """What is remembered; nothing where the file cannot be read: it is only a memory."""
        try:
            found = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {path: fact for path, fact in entries if isinstance(fact, list) and len(fact) == 3}


def checksums(outputs: Path) -> FileFacts:
    """Checksums of files, remembered below the folder of outputs."""
    return FileFacts(outputs / "cache" / "checksums.json", sha256)


def sha256(path: Path) -> str:
    """Hash a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
