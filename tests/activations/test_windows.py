import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.activations.windows import Cut, Pooling, Windows, cut_windows

SPECIAL = 9


def cut(room: int = 4, pooling: Pooling = "token", position: int | None = None) -> Cut:
    return Cut(room, np.array([SPECIAL]), pooling, position)


def cutting(documents: Iterator[tuple[int, list[int]]], n_rows: int, cut: Cut) -> Windows:
    with tempfile.TemporaryDirectory() as folder:
        return cut_windows(documents, n_rows, cut, Path(folder))


def pieces(windows: Windows) -> list[list[int]]:
    """Tokens of each document, wherever windows begin."""
    ends = [*windows.document_starts.tolist(), len(windows.ids)]
    found: dict[int, list[int]] = {}
    for number, start, stop in zip(windows.documents.tolist(), ends, ends[1:], strict=False):
        found.setdefault(number, []).extend(windows.ids[start:stop].tolist())
    return [found[number] for number in sorted(found)]


def stream(*documents: list[int]) -> Iterator[tuple[int, list[int]]]:
    return iter(list(enumerate(documents)))


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12),
    room=st.integers(1, 5),
)
def test_no_token_of_a_document_is_dropped(documents: list[list[int]], room: int) -> None:
    windows = cutting(stream(*documents), 10**6, cut(room))
    assert pieces(windows) == documents
    for window in range(len(windows.starts) - 1):
        assert 1 <= len(windows.text(window)) <= room
    assert windows.n_rows == sum(token != SPECIAL for one in documents for token in one)


def test_whole_documents_are_taken_until_there_are_enough_rows() -> None:
    documents = stream([1] * 3, [2] * 6, [3] * 2, [4] * 2)
    validation = cutting(documents, 4, cut())
    assert validation.documents.tolist() == [0, 1]
    train = cutting(documents, 3, cut())
    assert train.documents.tolist() == [2, 3]


@given(
    documents=st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=12),
    room=st.integers(1, 5),
    n_rows=st.integers(1, 40),
)
def test_packed_documents_fill_their_windows_and_rows_know_theirs(
    documents: list[list[int]], room: int, n_rows: int
) -> None:
    packing = Cut(room, np.array([SPECIAL]), "token", None, packed=True, separator=(SPECIAL,))
    numbered = [(number, [number] * len(one)) for number, one in enumerate(documents)]
    windows = cutting(iter(numbered), n_rows, packing)
    joined = [token for _, one in numbered for token in (*one, SPECIAL)]
    assert windows.ids.tolist() == joined[: len(windows.ids)]
    lengths = np.diff(windows.starts)
    assert all(lengths[:-1] == room)
    assert windows.n_rows >= n_rows or len(windows.ids) == len(joined)
    everything = windows.tokens(range(len(lengths)), "token", None)
    assert everything.ids.tolist() == everything.documents.tolist()
    for window in range(len(lengths)):
        some = windows.tokens(range(window, window + 1), "token", None)
        assert some.documents.tolist() == [one for one in windows.text(window) if one != SPECIAL]
        assert (windows.text(window)[some.places] == some.ids).all()


def test_packed_documents_are_of_one_split() -> None:
    packing = Cut(4, np.array([SPECIAL]), "token", None, packed=True, separator=(SPECIAL,))
    documents = stream([1] * 6, [2] * 2, [3] * 2)
    assert cutting(documents, 4, packing).documents.tolist() == [0]
    assert cutting(documents, 4, packing).documents.tolist() == [1, 2, 2]


def test_a_stream_that_ends_early_gives_what_it_has() -> None:
    assert cutting(stream([1], []), 5, cut()).n_rows == 1
    assert cutting(stream(), 5, cut()).n_rows == 0


def test_a_window_of_special_tokens_gives_no_row() -> None:
    documents = [[SPECIAL] * 2, [1, SPECIAL, 2]]
    token = cutting(stream(*documents), 10, cut())
    assert token.first_rows.tolist() == [0, 0, 2]
    assert token.kept(token.ids).tolist() == [False, False, True, False, True]
    assert cutting(stream(*documents), 10, cut(pooling="mean")).first_rows.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("position", "expected"), [(0, [1, 1, 0]), (2, [1, 0, 0]), (-1, [1, 1, 0]), (-3, [1, 0, 0])]
)
def test_a_window_too_short_for_the_position_gives_no_row(
    position: int, expected: list[int]
) -> None:
    documents = stream([1, 2, 3], [1, 2], [SPECIAL])
    windows = cutting(documents, 10, cut(pooling="position", position=position))
    assert np.diff(windows.first_rows).tolist() == expected


@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=10).filter(any),
    data=st.data(),
)
def test_covering_windows_are_those_that_hold_the_rows(
    lengths: list[int], data: st.DataObject
) -> None:
    windows = cutting(stream(*[[1] * length for length in lengths]), 10**6, cut())
    start = data.draw(st.integers(0, windows.n_rows - 1))
    stop = data.draw(st.integers(start + 1, windows.n_rows))
    covering = windows.covering(start, stop)
    assert windows.first_rows[covering.start] <= start < windows.first_rows[covering.start + 1]
    assert windows.first_rows[covering.stop - 1] < stop <= windows.first_rows[covering.stop]
