"""Shards are read before training comes to them."""

import os
from pathlib import Path

import pytest

from sae_sweep.activations.order import visits
from sae_sweep.activations.readahead import ReadAhead

ROWS, WINDOW, PER_WINDOW = 1000, 300, 3
"""Ten shards of 100 rows: three windows of three, and one of a single shard."""


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(10)]
    for path in paths:
        path.write_bytes(b"rows")
    return paths


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the shards that the system was asked to read."""
    found: list[int] = []

    def advise(file: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        found.append(int(Path(f"/proc/self/fd/{file}").readlink().name))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


def reach(ahead: ReadAhead, *positions: int) -> None:
    ahead.reach(
        visit for position in positions for visit in visits(position, position + 10, ROWS, WINDOW)
    )


def test_the_next_window_is_read_while_this_one_is_trained_on(shards, asked) -> None:
    ahead = ReadAhead(shards, PER_WINDOW)
    reach(ahead, 0)
    assert asked == [0, 1, 2, 3]  # the window, and the first of the next
    reach(ahead, 90)
    assert asked[4:] == []
    reach(ahead, 100)
    reach(ahead, 280)
    assert asked[4:] == [4, 5]
    reach(ahead, 310)
    assert asked[6:] == [6]


def test_every_epoch_reads_again(shards, asked) -> None:
    ahead = ReadAhead(shards, PER_WINDOW)
    for position in range(0, 2 * ROWS, 10):
        reach(ahead, position)
    assert asked == [*range(10), *range(10), 0, 1, 2]


def test_trials_at_different_places_have_their_own_windows(shards, asked) -> None:
    ahead = ReadAhead(shards, PER_WINDOW)
    reach(ahead, 0, 650)
    assert asked == [0, 1, 2, 3, 6, 7, 8, 9]
    reach(ahead, 650)
    reach(ahead, 0, 650)
    assert asked[8:] == [0, 1, 2, 3]


def test_a_set_of_one_window_is_read_at_once(shards, asked) -> None:
    ahead = ReadAhead(shards, len(shards))
    ahead.reach(visits(500, 510, ROWS, ROWS))
    assert asked == list(range(10))


def test_a_system_that_cannot_be_asked_is_left_alone(shards, monkeypatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    reach(ReadAhead(shards, PER_WINDOW), 0)
