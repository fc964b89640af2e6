"""The order of training: a stateless shuffle, independent of resumes and other trials."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

ROUNDS = 6
BLOCK_ROWS = 4096
"""Rows whose order is computed at once: a batch costs as much as a block."""
LOW_31_BITS = 2**31 - 1
POSITIVE = 2**63 - 1
GOLDEN = 0x1E3779B97F4A7C15


def batch_indices(
    seed: int, step: int, batch_size: int, n: int, window_rows: int | None = None
) -> Int64[Tensor, " batch"]:
    """Rows of one training step; a batch may straddle epochs. Not to be written to."""
    steps = max(1, BLOCK_ROWS // batch_size)
    block = _block(seed, step // steps * steps * batch_size, steps * batch_size, n, window_rows)
    return block.narrow(0, step % steps * batch_size, batch_size)


@lru_cache(maxsize=64)
def _block(
    seed: int, start: int, length: int, n: int, window_rows: int | None
) -> Int64[Tensor, " rows"]:
    """Rows of several steps; kept, for the trials beside and after that take the same ones."""
    return rows_between(seed, start, start + length, n, window_rows=window_rows)


def rows_between(
    seed: int,
    start: int,
    stop: int,
    n: int,
    device: torch.device | str = "cpu",
    *,
    window_rows: int | None = None,
) -> Int64[Tensor, " batch"]:
    """Rows at these positions of training, the same ones on every device.

    Position p falls into epoch p // n, and every epoch visits each of the `n` rows once, in an
    order of its own. Several steps are one call: only positions count. With `window_rows` below
    `n` an epoch takes one window of neighbouring rows after the other, each shuffled by itself,
    so that it can be read, or computed, while it is trained on.
    """
    if window_rows is None or window_rows >= n:
        positions = torch.arange(start, stop, device=device)
        return permute(positions % n, n, seed, positions // n)
    parts = []
    for visit in visits(start, stop, n, window_rows):
        offsets = torch.arange(visit.start, visit.stop, device=device)
        number = torch.full_like(offsets, visit.number)
        parts.append(visit.first_row + permute(offsets, visit.rows, seed, number))
    return torch.cat(parts)


class Visit(NamedTuple):
    """A run of training positions inside one window."""

    number: int
    """Windows visited before, over all epochs."""
    window: int
    """Which window of the set."""
    first_row: int
    """The window's first row."""
    rows: int
    """Rows of the window."""
    start: int
    """Places inside the window, of its shuffled rows: from here"""
    stop: int
    """to before here."""


def visits(start: int, stop: int, n: int, window_rows: int) -> Iterator[Visit]:
    """Cut positions of training into the windows that they fall into."""
    n_windows = -(-n // window_rows)
    while start < stop:
        epoch, place = divmod(start, n)
        window, inside = divmod(place, window_rows)
        rows = min(window_rows, n - window * window_rows)
        count = min(stop - start, rows - inside)
        number = epoch * n_windows + window
        yield Visit(number, window, window * window_rows, rows, inside, inside + count)
        start += count


def permute(
    positions: Int64[Tensor, " batch"], n: int, seed: int, epochs: Int64[Tensor, " batch"]
) -> Int64[Tensor, " batch"]:
    """Map positions in [0, n) by the epoch's permutation of [0, n).

    A Feistel network over pairs (left, right) in [0, rows) x [0, columns), the smallest near-square
    grid with at least n cells. Values that land outside [0, n) are mapped again until they are
    inside, which keeps the map a bijection (Black and Rogaway 2002, cycle walking).
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    keys = _keys(seed, epochs)
    values = _network(positions, rows, columns, keys)
    while (outside := (values >= n).nonzero()[:, 0]).numel():
        values[outside] = _network(values[outside], rows, columns, keys[:, outside])
    return values


def _network(
    values: Int64[Tensor, " batch"], rows: int, columns: int, keys: Int64[Tensor, "rounds batch"]
) -> Int64[Tensor, " batch"]:
    left, right = values // columns, values % columns
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + (_mix(left + key) & POSITIVE) % columns) % columns
        else:
            left = (left + (_mix(right + key) & POSITIVE) % rows) % rows
    return left * columns + right


def _keys(seed: int, epochs: Int64[Tensor, " batch"]) -> Int64[Tensor, "rounds batch"]:
    """One pseudo-random number per round and epoch."""
    first, last = int(epochs.min()), int(epochs.max())
    numbers = torch.arange(first, last + 1, device=epochs.device)
    start = _mix(_mix(torch.tensor(seed + GOLDEN)).to(epochs.device) + numbers)
    keys = torch.stack([_mix(start + number * GOLDEN) for number in range(ROUNDS)])
    return keys[:, epochs - first]


def _mix(x: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Scramble 64-bit integers (fmix64 of MurmurHash3; products wrap, shifts are logical)."""
    x = (x ^ ((x >> 33) & LOW_31_BITS)) * (0xFF51AFD7ED558CCD - 2**64)
    x = (x ^ ((x >> 33) & LOW_31_BITS)) * (0xC4CEB9FE1A85EC53 - 2**64)
    return x ^ ((x >> 33) & LOW_31_BITS)
