"""Decoding by products over whole tiles: for members with many active latents, and dead ones.

Activations and their gradients lie in buffers [tokens, columns]; `columns` says which latent a
column is. Each sum runs over a member's own columns, or its batch, in their order.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.columns import Columns
from sae_sweep.kernels.fused.table import Table

TURNS = 8
"""Blocks of tokens that a program activates one after the other: most tiles hold no dead latent,
and programs that end at once still have to be started."""


@triton.jit(do_not_specialize=["b"])
def activate_kernel(
    pre, threshold, last_tie, thresholds, rows, tile_member, latents, b, r,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    """Write the activations of one tile of columns, zeros included."""
    tile = tl.program_id(0)
    member = tl.load(tile_member + tile)
    if member < 0:
        return
    column = tile * PAGE + tl.arange(0, PAGE)
    row = tl.load(rows + column)
    least = tl.load(thresholds + row, mask=row >= 0, other=0.0)[None, :]
    first = tl.program_id(1) * TOKENS * TURNS
    for i in range(first, tl.minimum(first + TOKENS * TURNS, b), TOKENS):
        token = i + tl.arange(0, TOKENS)
        there = token < b
        lowest = tl.load(threshold + member * b + token, mask=there, other=0.0)[:, None]
        last = tl.load(last_tie + member * b + token, mask=there, other=0)[:, None]
        at = token.to(tl.int64)[:, None] * r
        valid = there[:, None] & (row >= 0)[None, :]
        value = tl.load(pre + at + row[None, :], mask=valid, other=0.0)
        tie = (value == lowest) & (row[None, :] <= last)
        value = tl.where((value > least) & ((value > lowest) | tie), value, 0.0)
        into = latents + at + column[None, :]
        tl.store(into, value.to(latents.dtype.element_ty), mask=there[:, None])


@triton.jit(do_not_specialize=["members", "b"])
def decode_kernel(
    latents, w_dec, rows, first, counts, target, factors, error, squared, members, b, r, d,
    target_factor,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write factor (latents w_dec - target_factor target), and the squares' sums over a block.

    The sum over latents is not split among programs. How it is split may not depend on the company,
    or bits would; a fixed split in two fills a device that one small trial leaves half empty, and
    costs its partial sums a write and a read in every pack (d 768, 8,192 latents, 1,024 tokens on
    an H100, estimated: 33 us gained alone, 35 us lost by eight trials).
    """
    plane = tl.program_id(2)
    member = plane % members
    count = tl.load(counts + plane)
    if count == 0:
        return
    start = tl.load(first + member)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    dim = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    there = (token < b)[:, None]
    inside = (dim < d)[None, :]
    activations = latents + token.to(tl.int64)[:, None] * r
    total = tl.zeros([TOKENS, COLUMNS], tl.float32)
    depth = tl.arange(0, DEPTH)
    row_ahead = tl.load(rows + start + depth)
    for i in range(0, count, DEPTH):
        # rows come a turn early: a load whose address is itself under way is not pipelined
        row = row_ahead
        ahead = i + DEPTH + depth
        row_ahead = tl.load(rows + start + ahead, mask=ahead < count, other=-1)
        column = tl.multiple_of(start + i, 16) + depth
        z = tl.load(activations + column[None, :], mask=there, other=0.0)
        weights = w_dec + row.to(tl.int64)[:, None] * d + dim[None, :]
        w = tl.load(weights, mask=(row >= 0)[:, None] & inside, other=0.0)
        total = tl.dot(z, w, total, input_precision="ieee")
    at = (member.to(tl.int64) * b + token)[:, None] * d + dim[None, :]
    wanted = tl.load(target + at, mask=there & inside, other=0.0).to(tl.float32)
    total = tl.where(there & inside, total - target_factor * wanted, 0.0)
    blocks = tl.num_programs(0)
    wide = plane.to(tl.int64) * b + token
    tl.store(
        squared + wide * blocks + tl.program_id(0), tl.sum(total * total, axis=1), mask=token < b
    )
    total *= tl.load(factors + member)
    into = error + wide[:, None] * d + dim[None, :]
    tl.store(into, total.to(error.dtype.element_ty), mask=there & inside)


@triton.jit(do_not_specialize=["b", "blocks"])
def sum_squares_kernel(
    squared, counts, squared_error, b, blocks, TOKENS: tl.constexpr, BLOCKS: tl.constexpr
):
    """Add up a token's blocks."""
    plane = tl.program_id(1)
    if tl.load(counts + plane) == 0:
        return
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    block = tl.arange(0, BLOCKS)
    at = (plane.to(tl.int64) * b + token)[:, None] * blocks + block[None, :]
    valid = (token < b)[:, None] & (block < blocks)[None, :]
    total = tl.sum(tl.load(squared + at, mask=valid, other=0.0), axis=1)
    tl.store(squared_error + plane * b + token, total, mask=token < b)


def activate(
    table: Table,
    columns: Columns,
    pre: Float32[Tensor, "b r"],
    threshold: Float32[Tensor, "members b"],
    last_tie: Int32[Tensor, "members b"],
    latents: Float[Tensor, "b r"],
) -> None:
    """Write activations by column: pre-activations that the selection takes, zeros elsewhere.

    Taken are those above their latent's threshold, which is 0 where none is trained, that are also
    among the largest.
    """
    b, r = pre.shape
    tiles = len(columns.tile_member)
    tokens = block_of(b, 32)
    activate_kernel[(tiles, triton.cdiv(b, tokens * TURNS))](
        pre, threshold, last_tie, table.thresholds.value, columns.rows, columns.tile_member,
        latents, b, r,
        PAGE=r // tiles, TOKENS=tokens, TURNS=TURNS, num_warps=4,
    )  # fmt: skip


def decode_error(
    table: Table,
    columns: Columns,
    latents: Float[Tensor, "b r"],
    centred: Float[Tensor, "members b d"],
    g: Float[Tensor, "planes b d"],
    squared_error: Float32[Tensor, "planes b"],
) -> None:
    """Reconstruct, for members with columns: g = 2 (x_hat - x) / (b spans), and squared errors.

    One reconstruction per plane: by all columns of the spans up to its own. Others' g and squared
    errors stay; `centred` may be float32 or of the operands' type.
    """
    members, b, _ = centred.shape
    spans = len(g) // members
    factors = torch.full((members,), 2 / (b * spans), device=g.device)
    columns = columns._replace(counts=_nested_counts(table, columns, spans))
    squared = decode(table, columns, latents, (centred, 1.0), (g, factors))
    tokens, blocks = block_of(b, 128), squared.shape[2]
    sum_squares_kernel[(triton.cdiv(b, tokens), len(g))](
        squared, columns.counts, squared_error, b, blocks,
        TOKENS=tokens, BLOCKS=triton.next_power_of_2(blocks), num_warps=4,
    )  # fmt: skip


def _nested_counts(table: Table, columns: Columns, spans: int) -> Int32[Tensor, " planes"]:
    """Columns of each plane's dictionary; 0 where its member has none."""
    if spans == 1:
        return columns.counts
    members = torch.arange(len(columns.counts), device=columns.counts.device)[:, None]
    owned = (table.page_member == members) & (columns.counts > 0)[:, None]
    parts = [owned & (table.page_span <= span) for span in range(spans)]
    return torch.cat(parts).sum(dim=1, dtype=torch.int32) * table.page


def decode(
    table: Table,
    columns: Columns,
    latents: Float[Tensor, "b r"],
    target: tuple[Float[Tensor, "members b d"], float],
    out: tuple[Float[Tensor, "planes b d"], Float32[Tensor, " members"]],
) -> Float32[Tensor, "planes b blocks"]:
    """Decode, less a target times a number; write the error times a factor of each member.

    Returns:
        The error's squares, summed over each block of dimensions.
    """
    wanted, target_factor = target
    error, factors = out
    members, b, d = wanted.shape
    side, depth = tile_sides(table.operands.w_dec.dtype)
    tokens, dims = block_of(b, side), block_of(d, side)
    blocks = triton.cdiv(d, dims)
    squared = torch.empty(len(error), b, blocks, device=error.device)
    decode_kernel[(blocks, triton.cdiv(b, tokens), len(error))](
        latents, table.operands.w_dec, columns.rows, columns.first, columns.counts,
        wanted, factors, error, squared, members, b, latents.shape[1], d, target_factor,
        TOKENS=tokens, COLUMNS=dims, DEPTH=min(depth, table.page), num_warps=8, num_stages=3,
    )  # fmt: skip
    return squared


def tile_sides(operand: torch.dtype) -> tuple[int, int]:
    """Choose sides of a tile of output, and its products' depth: what registers hold."""
    return (64, 32) if operand == torch.float32 else (128, 64)


def block_of(size: int, most: int) -> int:
    """Cut `size` into blocks: as `tl.dot` wants them, no wider than `most`."""
    return min(max(triton.next_power_of_2(size), 16), most)
