"""Documents cut into the windows that a model sees, and the rows that each will give."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

Pooling = Literal["token", "mean", "position"]


class Cut(NamedTuple):
    """How windows are cut and what becomes of their tokens."""

    room: int
    """Tokens of text in a window; special tokens come on top."""
    special_ids: Int64[np.ndarray, " _"]
    """Tokens that give no row even where the text spells them out."""
    pooling: Pooling
    position: int | None
    """pooling=position: which of a window's tokens, special ones not counted."""
    packed: bool = False
    """Whether a window goes on with the next document where one ends."""
    separator: tuple[int, ...] = ()
    """packed: tokens between two documents."""


COLUMNS = {
    "ids": np.int32,
    "starts": np.int64,
    "first_rows": np.int64,
    "documents": np.int32,
    "document_starts": np.int64,
}
"""Files of windows on disk, without headers."""

Stream = Iterator[tuple[int, Sequence[int]]]
"""Documents: their number and token ids."""


class Windows(NamedTuple):
    """Windows in the order of their rows, memory-mapped."""

    ids: Int32[np.ndarray, " tokens"]
    """Tokens of all windows, one after the other, without those that the tokeniser adds."""
    starts: Int64[np.ndarray, " ends"]
    """Where each window begins in `ids`, and the end."""
    first_rows: Int64[np.ndarray, " ends"]
    """Number of each window's first row, and the number of rows."""
    documents: Int32[np.ndarray, " documents"]
    """Numbers of the documents, in the order of their tokens."""
    document_starts: Int64[np.ndarray, " documents"]
    """Where each document begins in `ids`."""
    special_ids: Int64[np.ndarray, " _"]
    """Tokens that are no text."""

    @property
    def n_rows(self) -> int:
        """Rows of all windows."""
        return int(self.first_rows[-1])

    def text(self, window: int) -> Int32[np.ndarray, " tokens"]:
        """The token ids of a window."""
        return self.ids[int(self.starts[window]) : int(self.starts[window + 1])]

    def kept(self, ids: Int32[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        """Which of these tokens are text: not special."""
        return ~np.isin(ids, self.special_ids)

    def covering(self, start: int, stop: int) -> range:
        """The windows that give rows start to stop."""
        first = int(np.searchsorted(self.first_rows, start, side="right")) - 1
        return range(first, int(np.searchsorted(self.first_rows, stop, side="left")))

    def tokens(self, chosen: range, pooling: Pooling, position: int | None) -> "RowTokens":
        """Where each row of some windows comes from."""
        begin, end = int(self.starts[chosen.start]), int(self.starts[chosen.stop])
        ids = self.ids[begin:end]
        kept = self.kept(ids)
        begins = self.starts[chosen.start : chosen.stop] - begin
        places = np.arange(len(kept)) - begins.repeat(np.diff([*begins, len(kept)]))
        ids, places, at = ids[kept], places[kept].astype(np.int32), np.flatnonzero(kept) + begin
        if pooling == "token":
            return RowTokens(ids, places, self._documents_of(at))
        first_rows = self.first_rows[chosen.start : chosen.stop + 1]
        if pooling == "mean":
            gives = np.diff(first_rows) > 0
            nothing = np.full(int(gives.sum()), -1, dtype=np.int32)
            return RowTokens(nothing, nothing, self._documents_of(begins[gives] + begin))
        assert position is not None
        n_text = np.add.reduceat(kept, begins, dtype=np.int64) if len(begins) else begins
        ends = n_text.cumsum()
        chosen_tokens = (ends if position < 0 else ends - n_text) + position
        rows = chosen_tokens[np.diff(first_rows) > 0]
        return RowTokens(ids[rows], places[rows], self._documents_of(at[rows]))

    def _documents_of(self, at: Int64[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
        """Numbers of the documents that hold tokens of `ids`."""
        # an empty document begins where the next one does, and holds nothing
        return self.documents[np.searchsorted(self.document_starts, at, side="right") - 1]


class RowTokens(NamedTuple):
    """Where rows come from."""

    ids: Int32[np.ndarray, " rows"]
    """The token; -1 of a row that many tokens make."""
    places: Int32[np.ndarray, " rows"]
    """Its place in its window, likewise."""
    documents: Int32[np.ndarray, " rows"]
    """Number of its document; of the first one in the window where many tokens make the row."""


def cut_windows(stream: Stream, n_rows: int, cut: Cut, folder: Path) -> Windows:
    """Take documents from a stream until they give `n_rows` rows, or it ends.

    A document is taken whole, all of its tokens in windows of at most `cut.room`. Packed documents
    follow each other without a gap, so that all windows but the last are full; what the last
    document has beyond the rows asked for is left out. Windows are written to `folder` as they
    come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / name).open("wb", buffering=2**20))
            for name in COLUMNS
        }
        n_tokens = found = 0
        for name in ("starts", "first_rows"):
            files[name].write(np.int64(0).tobytes())
        pieces = _packed(stream, cut) if cut.packed else _alone(stream)
        while found < n_rows and (piece := next(pieces, None)) is not None:
            ids = np.array(piece.tokens, dtype=np.int32)
            files["ids"].write(ids.tobytes())
            text = ~np.isin(ids, cut.special_ids)
            begins = np.arange(0, len(ids), cut.room)
            sums = np.add.reduceat(text, begins, dtype=np.int64) if len(ids) else begins
            rows = found + np.cumsum([_count(int(one), cut) for one in sums], dtype=np.int64)
            ends = n_tokens + np.minimum(begins + cut.room, len(ids))
            files["starts"].write(ends.astype(np.int64).tobytes())
            files["first_rows"].write(rows.tobytes())
            numbers, places = zip(*piece.documents, strict=True)
            files["documents"].write(np.array(numbers, dtype=np.int32).tobytes())
            files["document_starts"].write((n_tokens + np.array(places, dtype=np.int64)).tobytes())
            n_tokens, found = n_tokens + len(ids), int(rows[-1]) if len(rows) else found
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return read_windows(folder, cut)


class _Piece(NamedTuple):
    """What windows are cut from: none reaches into the next piece."""

    tokens: Sequence[int]
    documents: Sequence[tuple[int, int]]
    """Number of each document in it, and its first token here."""


def _alone(stream: Stream) -> Iterator[_Piece]:
    return (_Piece(tokens, [(number, 0)]) for number, tokens in stream)


def _packed(stream: Stream, cut: Cut) -> Iterator[_Piece]:
    """Full windows of documents that follow each other, and what is left at the end."""
    held: list[int] = []
    documents: list[tuple[int, int]] = []
    for number, tokens in stream:
        documents.append((number, len(held)))
        held += [*tokens, *cut.separator]
        full = len(held) // cut.room * cut.room
        for begin in range(0, full, cut.room):
            inside = [one for one in documents if one[1] < begin + cut.room]
            documents = documents[len(inside) :]
            yield _Piece(
                held[begin : begin + cut.room],
                [(each, max(place - begin, 0)) for each, place in inside],
            )
            documents.insert(0, (inside[-1][0], begin + cut.room))  # it may go on
        held = held[full:]
        documents = [(each, place - full) for each, place in documents]
    if held:
        yield _Piece(held, documents)


def read_windows(folder: Path, cut: Cut) -> Windows:
    """Map windows that lie on disk into memory."""
    columns = {name: _mapped(folder / name, kind) for name, kind in COLUMNS.items()}
    return Windows(**columns, special_ids=cut.special_ids)


def _mapped(path: Path, kind: type) -> np.ndarray:
    if not path.stat().st_size:  # nothing cannot be mapped
        return np.zeros(0, kind)
    return np.memmap(path, dtype=kind, mode="r")


def _count(n_text: int, cut: Cut) -> int:
    """Rows of a window with `n_text` tokens of text."""
    match cut.pooling:
        case "token":
            return n_text
        case "mean":
            return min(n_text, 1)
        case "position":
            assert cut.position is not None
            return int(-n_text <= cut.position < n_text)
