"""The order of training rows on the device: the same ones as `activations.order` gives.

That module says how and why: a Feistel network over the cells of a near-square grid, walked until
it lands on a row. One launch finds the rows of all streams and steps.
"""

import math

import triton
import triton.language as tl
from jaxtyping import Int32, Int64
from torch import Tensor

ROUNDS = 6
GOLDEN = 0x1E3779B97F4A7C15
BLOCK = 512

_GOLDEN, _ROUNDS = tl.constexpr(GOLDEN), tl.constexpr(ROUNDS)
_LOW_31_BITS, _POSITIVE = tl.constexpr(2**31 - 1), tl.constexpr(2**63 - 1)
_FIRST, _SECOND = tl.constexpr(0xFF51AFD7ED558CCD - 2**64), tl.constexpr(0xC4CEB9FE1A85EC53 - 2**64)


@triton.jit
def mix(x):
    """Scramble 64-bit integers: fmix64 of MurmurHash3, with shifts made logical by a mask."""
    x = (x ^ ((x >> 33) & _LOW_31_BITS)) * _FIRST
    x = (x ^ ((x >> 33) & _LOW_31_BITS)) * _SECOND
    return x ^ ((x >> 33) & _LOW_31_BITS)


@triton.jit
def network(values, start, rows, columns):
    """Permute the cells of the grid [rows, columns], with keys that begin at `start`."""
    left = values // columns
    right = values % columns
    for number in tl.static_range(_ROUNDS):
        key = mix(start)
        start += _GOLDEN
        if number % 2:
            right = (right + (mix(left + key) & _POSITIVE) % columns) % columns
        else:
            left = (left + (mix(right + key) & _POSITIVE) % rows) % rows
    return left * columns + right


@triton.jit(do_not_specialize=["width", "batch", "n", "rows", "columns"])
def order_kernel(seeds, begins, order, width, batch, n, rows, columns, BLOCK: tl.constexpr):
    """Find the rows of a block of one batch of one stream."""
    stream = tl.program_id(1)
    step = tl.program_id(2)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = n.to(tl.int64)
    position = (tl.load(begins + stream) + step) * batch + token
    values = position % wide
    start = mix(mix(tl.load(seeds + stream) + _GOLDEN) + position // wide)
    values = network(values, start, rows.to(tl.int64), columns.to(tl.int64))
    while tl.max((values >= wide).to(tl.int32), axis=0) > 0:
        again = network(values, start, rows.to(tl.int64), columns.to(tl.int64))
        values = tl.where(values >= wide, again, values)
    into = order + (step.to(tl.int64) * width + stream) * batch + token
    tl.store(into, values.to(tl.int32), mask=token < batch)


def find_order(
    seeds: Int64[Tensor, " streams"],
    begins: Int64[Tensor, " streams"],
    order: Int32[Tensor, "steps width batch"],
    extent: tuple[int, int, int],
) -> None:
    """Write the rows of the next batches of all streams: `activations.order.rows_between` of each.

    Args:
        seeds: of each stream.
        begins: batches that each stream has given before.
        order: written, for as many steps and streams as `extent` says.
        extent: steps, streams, and the training rows that there are.
    """
    steps, streams, n = extent
    width, batch = order.shape[1:]
    rows = math.isqrt(n - 1) + 1
    order_kernel[(triton.cdiv(batch, BLOCK), streams, steps)](
        seeds, begins, order, width, batch, n, rows, -(-n // rows), BLOCK=BLOCK
    )
