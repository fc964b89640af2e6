"""Gradients of encoder and decoder by products over whole tiles of latents."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.columns import Columns
from sae_sweep.kernels.fused.dense import block_of, tile_sides
from sae_sweep.kernels.fused.gradients import RowGradients
from sae_sweep.kernels.fused.jump import ThresholdSums, straight_through
from sae_sweep.kernels.fused.table import Settings, Table


@triton.jit
def l1_weights_kernel(
    w_dec, rows, tile_member, unit_rows, l1_weight, l1_weights, d,
    PAGE: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write what a unit of each latent's activation costs: with free rows, times their norm."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    member = tl.load(tile_member + tl.program_id(0) * COLUMNS // PAGE)
    if member < 0:
        return
    member_weight = tl.load(l1_weight + member)
    row = tl.load(rows + column)
    factor = tl.full([COLUMNS], 1.0, tl.float32)
    if (tl.load(unit_rows + member) == 0) & (member_weight != 0):
        total = tl.zeros([COLUMNS], tl.float32)
        for i in range(0, d, DEPTH):
            dim = i + tl.arange(0, DEPTH)
            at = row.to(tl.int64)[:, None] * d + dim[None, :]
            valid = (row >= 0)[:, None] & (dim < d)[None, :]
            w = tl.load(w_dec + at, mask=valid, other=0.0)
            total += tl.sum(w * w, axis=1)
        factor = tl.sqrt(total)
    tl.store(l1_weights + column, member_weight * factor)


@triton.jit(do_not_specialize=["b"])
def dz_kernel(
    latents, dz, g, w_dec, rows, tile_member, tile_plane, l1_weights, bandwidths,
    dz_sums, z_sums, active_sums, b, r, d,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, DEPTH: tl.constexpr, PENALISED: tl.constexpr,
):  # fmt: skip
    """Write the gradient of active latents, g w_dec^T and their L1 weight, and sums over a block.

    Of members with a bandwidth all latents' g w_dec^T.
    """
    tile = tl.program_id(1)
    member = tl.load(tile_member + tile)
    if member < 0:
        return
    column = tile * PAGE + tl.arange(0, PAGE)
    row = tl.load(rows + column)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = (token < b)[:, None]
    plane = tl.load(tile_plane + tile)
    upstream = g + (plane.to(tl.int64) * b + token)[:, None] * d
    weights = w_dec + row.to(tl.int64)[:, None] * d
    total = tl.zeros([TOKENS, PAGE], tl.float32)
    for i in range(0, d, DEPTH):
        dim = i + tl.arange(0, DEPTH)
        inside = dim < d
        gradient = tl.load(upstream + dim[None, :], mask=there & inside[None, :], other=0.0)
        valid = (row >= 0)[:, None] & inside[None, :]
        w = tl.load(weights + dim[None, :], mask=valid, other=0.0)
        total = tl.dot(gradient, tl.trans(w), total, input_precision="ieee")
    if PENALISED:
        total += tl.load(l1_weights + column)[None, :]
    at = token.to(tl.int64)[:, None] * r + column[None, :]
    z = tl.load(latents + at, mask=there, other=0.0).to(tl.float32)
    least = 0.0
    if PENALISED:
        least = tl.where(tl.load(bandwidths + member) > 0, -1.0, 0.0)
    total = tl.where(z > least, total, 0.0)
    tl.store(dz + at, total.to(dz.dtype.element_ty), mask=there)
    sums = tl.program_id(0).to(tl.int64) * r + column
    tl.store(dz_sums + sums, tl.sum(total, axis=0))
    if PENALISED:
        tl.store(z_sums + sums, tl.sum(z, axis=0))
        tl.store(active_sums + sums, tl.sum((z > 0).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["b"])
def weights_kernel(
    factors, vectors, rows, tile_plane, filled, into, b, r, d,
    PAGE: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Add factors^T vectors, over the batch, to the rows of one tile."""
    tile = tl.program_id(1)
    plane = tl.load(tile_plane + tile)
    if plane < 0:
        return
    column = tile * PAGE + tl.arange(0, PAGE)
    dim = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (dim < d)[None, :]
    batch = vectors + plane.to(tl.int64) * b * d
    total = tl.zeros([PAGE, COLUMNS], tl.float32)
    for i in range(0, b, DEPTH):
        token = i + tl.arange(0, DEPTH)
        there = (token < b)[:, None]
        wide = token.to(tl.int64)[:, None]
        factor = tl.load(factors + wide * r + column[None, :], mask=there, other=0.0)
        vector = tl.load(batch + wide * d + dim[None, :], mask=there & inside, other=0.0)
        total = tl.dot(tl.trans(factor), vector, total, input_precision="ieee")
    row = tl.load(rows + column)
    at = into + row.to(tl.int64)[:, None] * d + dim[None, :]
    valid = (row >= 0)[:, None] & inside
    there = tl.load(filled + row, mask=row >= 0, other=0) != 0
    total += tl.load(at, mask=valid & there[:, None], other=0.0)
    tl.store(at, total, mask=valid)


@triton.jit(do_not_specialize=["blocks"])
def latent_sums_kernel(
    dz_sums, z_sums, active_sums, rows, tile_member, b_enc, activity, count, filled, blocks, r,
    PAGE: tl.constexpr, PENALISED: tl.constexpr,
):  # fmt: skip
    """Add up the batch's blocks: encoder's bias, activity, active tokens; the rows are filled."""
    tile = tl.program_id(0)
    member = tl.load(tile_member + tile)
    if member < 0:
        return
    column = tile * PAGE + tl.arange(0, PAGE)
    row = tl.load(rows + column)
    there = (tl.load(filled + row, mask=row >= 0, other=0) != 0) & (row >= 0)
    into_bias = tl.load(b_enc + row, mask=there, other=0.0)
    active = tl.load(activity + row, mask=there, other=0.0)
    times = tl.zeros([PAGE], tl.int32)
    for block in range(0, blocks):
        at = block * r.to(tl.int64) + column
        into_bias += tl.load(dz_sums + at)
        if PENALISED:  # latents that AuxK activates are neither penalised nor counted
            active += tl.load(z_sums + at)
            times += tl.load(active_sums + at)
    tl.store(b_enc + row, into_bias, mask=row >= 0)
    tl.store(activity + row, active, mask=row >= 0)
    if PENALISED:
        tl.store(count + row, times, mask=row >= 0)
    tl.store(filled + row, tl.full([PAGE], 1, tl.int32), mask=row >= 0)


def add_gradients(
    table: Table,
    columns: Columns,
    latents: tuple[Float[Tensor, "b r"], Float[Tensor, "b r"]],
    batch: tuple[Float[Tensor, "members b d"], Float[Tensor, "planes b d"]],
    into: RowGradients,
    penalised: Settings | None,
    pre: Float32[Tensor, "b r"] | None = None,
) -> ThresholdSums | None:
    """Differentiate encoder and decoder, for the latents that have columns.

    Args:
        table: the decoder is read.
        columns: which latents take part.
        latents: activations; room for their gradients.
        batch: centred activations; gradient with respect to the reconstruction, by span.
        into: gets the gradients added in rows that are filled, written elsewhere.
        penalised: settings of members whose active latents have an L1 weight, if any.
        pre: pre-activations, where members have thresholds that are trained.

    Returns:
        What the gradients of these thresholds are made of, if there are any.
    """
    (z, dz), (centred, g) = latents, batch
    b, r = z.shape
    d = centred.shape[2]
    page = table.page
    tiles = r // page
    side, depth = tile_sides(table.operands.w_dec.dtype)
    tokens, dims = block_of(b, side), block_of(d, side)
    blocks = triton.cdiv(b, tokens)
    dz_sums, z_sums = torch.empty(2, blocks, r, device=g.device)
    active_sums = torch.empty(blocks, r, dtype=torch.int32, device=g.device)
    l1_weights = torch.empty(r, device=g.device)
    where = (columns.rows, columns.tile_member)
    if penalised is not None:
        l1_weights_kernel[(r // 16,)](
            table.weights.w_dec, *where, penalised.unit_rows, penalised.l1_weight, l1_weights, d,
            PAGE=page, COLUMNS=16, DEPTH=block_of(d, 128), num_warps=4,
        )  # fmt: skip
    dz_kernel[(blocks, tiles)](
        z, dz, g, table.operands.w_dec, *where, columns.tile_plane, l1_weights,
        l1_weights if penalised is None else penalised.bandwidth,
        dz_sums, z_sums, active_sums, b, r, d,
        PAGE=page, TOKENS=tokens, DEPTH=block_of(d, depth), PENALISED=penalised is not None,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    found = None
    if pre is not None:
        assert penalised is not None
        found = straight_through(table, columns, penalised, pre, dz, dz_sums, tokens)
    decoder, encoder = (z, g, columns.tile_plane), (dz, centred, columns.tile_member)
    for (factors, vectors, planes), weights in ((decoder, into.w_dec), (encoder, into.w_enc)):
        weights_kernel[(triton.cdiv(d, dims), tiles)](
            factors, vectors, columns.rows, planes, into.filled, weights, b, r, d,
            PAGE=page, COLUMNS=dims, DEPTH=block_of(b, depth), num_warps=8, num_stages=3,
        )  # fmt: skip
    latent_sums_kernel[(tiles,)](
        dz_sums, z_sums, active_sums, *where,
        into.b_enc, into.activity, into.active_tokens, into.filled, blocks, r,
        PAGE=page, PENALISED=penalised is not None, num_warps=4,
    )  # fmt: skip
    return found
