"""Which files an input names: a file, or those below a folder."""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sae_sweep.errors import BadInput
from sae_sweep.inputs.edge import Place, edge

COMPRESSIONS = (".gz", ".zst")
"""Suffixes after the kind's own: `a.jsonl.gz`."""

UNPACKED_TABLES = (".parquet", ".safetensors", ".npy")
"""Kinds that are read in place and so are never compressed as a whole."""

NOT_CONTENT = frozenset({"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini"})


def hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's or a tool's own: `._a.jsonl`, `.git`."""
    return name.startswith(".") or name in NOT_CONTENT


def whole_kind(path: Path) -> str:
    """The suffix that names a file's kind, in lower case: `.jsonl` of `A.JSONL.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@dataclass(frozen=True)
class InputFile:
    """One file that a user named, or that lies in a folder that he named."""

    path: Path
    given_as: str
    """What stands before the path in messages: `activations.text=`, `import `."""

    @property
    def kind(self) -> str:
        """Its suffix in lower case, without that of a compression."""
        return whole_kind(self.path)

    @property
    def compression(self) -> str | None:
        """`.gz`, `.zst` or None."""
        last = self.path.suffix.lower()
        return last if last in COMPRESSIONS else None

    def place(self, unit: str = "line") -> Place:
        """The beginning of messages about it."""
        return Place(f"{self.given_as}{self.path}", unit)

    def require_readable(self) -> None:
        """Check that it is a regular file that may be read.

        Raises:
            BadInput: for a missing or unreadable file, a broken link, a folder, a pipe or device.
        """
        with edge(self.place(), "check the path and its permissions"):
            mode = self.path.stat().st_mode
            if stat.S_ISREG(mode):
                with self.path.open("rb"):
                    return
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise BadInput(f"{self.place()} is {what}, not a file: remove or rename it")


@dataclass
class Found:
    """What lies below a folder."""

    files: list[InputFile] = field(default_factory=list)
    """In the order of their paths."""
    skipped: list[Path] = field(default_factory=list)
    """Hidden files and folders, and links to what the folder holds anyway."""
    others: list[Path] = field(default_factory=list)
    """Files of other kinds."""


def find_files(path: Path, given_as: str, kinds: Collection[str]) -> Found:
    """Find the files of some kinds that `path` is or holds, nested folders included.

    Hidden files are skipped, and so are links to what the folder holds under its own name; other
    links are followed.

    Raises:
        BadInput: a file of that kind, or a folder on the way, cannot be read.
    """
    found = Found()
    if path.is_dir():
        for one in _walk(path, given_as, found.skipped):
            if whole_kind(one) in kinds:
                found.files.append(InputFile(one, given_as))
            else:
                found.others.append(one)
    elif whole_kind(path) in kinds:
        found.files.append(InputFile(path, given_as))
    else:
        found.others.append(path)
    for file in found.files:
        file.require_readable()
        if file.compression and file.kind in UNPACKED_TABLES:
            raise BadInput(f"{file.place()} is compressed: unpack it, {file.kind} is read in place")
    return found


def visible(folder: Path, given_as: str, skipped: list[Path]) -> list[Path]:
    """A folder's entries by name, without hidden ones and links to what it holds.

    Raises:
        BadInput: the folder cannot be read.
    """
    with edge(f"{given_as}{folder}", "check its permissions"):
        entries = sorted(folder.iterdir())
    root = os.path.realpath(folder)
    shown = []
    for entry in entries:
        real = os.path.realpath(entry)
        inside = entry.is_symlink() and os.path.exists(real) and f"{real}/".startswith(f"{root}/")  # noqa: PTH110
        if hidden(entry.name) or inside:
            skipped.append(entry)
        else:
            shown.append(entry)
    return shown


def _walk(folder: Path, given_as: str, skipped: list[Path]) -> Iterator[Path]:
    """Every file below a folder, each real folder once."""
    seen = {os.path.realpath(folder)}
    waiting = [folder]
    files = []
    while waiting:
        for entry in visible(waiting.pop(), given_as, skipped):
            # a folder that is named like a file, `old.txt`, is refused when it is opened
            if entry.is_dir() and not entry.suffix:
                if (real := os.path.realpath(entry)) not in seen:
                    seen.add(real)
                    waiting.append(entry)
                else:
                    skipped.append(entry)
            else:
                files.append(entry)
    yield from sorted(files)
