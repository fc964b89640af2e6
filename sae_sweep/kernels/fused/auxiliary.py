"""AuxK: dead latents reconstruct what is left, by products over the tiles that hold them."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.columns import dead_columns
from sae_sweep.kernels.fused.dense import activate, block_of, decode
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.gradients import RowGradients
from sae_sweep.kernels.fused.radix import ABOVE_KEYS, kth_largest
from sae_sweep.kernels.fused.table import Settings, Table

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)

TOKENS = 128
"""Tokens over which a program takes the residual's mean and variance."""

CANDIDATES = 1024
"""Dead latents of a token that are looked at at once."""

PROGRAMS = 1024
"""Programs that share the tokens, each with room for as many candidates."""


@triton.jit(do_not_specialize=["members", "b", "r", "k_most"])
def dead_threshold_kernel(
    pre, rows, first, counts, threshold, last_tie, scratch, members, b, r, k_most,
    CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Find where each token's k_most largest dead pre-activations end; 0: all positive ones."""
    mine = scratch + tl.program_id(0) * CANDIDATES
    for pair in range(tl.program_id(0), members * b, tl.num_programs(0)):
        member = pair // b
        token = pair % b
        count = tl.load(counts + member)
        kth = 0
        last = -1
        if count > k_most:
            listed = rows + tl.load(first + member)
            values = pre + token * r.to(tl.int64)
            low = tl.cast(1, tl.int32)  # these change their type nowhere in the search
            high = tl.cast(ABOVE_KEYS, tl.int32)
            kth, last, _collected = kth_largest(
                values, listed, count, k_most, low, high, mine, 1, CANDIDATES
            )
        if count > 0:
            tl.store(threshold + pair, tl.cast(kth, tl.float32, bitcast=True))
            tl.store(last_tie + pair, last)


@triton.jit(do_not_specialize=["b", "blocks"])
def moments_kernel(
    g, counts, means, squares, b, blocks, d, TOKENS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Take each dimension's mean over a block of tokens, and the squares of what departs of it."""
    member = tl.program_id(2)
    if tl.load(counts + member) == 0:
        return
    block = tl.program_id(1)
    token = block * TOKENS + tl.arange(0, TOKENS)
    dim = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    there = (token < b)[:, None] & (dim < d)[None, :]
    at = (member.to(tl.int64) * b + token)[:, None] * d + dim[None, :]
    residual = tl.load(g + at, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(residual, axis=0) / tl.minimum(b - block * TOKENS, TOKENS)
    apart = tl.where(there, residual - mean[None, :], 0.0)
    into = (member.to(tl.int64) * blocks + block) * d + dim
    tl.store(means + into, mean, mask=dim < d)
    tl.store(squares + into, tl.sum(apart * apart, axis=0), mask=dim < d)


@triton.jit(do_not_specialize=["b", "blocks"])
def variance_kernel(
    means, squares, counts, aux_coeff, factors, scales, b, blocks, d, to_residual,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Join the blocks; write the loss's weight over the variance, and the gradient's factor."""
    member = tl.program_id(0)
    if tl.load(counts + member) == 0:
        return
    variance = 0.0
    for i in range(0, d, COLUMNS):
        dim = i + tl.arange(0, COLUMNS)
        inside = dim < d
        start = member.to(tl.int64) * blocks * d + dim
        total = tl.zeros([COLUMNS], tl.float32)
        for block in range(0, blocks):
            size = tl.minimum(b - block * TOKENS, TOKENS)
            total += size * tl.load(means + start + block * d, mask=inside, other=0.0)
        mean = total / b
        apart = tl.zeros([COLUMNS], tl.float32)
        for block in range(0, blocks):
            size = tl.minimum(b - block * TOKENS, TOKENS)
            away = tl.load(means + start + block * d, mask=inside, other=0.0) - mean
            apart += tl.load(squares + start + block * d, mask=inside, other=0.0)
            apart += size * away * away
        variance += tl.sum(tl.where(inside, apart, 0.0), axis=0)
    variance *= to_residual * to_residual  # g is the residual over that number
    scale = tl.load(aux_coeff + member) / tl.maximum(variance, _TINY)
    scale = tl.where(variance > 0, scale, 0.0)
    tl.store(scales + member, scale)
    tl.store(factors + member, 2 * scale)


@triton.jit(do_not_specialize=["entries"])
def loss_kernel(squared, counts, scales, loss, entries, BLOCK: tl.constexpr):
    """Add up a member's squared errors, in their order; 0 where no latent is dead."""
    member = tl.program_id(0)
    value = 0.0
    if tl.load(counts + member) > 0:
        total = tl.zeros([BLOCK], tl.float32)
        for i in range(0, entries, BLOCK):
            entry = i + tl.arange(0, BLOCK)
            at = member.to(tl.int64) * entries + entry
            total += tl.load(squared + at, mask=entry < entries, other=0.0)
        value = tl.sum(total, axis=0) * tl.load(scales + member)
    tl.store(loss + member, value)


def add_aux_k(
    table: Table,
    settings: Settings,
    pre: Float32[Tensor, "b r"],
    batch: tuple[Float[Tensor, "members b d"], Float[Tensor, "members b d"]],
    room: tuple[Float[Tensor, "b r"], Float[Tensor, "b r"]],
    into: RowGradients,
    spans: int = 1,
) -> Float32[Tensor, " members"]:
    """Add the gradients of `reference.aux_k_loss` times `aux_coeff`; call it before the update.

    Dead are latents whose `silent_tokens`, this batch not yet counted, have reached their
    member's `dead_window`.

    Args:
        table: weights and `silent_tokens` are read.
        settings: of each member; those with `aux_coeff` 0 get nothing.
        pre: pre-activations.
        batch: centred activations; the reconstruction loss's gradient with respect to x_hat, of the
            whole dictionary where they are nested; both in the operands' type.
        room: activations and their gradients, overwritten.
        into: gets the gradients added in rows that are filled, written elsewhere.
        spans: nested dictionaries, over which the reconstruction loss is a mean.

    Returns:
        The loss of each member, `aux_coeff` in it; 0 where none is dead or the residual is even.
    """
    centred, g = batch
    members, b, d = g.shape
    device = g.device
    columns = dead_columns(table, settings)
    threshold = torch.empty(members, b, device=device)
    last_tie = torch.empty(members, b, dtype=torch.int32, device=device)
    programs = min(members * b, PROGRAMS)
    scratch = torch.empty(programs, CANDIDATES, dtype=torch.int32, device=device)
    dead_threshold_kernel[(programs,)](
        pre, columns.rows, columns.first, columns.counts, threshold, last_tie, scratch,
        members, b, pre.shape[1], max(1, d // 2), CANDIDATES=CANDIDATES, num_warps=4,
    )  # fmt: skip
    activate(table, columns, pre, threshold, last_tie, room[0])

    to_residual = b * spans / 2
    factors, scales = _scales(settings, columns.counts, g, to_residual)
    error = torch.empty_like(g)
    squared = decode(table, columns, room[0], (g, -to_residual), (error, factors))
    add_gradients(table, columns, room, (centred, error), into, None)
    loss = torch.empty(members, device=device)
    loss_kernel[(members,)](
        squared, columns.counts, scales, loss, squared[0].numel(), BLOCK=1024, num_warps=4
    )
    return loss


def _scales(
    settings: Settings, counts: Tensor, g: Float[Tensor, "members b d"], to_residual: float
) -> tuple[Tensor, Tensor]:
    """Compute twice the coefficient over the residual's variance of each member, and once."""
    members, b, d = g.shape
    tokens, columns = block_of(b, TOKENS), block_of(d, 64)
    blocks = triton.cdiv(b, tokens)
    means, squares = torch.empty(2, members, blocks, d, device=g.device)
    factors, scales = torch.empty(2, members, device=g.device)
    moments_kernel[(triton.cdiv(d, columns), blocks, members)](
        g, counts, means, squares, b, blocks, d, TOKENS=tokens, COLUMNS=columns, num_warps=4
    )
    variance_kernel[(members,)](
        means, squares, counts, settings.aux_coeff, factors, scales, b, blocks, d, to_residual,
        TOKENS=tokens, COLUMNS=block_of(d, 1024), num_warps=8,
    )  # fmt: skip
    return factors, scales
