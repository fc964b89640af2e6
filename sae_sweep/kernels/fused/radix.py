"""Device functions of exact selection: the k largest of a token, ties to the lowest row.

A pre-activation's key is its float32 bits, 0 where it is not positive: positive floats order as
their bits do. Candidates come as blocks of WIDTH rows that lie side by side (pages, or single
rows) in ascending order, of which TILE are read at a time. All counts are integers, so what is
found does not depend on the order in which it was counted.
"""

import triton
import triton.language as tl

ABOVE_KEYS = tl.constexpr(0x7FFFFFFF)
"""Larger than every key."""

BINS = tl.constexpr(256)
"""Parts into which a pass over the candidates cuts the range of the k-th key."""

OCTAVE = tl.constexpr(1 << 23)
"""Distance of the keys of x and 2 x. The k-th largest is mostly few of them below the largest,
which a range from 1 on would not tell: most keys are of floats that do not occur."""


@triton.jit
def sort_keys(values):
    """Map float32 to integers that order as relu of them does; 0: not positive."""
    bits = values.to(tl.int32, bitcast=True)
    return tl.minimum(tl.maximum(bits, 0), ABOVE_KEYS - 1)


@triton.jit
def candidates(pre, blocks, first, n_blocks, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Read rows and keys of the TILE candidates from block `first` on; key 0 past the last."""
    block = first + tl.arange(0, TILE // WIDTH)
    first_row = tl.load(blocks + block, mask=block < n_blocks, other=0) * WIDTH
    row = tl.reshape(first_row[:, None] + tl.arange(0, WIDTH)[None, :], [TILE])
    inside = first + tl.arange(0, TILE) // WIDTH < n_blocks
    return row, sort_keys(tl.load(pre + row, mask=inside, other=-1.0))


@triton.jit
def collect(pre, blocks, n_blocks, low, high, into, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Write the rows with low <= key < high to `into`, room for TILE; give up where more are.

    Returns their count, of which only `> TILE` is meant where there are more.
    """
    tl.debug_barrier()  # the program may still be reading what `into` held before
    found = 0
    first = 0
    while (first < n_blocks) & (found <= TILE):
        row, key = candidates(pre, blocks, first, n_blocks, WIDTH, TILE)
        chosen = ((key >= low) & (key < high)).to(tl.int32)
        place = found + tl.cumsum(chosen, 0) - 1
        tl.store(into + place, row, mask=(chosen > 0) & (place < TILE))
        found += tl.sum(chosen, 0)
        first += TILE // WIDTH
    tl.debug_barrier()
    return found


@triton.jit
def narrow(pre, blocks, n_blocks, k, low, high, above, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Cut [low, high), in which the k-th largest key lies, to a part of it, by one histogram.

    `above` keys are >= high. Returns the new low and high, the count between, the new `above`;
    with fewer than k keys >= low, count plus `above` are those.
    """
    shift = 0
    while ((high - low - 1) >> shift) >= BINS:
        shift += 1
    counts = tl.zeros([BINS], tl.int32)
    for first in range(0, n_blocks, TILE // WIDTH):
        _row, key = candidates(pre, blocks, first, n_blocks, WIDTH, TILE)
        within = (key >= low) & (key < high)
        counts += tl.histogram(tl.where(within, (key - low) >> shift, 0), BINS, mask=within)
    at_least = above + tl.sum(counts, 0) - tl.cumsum(counts, 0) + counts
    part = tl.maximum(tl.sum((at_least >= k).to(tl.int32), 0) - 1, 0)
    number = tl.arange(0, BINS)
    inside = tl.sum(tl.where(number == part, counts, 0), 0)
    above += tl.sum(tl.where(number > part, counts, 0), 0)
    low += part << shift
    return low, low + tl.minimum(1 << shift, high - low), inside, above


@triton.jit
def kth_of_rows(pre, rows, n_rows, k, low, high, TILE: tl.constexpr):
    """Find the k-th largest of at most TILE keys in [low, high): by bisection in registers.

    Returns it and the last row that is chosen among its equals. At least k keys are there.
    """
    row, key = candidates(pre, rows, 0, n_rows, 1, TILE)
    at_least = n_rows
    while (at_least != k) & (high - low > 1):
        middle = tl.maximum(low + ((high - low) >> 1), high - 4 * OCTAVE)
        count = tl.sum((key >= middle).to(tl.int32), 0)
        if count >= k:
            low = middle
            at_least = count
        else:
            high = middle
    kth = tl.min(tl.where(key >= low, key, ABOVE_KEYS), 0)
    ties = (key == kth).to(tl.int32)
    room = k - tl.sum((key > kth).to(tl.int32), 0)
    admitted = (ties > 0) & (tl.cumsum(ties, 0) <= room)
    return kth, tl.max(tl.where(admitted, row, -1), 0)


@triton.jit
def last_tie(pre, blocks, n_blocks, kth, room, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Find the row of the `room`-th key, in order of rows, that equals the k-th largest."""
    last = -1
    seen = 0
    first = 0
    while (first < n_blocks) & (seen < room):
        row, key = candidates(pre, blocks, first, n_blocks, WIDTH, TILE)
        ties = (key == kth).to(tl.int32)
        admitted = (ties > 0) & (seen + tl.cumsum(ties, 0) <= room)
        last = tl.maximum(last, tl.max(tl.where(admitted, row, -1), 0))
        seen += tl.sum(ties, 0)
        first += TILE // WIDTH
    return last


@triton.jit
def kth_largest(
    pre, blocks, n_blocks, k, low, high, scratch, WIDTH: tl.constexpr, TILE: tl.constexpr
):
    """Find the k-th largest key of a token's candidates, and the last row chosen of its equals.

    The candidates that can be it are mostly few enough to be collected at once, since `low` is a
    good bound; else each pass cuts their range by `BINS` until they are.

    Args:
        pre: the token's pre-activations, by row.
        blocks: first rows of the candidates' blocks, divided by WIDTH, ascending.
        n_blocks: how many.
        k: > 0.
        low: at most the k-th largest key; 1 where fewer than k candidates are positive.
        high: above the largest key; `ABOVE_KEYS` where that is not known.
        scratch: room for TILE rows, this program's own.
        WIDTH: rows of a block.
        TILE: candidates read at a time; a power of two, a multiple of WIDTH.

    Returns:
        The key, or 0 with fewer than k positive ones: all of those are chosen then. The last row
        that is chosen among its equals, or -1. Whether, and how many, rows with a key >= low are
        in `scratch`: -1 where they were too many.
    """
    kth = 0
    last = -1
    above = 0
    found = collect(pre, blocks, n_blocks, low, high, scratch, WIDTH, TILE)
    collected = found
    reach = 8 * OCTAVE
    while (found > TILE) & (high - low > 1):
        collected = -1
        cut = tl.maximum(low, high - reach)
        part_low, part_high, inside, beyond = narrow(
            pre, blocks, n_blocks, k, cut, high, above, WIDTH, TILE
        )
        if (beyond + inside < k) & (cut > low):  # it is below the cut; what is there is not known
            high = cut
            above = beyond + inside
            reach = ABOVE_KEYS + 0
        else:
            low = part_low
            high = part_high
            found = inside
            above = beyond
    if above + found >= k:
        if found > TILE:  # one key, many times
            collected = -1
            kth = low
            last = last_tie(pre, blocks, n_blocks, kth, k - above, WIDTH, TILE)
        else:
            if collected < 0:
                found = collect(pre, blocks, n_blocks, low, high, scratch, WIDTH, TILE)
            kth, last = kth_of_rows(pre, scratch, found, k - above, low, high, TILE)
    return kth, last, collected


@triton.jit
def is_chosen(row, key, kth, last):
    """Tell whether candidates are among the k largest."""
    return (key > kth) | ((key == kth) & (key > 0) & (row <= last))
