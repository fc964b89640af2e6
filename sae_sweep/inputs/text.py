"""Text files, read line by line: UTF-8 with or without a byte order mark, compressed or not."""

import contextlib
import gzip
import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from sae_sweep.errors import BadInput
from sae_sweep.inputs.edge import Place, edge
from sae_sweep.inputs.files import InputFile

LONGEST = 2**28
"""Bytes of the longest line, or of a file that is read whole."""

SURROGATES = re.compile("[\ud800-\udfff]")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
AS_UTF_8 = "save it in UTF-8, e.g. iconv -f LATIN1 -t UTF-8 FILE"


def lines(file: InputFile) -> Iterator[tuple[int, str]]:
    r"""Yield the number and text of every line; `\n` alone ends one, `\r` before it goes.

    Raises:
        BadInput: with the line, where the file cannot be read, is not UTF-8, or a line is longer
            than `LONGEST`.
    """
    for number, line in _raw_lines(file):
        yield number, line.removesuffix("\n").removesuffix("\r")


def paragraphs(file: InputFile) -> Iterator[tuple[int, str]]:
    r"""Yield the first line's number and the text of what blank lines separate.

    Joined, they are what `re.split(r"\n\s*\n", text)` gives, one at a time.

    Raises:
        BadInput: for a paragraph longer than `LONGEST`; as `lines`.
    """
    start, size, separated = 1, 0, False
    current: list[str] = []
    held: tuple[int, str] | None = None
    # the last line, empty where the file ends with a line break, is text even if it is blank
    for number, line in itertools.chain(_split_anywhere(file), [(0, "")]):
        if held is not None:
            last = not number
            if not held[1].strip() and current and not last:
                separated = True
            elif separated:
                yield start, "\n".join(current)
                (start, _), current, separated, size = held, [held[1]], False, 0
            else:
                current.append(held[1])
            size += len(held[1])
            if size > LONGEST:
                raise BadInput(
                    f"{file.place()}: the paragraph at line {start} is longer than "
                    f"{LONGEST >> 20} MiB: put blank lines between documents, or make one of "
                    "every line"
                )
        held = number, line
    yield start, "\n".join(current)


def _split_anywhere(file: InputFile) -> Iterator[tuple[int, str]]:
    r"""Yield what `\n`, `\r\n` and `\r` separate; after a last one comes an empty text."""
    number, line = 1, ""
    for number, line in _raw_lines(file):
        body = line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line
        for part in body.split("\r"):
            yield number, part
    if not line or line.endswith("\n"):
        yield number, ""


def _raw_lines(file: InputFile) -> Iterator[tuple[int, str]]:
    place = file.place()
    with edge(place, f"it has to be {file.kind or 'text'} in UTF-8"), _opened(file) as binary:
        number = 0
        while line := binary.readline(LONGEST + 1):
            number += 1
            place.number = number
            if len(line) > LONGEST:
                raise BadInput(f"{place} is longer than {LONGEST >> 20} MiB: break it into lines")
            if decoded := _decoded(line, place):  # nothing may follow a byte order mark
                yield number, decoded


def whole_text(file: InputFile) -> str:
    """The text of a whole file.

    Raises:
        BadInput: it cannot be read, is not UTF-8, or holds more than `LONGEST` bytes.
    """
    place = file.place()
    with edge(place, f"it has to be {file.kind or 'text'} in UTF-8"), _opened(file) as binary:
        content = binary.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise BadInput(f"{place} holds more than {LONGEST >> 20} MiB: split it")
        place.number = 1
        return _decoded(content, place).replace("\r\n", "\n").replace("\r", "\n")


def without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can spell and UTF-8 cannot, by U+FFFD."""
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def sha256(path: Path) -> str:
    """Hash a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _opened(file: InputFile) -> Iterator[BinaryIO]:
    """Open a file for reading what it holds once unpacked."""
    file.require_readable()
    match file.compression:
        case ".gz":
            with gzip.open(file.path, "rb") as unpacked:
                yield cast(BinaryIO, unpacked)
        case ".zst":
            import pyarrow as pa

            with pa.input_stream(str(file.path), compression="zstd") as stream:
                yield cast(BinaryIO, io.BufferedReader(stream))
        case _:
            with file.path.open("rb") as plain:
                yield plain


def _decoded(line: bytes, place: Place) -> str:
    first = place.number == 1
    if first and line.startswith(UTF_16):
        raise BadInput(f"{place.name} is UTF-16: {AS_UTF_8.replace('LATIN1', 'UTF-16')}")
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{place} is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}): "
            f"{AS_UTF_8}"
        ) from None
