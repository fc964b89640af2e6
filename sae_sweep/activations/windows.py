"""Documents cut into the windows that a model sees, and the rows that each will give."""

from collections.abc import Iterator
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


class Windows(NamedTuple):
    """Windows in the order of their rows."""

    ids: Int32[np.ndarray, " tokens"]
    """Tokens of all windows, one after the other, without those that the tokeniser adds."""
    kept: Bool[np.ndarray, " tokens"]
    """Which tokens are text: not special."""
    starts: Int64[np.ndarray, " ends"]
    """Where each window begins in `ids`, and the end."""
    first_rows: Int64[np.ndarray, " ends"]
    """Number of each window's first row, and the number of rows."""
    documents: Int32[np.ndarray, " windows"]
    """Number of each window's document."""

    @property
    def n_rows(self) -> int:
        """Rows of all windows."""
        return int(self.first_rows[-1])

    def span(self, window: int) -> slice:
        """Where a window's tokens lie in `ids` and `kept`."""
        return slice(int(self.starts[window]), int(self.starts[window + 1]))

    def text(self, window: int) -> list[int]:
        """The token ids of a window."""
        return self.ids[self.span(window)].tolist()

    def covering(self, start: int, stop: int) -> range:
        """The windows that give rows start to stop."""
        first = int(np.searchsorted(self.first_rows, start, side="right")) - 1
        return range(first, int(np.searchsorted(self.first_rows, stop, side="left")))

    def tokens(
        self, chosen: range, pooling: Pooling, position: int | None
    ) -> tuple[Int32[np.ndarray, " rows"], Int32[np.ndarray, " rows"]]:
        """Token id and position of each row of some windows; -1 of a row that many tokens make."""
        span = slice(int(self.starts[chosen.start]), int(self.starts[chosen.stop]))
        kept = self.kept[span]
        begins = self.starts[chosen.start : chosen.stop] - span.start
        places = np.arange(len(kept)) - begins.repeat(np.diff([*begins, len(kept)]))
        ids, places = self.ids[span][kept], places[kept].astype(np.int32)
        if pooling == "token":
            return ids, places
        first_rows = self.first_rows[chosen.start : chosen.stop + 1]
        if pooling == "mean":
            nothing = np.full(first_rows[-1] - first_rows[0], -1, dtype=np.int32)
            return nothing, nothing
        assert position is not None
        n_text = np.add.reduceat(kept, begins, dtype=np.int64) if len(begins) else begins
        ends = n_text.cumsum()
        chosen_tokens = (ends if position < 0 else ends - n_text) + position
        rows = chosen_tokens[np.diff(first_rows) > 0]
        return ids[rows], places[rows]


def cut_windows(stream: Iterator[tuple[int, list[int]]], n_rows: int, cut: Cut) -> Windows:
    """Take documents (number, token ids) from a stream until they give `n_rows` rows, or it ends.

    A document is taken whole, all of its tokens in windows of at most `cut.room`.
    """
    ids, kept, lengths, rows, documents = [], [], [], [], []
    missing = n_rows
    while missing > 0 and (document := next(stream, None)) is not None:
        number, tokens = document
        for start in range(0, len(tokens), cut.room):
            window = np.array(tokens[start : start + cut.room], dtype=np.int32)
            text = ~np.isin(window, cut.special_ids)
            ids.append(window)
            kept.append(text)
            lengths.append(len(window))
            rows.append(_count(int(text.sum()), cut))
            documents.append(number)
            missing -= rows[-1]
    return Windows(
        np.concatenate([np.zeros(0, np.int32), *ids]),
        np.concatenate([np.zeros(0, bool), *kept]),
        np.cumsum([0, *lengths], dtype=np.int64),
        np.cumsum([0, *rows], dtype=np.int64),
        np.array(documents, dtype=np.int32),
    )


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
