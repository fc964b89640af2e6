"""Outputs that lie elsewhere (`outputs=s3://...`, `gs://...`, `file://...`) and their mirror here.

Everything reads and writes a folder of outputs on its own machine. Where outputs are remote, that
folder is this machine's mirror of them, and what others need of it is published and fetched:

    URL/<folder>/...               its files, each there as a whole or not at all
    URL/<folder>/published.json    written last: names, sizes and checksums of the others

A folder without `published.json` is not there for anybody who reads: an upload that was killed
leaves files that nobody looks at and that the next upload replaces. A plain folder of outputs never
comes to the code below: fsspec is imported when a remote one is first used.
"""

import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, final

from sae_sweep.disk import SECONDS_BETWEEN_LOOKS, claimed, replacing
from sae_sweep.errors import BadInput, CutShort
from sae_sweep.inputs import edge, sha256

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "file": "fsspec"}
"""Kinds of URL, and the package that each needs; the extra `remote` has them all."""

FORMS = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, file:///FOLDER or a plain folder"

VARIABLE = "SAE_SWEEP_MIRROR"
"""Names the folder below which a machine keeps its mirrors; else `MIRRORS`."""

MIRRORS = Path("outputs", "cache", "remote")

MARK = "mirror-of.txt"
"""In a mirror: the URL of the outputs that it mirrors."""

INDEX = "published.json"

SHOWN = 60
"""Characters of a URL in the name of its mirror."""


class Published(NamedTuple):
    """One file of a published folder."""

    size: int
    """Bytes."""
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether the same file lies there."""
        return path.is_file() and path.stat().st_size == self.size and sha256(path) == self.sha256


Index = dict[str, Published]
"""Files by name, relative to their folder."""


def is_remote(outputs: str) -> bool:
    """Whether outputs are named by a URL.

    Example:
        >>> is_remote("s3://bucket/sweeps"), is_remote("outputs")
        (True, False)
    """
    return "://" in outputs


def require_url(outputs: str) -> None:
    """Check that outputs are a plain folder, or a URL that can be used here.

    Raises:
        BadInput: another kind of URL, one that names no folder, or a package is not installed.
    """
    if not is_remote(outputs):
        return
    scheme, _, rest = outputs.partition("://")
    if scheme not in PACKAGES:
        raise BadInput(f"outputs={outputs}: {scheme}:// is not supported: use {FORMS}")
    if (scheme == "file") != rest.startswith("/") or not rest.strip("/"):
        raise BadInput(f"outputs={outputs} names no folder: use {FORMS}")
    if find_spec(PACKAGES[scheme]) is None:
        raise BadInput(
            f"outputs={outputs} needs the package {PACKAGES[scheme]}, which is not installed: "
            "pip install 'sae-sweep[remote]'"
        )


def local_folder(outputs: str | Path) -> Path:
    """The folder that outputs have on this machine: they themselves, or their mirror.

    Raises:
        BadInput: as `require_url`.

    Example:
        >>> local_folder("outputs")
        PosixPath('outputs')
    """
    if not is_remote(str(outputs)):
        return Path(outputs)
    require_url(str(outputs))
    url = str(outputs).rstrip("/")
    words = re.sub(r"[^A-Za-z0-9._]+", "-", url)[:SHOWN].strip("-.")
    name = f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    folder = Path(os.environ.get(VARIABLE) or MIRRORS).absolute() / name
    if not (folder / MARK).exists():
        with replacing(folder / MARK) as temporary:
            temporary.write_text(url, encoding="utf-8")
    return folder


def remote_of(outputs: Path) -> "Remote | None":
    """What a folder of outputs mirrors; None for outputs that are kept in that folder alone."""
    try:
        url = (outputs / MARK).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Remote(url, outputs)


def fetch(outputs: Path, name: str) -> Path:
    """Bring a folder of remote outputs here; returns where it lies.

    Args:
        outputs: folder of all outputs on this machine.
        name: of the folder below it.

    Raises:
        CutShort: the remote place cannot be read.
        BadInput: what is read there is damaged.
    """
    remote = remote_of(outputs)
    if remote is not None:
        remote.fetch(name)
    return outputs / name


@final
class Remote:
    """Outputs that lie elsewhere. Names are relative to them, with `/`.

    Every method raises CutShort where the place does not answer or refuses: what it was doing can
    be done again.
    """

    def __init__(self, url: str, mirror: Path) -> None:
        """Connect when first used.

        Args:
            url: of the folder of outputs.
            mirror: this machine's.
        """
        self.url = url
        self.mirror = mirror
        """This machine's folder of outputs."""
        self._scheme, _, self._root = url.partition("://")

    @cached_property
    def _files(self) -> Any:
        import fsspec

        # other machines write there too: a listing holds for one moment only
        options = {"auto_mkdir": True} if self._scheme == "file" else {"use_listings_cache": False}
        return fsspec.filesystem(self._scheme, **options)

    def require_rights(self) -> None:
        """Find out before any work starts whether files can be written, read, listed and removed.

        Raises:
            BadInput: they cannot.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        way_out = (
            "check its name, and the credentials, which need rights to list, read, write and "
            "delete there"
        )
        with edge(f"outputs={self.url}", way_out, "cannot be used"):
            self._files.pipe_file(self._path(probe), probe.encode())
            try:
                if self._files.cat_file(self._path(probe)) != probe.encode():
                    raise ValueError("what is written there reads otherwise")
                self._files.find(self._path("trials"))
            finally:
                self._files.rm_file(self._path(probe))

    def names(self, folder: str) -> set[str]:
        """All files below a folder, relative to it."""
        prefix = self._path(folder)
        with self._talking("cannot be listed"):
            return {str(one).removeprefix(f"{prefix}/") for one in self._files.find(prefix)}

    def put(self, path: Path, name: str) -> None:
        """Write a file there: who reads it meanwhile finds the one before, or none."""
        target = self._path(name)
        with self._talking("cannot be written"):
            if self._scheme != "file":  # an object appears when its upload is complete
                self._files.put_file(str(path), target)
                return
            part = str(PurePosixPath(target).with_name(f".{path.name}.{uuid.uuid4().hex}.part"))
            self._files.put_file(str(path), part)
            self._files.mv(part, target)

    def get(self, name: str, path: Path) -> None:
        """Write a file of there to a path here.

        Raises:
            FileNotFoundError: it is not there.
        """
        there = True
        with self._talking("cannot be read"):
            try:
                self._files.get_file(self._path(name), str(path))
            except FileNotFoundError:
                there = False
        if not there:
            raise FileNotFoundError(name)

    def index(self, folder: str) -> Index | None:
        """What a published folder holds; None for one that is not there.

        Raises:
            BadInput: its index is damaged.
        """
        name = f"{folder}/{INDEX}"
        with self._talking("cannot be read"):
            try:
                text = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        with edge(f"{self.url}/{name}", f"delete {self.url}/{folder} and run again", "is damaged"):
            return _parsed(text)

    def publish(
        self,
        folder: str,
        files: Collection[str] | None = None,
        checksum: Callable[[Path], str] = sha256,
    ) -> None:
        """Upload what is new or has changed of a folder of the mirror, its index last.

        Args:
            folder: its name.
            files: what it is to hold there from now on, relative to it; all its visible files.
            checksum: sha256 of a file, maybe remembered.
        """
        here = self.mirror / folder
        chosen = sorted(_visible(here) if files is None else files)
        told = {
            name: Published((here / name).stat().st_size, checksum(here / name)) for name in chosen
        }
        before = self.index(folder) or {}
        if told == before:
            return
        for name in chosen:
            if before.get(name) != told[name]:
                self.put(here / name, f"{folder}/{name}")
        self._write_index(folder, told)
        _keep_index(here, told)
        for name in before.keys() - told.keys():
            self._delete(f"{folder}/{name}")

    def fetch(self, folder: str) -> None:
        """Download what the mirror lacks of a published folder; nothing where it is not there.

        Several processes of this machine may ask for it: one downloads, the others wait.

        Raises:
            BadInput: a file is not the one that was written.
        """
        lock = self.mirror / "cache" / "locks" / f"remote-{folder.replace('/', '-')}"
        while True:
            with claimed(lock) as mine:
                if mine:
                    self._download(folder)
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _download(self, folder: str) -> None:
        told = self.index(folder)
        if told is None:
            return
        here = self.mirror / folder
        if _kept_index(here) == told and all(
            (here / name).is_file() and (here / name).stat().st_size == one.size
            for name, one in told.items()
        ):
            return
        (here / INDEX).unlink(missing_ok=True)  # until all of it is here
        whole = True
        for name, one in told.items():
            if not one.is_at(here / name):
                whole = self._download_file(f"{folder}/{name}", one) and whole
        if whole:
            _keep_index(here, told)

    def _download_file(self, name: str, told: Published) -> bool:
        """Bring a file here; returns whether it was there."""
        path = self.mirror / name
        try:
            with replacing(path) as temporary:
                self.get(name, temporary)
                if sha256(temporary) != told.sha256:
                    folder = f"{self.url}/{name}".rpartition("/")[0]
                    raise BadInput(
                        f"{self.url}/{name} has another checksum than when it was written: "
                        f"delete {folder} and run again"
                    )
        except FileNotFoundError:  # removed on purpose, as weights off the front are
            path.unlink(missing_ok=True)
            return False
        return True

    def move(self, source: str, target: str, without: Collection[str] = ()) -> None:
        """Rename a published folder, some files left out; may be repeated after it was killed."""
        told = self.index(source)
        if told is None:
            return
        kept = {name: one for name, one in told.items() if name not in without}
        # an object has no name to change: it is copied, and the source removed as a whole
        rename = self._files.mv if self._scheme == "file" else self._files.cp_file
        for name in kept.keys() & self.names(source):
            with self._talking("cannot be written"):
                rename(self._path(f"{source}/{name}"), self._path(f"{target}/{name}"))
        self._write_index(target, kept)
        self.remove(source)

    def drop(self, folder: str, name: str) -> None:
        """Remove a file of a published folder, here too; nothing where it has none."""
        (self.mirror / folder / name).unlink(missing_ok=True)
        told = self.index(folder) or {}
        if told.pop(name, None) is not None:
            self._write_index(folder, told)
            self._delete(f"{folder}/{name}")

    def remove(self, folder: str) -> None:
        """Remove a folder and all below it: for readers it is gone at once."""
        self._delete(f"{folder}/{INDEX}")
        with self._talking("cannot be removed"), suppress(FileNotFoundError):
            self._files.rm(self._path(folder), recursive=True)

    def _delete(self, name: str) -> None:
        with self._talking("cannot be removed"), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _write_index(self, folder: str, told: Index) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, INDEX)
            path.write_text(_text(told), encoding="utf-8")
            self.put(path, f"{folder}/{INDEX}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _talking(self, verb: str) -> AbstractContextManager[None]:
        way_out = "check the network, the bucket and the rights of the credentials"
        return edge(f"outputs={self.url}", way_out, verb, kind=CutShort)


def _visible(folder: Path) -> list[str]:
    """Files below a folder that are whole: those in the making have names with a dot."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        name.as_posix()
        for name in names
        if name.name != INDEX and not any(part.startswith(".") for part in name.parts)
    ]


def _text(told: Index) -> str:
    return json.dumps({name: one._asdict() for name, one in sorted(told.items())}, indent=1)


def _parsed(text: bytes | str) -> Index:
    told = {}
    for name, one in json.loads(text).items():
        parts = PurePosixPath(name).parts
        if not parts or any(part in ("/", "..") for part in parts):
            raise ValueError(f"{name!r} is no name of a file in it")
        told[name] = Published(int(one["size"]), str(one["sha256"]))
    return told


def _kept_index(folder: Path) -> Index | None:
    """The index of what was last brought here as a whole."""
    try:
        with edge(str(folder / INDEX), "it is written again"):
            return _parsed((folder / INDEX).read_text(encoding="utf-8"))
    except BadInput:
        return None


def _keep_index(folder: Path, told: Index) -> None:
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(_text(told), encoding="utf-8")
