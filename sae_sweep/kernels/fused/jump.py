"""Thresholds of latents (JumpReLU): their straight-through gradients, and what lifts dead latents.

`dz_kernel` leaves the upstream gradient of every activation of these members, active or not: those
within half a bandwidth of their threshold move it.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from sae_sweep.kernels.fused.always_on import add_shares
from sae_sweep.kernels.fused.columns import Columns
from sae_sweep.kernels.fused.table import Settings, Table
from sae_sweep.kernels.fused.update import EPS, adam, load_adam

TOKENS = 8
"""Tokens of a tile that a program looks at at a time."""


class ThresholdSums(NamedTuple):
    """Sums over a block of tokens, by column; undefined for members without thresholds."""

    upstream: Float32[Tensor, "blocks r"]
    """Upstream gradients of activations near their threshold."""
    near: Float32[Tensor, "blocks r"]
    """How many are near."""
    lifted: Float32[Tensor, "blocks r"]
    """How many of a dead latent are below their threshold."""
    missing: Float32[Tensor, "blocks r"]
    """How far below, summed."""


@triton.jit(do_not_specialize=["b"])
def straight_through_kernel(
    pre, dz, rows, tile_member, thresholds, silent_tokens, bandwidths, lifts, dead_window,
    dz_sums, upstream_sums, near_sums, lifted_sums, missing_sums, b, r,
    PAGE: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Turn one tile's upstream gradients into those of pre-activations; sum over a block."""
    tile = tl.program_id(1)
    member = tl.load(tile_member + tile)
    if member < 0:
        return
    bandwidth = tl.load(bandwidths + member)
    if bandwidth == 0:
        return
    lift = tl.load(lifts + member)
    column = tile * PAGE + tl.arange(0, PAGE)
    row = tl.load(rows + column)
    is_latent = row >= 0
    theta = tl.load(thresholds + row, mask=is_latent, other=0.0)
    silent = tl.load(silent_tokens + row, mask=is_latent, other=0)
    dead = is_latent & (silent >= tl.load(dead_window + member))
    total = tl.zeros([PAGE], tl.float32)
    upstream = tl.zeros([PAGE], tl.float32)
    near_count = tl.zeros([PAGE], tl.float32)
    lifted = tl.zeros([PAGE], tl.float32)
    gap = tl.zeros([PAGE], tl.float32)
    block = tl.program_id(0) * BLOCK
    for first in range(block, tl.minimum(block + BLOCK, b), TOKENS):
        token = first + tl.arange(0, TOKENS)
        at = token.to(tl.int64)[:, None] * r
        valid = (token < b)[:, None] & is_latent[None, :]
        value = tl.load(pre + at + row[None, :], mask=valid, other=-float("inf"))
        into = dz + at + column[None, :]
        gradient = tl.load(into, mask=valid, other=0.0).to(tl.float32)
        near = tl.abs(value - theta[None, :]) < bandwidth / 2
        upstream += tl.sum(tl.where(near, gradient, 0.0), axis=0)
        near_count += tl.sum(near.to(tl.float32), axis=0)
        below = valid & dead[None, :] & (value < theta[None, :])
        gap += tl.sum(tl.where(below, theta[None, :] - value, 0.0), axis=0)
        lifted += tl.sum(below.to(tl.float32), axis=0)
        gradient = tl.where(value > theta[None, :], gradient, 0.0) - tl.where(below, lift, 0.0)
        tl.store(into, gradient.to(dz.dtype.element_ty), mask=valid)
        total += tl.sum(gradient, axis=0)
    sums = tl.program_id(0).to(tl.int64) * r + column
    tl.store(dz_sums + sums, total)
    tl.store(upstream_sums + sums, upstream)
    tl.store(near_sums + sums, near_count)
    tl.store(lifted_sums + sums, lifted)
    tl.store(missing_sums + sums, gap)


def straight_through(
    table: Table,
    columns: Columns,
    settings: Settings,
    pre: Float32[Tensor, "b r"],
    dz: Float[Tensor, "b r"],
    dz_sums: Float32[Tensor, "blocks r"],
    block: int,
) -> ThresholdSums:
    """Finish the gradients of pre-activations of members with a bandwidth; others' are left.

    `reference.jump_relu`, `mean_l0` and `pre_activation_loss`, but for what the batch's L0 decides.

    Args:
        table: thresholds and `silent_tokens` are read.
        columns: which latents take part.
        settings: of each member.
        pre: pre-activations.
        dz: upstream gradients of activations by column; changed.
        dz_sums: set: the gradients' sums over each block of tokens.
        block: tokens of one.

    Returns:
        What the thresholds' own gradients are made of.
    """
    b, r = pre.shape
    sums = ThresholdSums(*torch.empty(4, *dz_sums.shape, device=pre.device))
    tiles, tokens = len(columns.tile_member), min(TOKENS, block)
    straight_through_kernel[(len(dz_sums), tiles)](
        pre, dz, columns.rows, columns.tile_member, table.thresholds.value, table.silent_tokens,
        settings.bandwidth, settings.lift, settings.dead_window, dz_sums, *sums, b, r,
        PAGE=r // tiles, BLOCK=block, TOKENS=tokens, num_warps=4,
    )  # fmt: skip
    return sums


@triton.jit(do_not_specialize=["b", "blocks"])
def threshold_kernel(
    rows, tile_member, bandwidths, lifts, l1_weights, goals, active,
    step_sizes, corrections, complements1, betas2, complements2,
    upstream_sums, near_sums, lifted_sums, missing_sums,
    thresholds, firsts, seconds, shares, b, blocks, r, eps, PAGE: tl.constexpr,
):  # fmt: skip
    """Take one Adam step with the thresholds of one tile, and write its part of the loss."""
    tile = tl.program_id(0)
    member = tl.load(tile_member + tile)
    if member < 0:
        return
    bandwidth = tl.load(bandwidths + member)
    if bandwidth == 0:
        return
    column = tile * PAGE + tl.arange(0, PAGE)
    row = tl.load(rows + column)
    is_latent = row >= 0
    upstream = tl.zeros([PAGE], tl.float32)
    near = tl.zeros([PAGE], tl.float32)
    lifted = tl.zeros([PAGE], tl.float32)
    gap = tl.zeros([PAGE], tl.float32)
    for block in range(0, blocks):
        at = block * r.to(tl.int64) + column
        upstream += tl.load(upstream_sums + at)
        near += tl.load(near_sums + at)
        lifted += tl.load(lifted_sums + at)
        gap += tl.load(missing_sums + at)
    l0 = tl.load(active + member).to(tl.float32) / b
    l1_weight = tl.load(l1_weights + member)
    goal = tl.load(goals + member)
    weight = l1_weight
    if goal > 0:
        weight = l1_weight * 2 * (l0 / goal - 1) / goal
    lift = tl.load(lifts + member)
    theta = tl.load(thresholds + row, mask=is_latent, other=0.0)
    gradient = lift * lifted - (theta * upstream + weight / b * near) / bandwidth
    settings = load_adam(step_sizes, corrections, complements1, betas2, complements2, member)
    step_size, correction, complement1, beta2, complement2 = settings
    theta, first, second = adam(
        theta,
        tl.load(firsts + row, mask=is_latent, other=0.0),
        tl.load(seconds + row, mask=is_latent, other=0.0),
        gradient, step_size, correction, complement1, beta2, complement2, eps,
    )  # fmt: skip
    tl.store(thresholds + row, tl.maximum(theta, 0.0), mask=is_latent)
    tl.store(firsts + row, first, mask=is_latent)
    tl.store(seconds + row, second, mask=is_latent)
    page = tl.max(row, 0) // PAGE  # a tile's latents are those of one page
    tl.store(shares + page, lift * tl.sum(tl.where(is_latent, gap, 0.0), 0))


def update_thresholds(
    table: Table,
    columns: Columns,
    settings: Settings,
    sums: ThresholdSums,
    active: Int64[Tensor, " members"],
    b: int,
    loss: Float32[Tensor, " members"],
) -> None:
    """Take one Adam step with the thresholds of every member that has them, in place.

    Args:
        table: thresholds and their moments change.
        columns: those of `dense_columns`.
        settings: of each member.
        sums: of `straight_through`.
        active: active latents of the batch.
        b: its tokens.
        loss: grows by the pre-activation loss.
    """
    blocks, r = sums.near.shape
    tiles = len(columns.tile_member)
    shares = torch.empty(tiles, device=loss.device)
    threshold_kernel[(tiles,)](
        columns.rows, columns.tile_member, settings.bandwidth, settings.lift,
        settings.l0_weight, settings.l0_goal, active,
        settings.threshold_step_size, settings.correction, settings.complement1, settings.beta2,
        settings.complement2, *sums, *table.thresholds, shares, b, blocks, r, EPS,
        PAGE=r // tiles, num_warps=4,
    )  # fmt: skip
    add_shares(table, settings, settings.lift, shares, loss)
