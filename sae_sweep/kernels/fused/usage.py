"""The usage loss: latents that are selected too rarely are pulled up, by every token."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.always_on import add_shares
from sae_sweep.kernels.fused.dense import block_of, tile_sides
from sae_sweep.kernels.fused.dense_gradients import weights_kernel
from sae_sweep.kernels.fused.gradients import RowGradients
from sae_sweep.kernels.fused.table import FREE, IDLE, Settings, Table
from sae_sweep.kernels.reference import USAGE_WIDTH

TOKENS = 32
"""Tokens of a page's pre-activations that are looked at at a time."""

WARPS = 8
"""Of the program of a page: 16 of its numbers per thread."""

PAGES = 512
"""Pages whose sums a program reads at once."""

COLUMNS = 64
"""Dimensions of a page's decoder gradients that are cleared at a time."""

_IDLE, _FREE = tl.constexpr(IDLE), tl.constexpr(FREE)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_LOWEST = tl.constexpr(-(2**31))


@triton.jit
def works(member, form, coeff):
    """Whether a page's owner has the loss."""
    acting = member >= 0
    if acting:
        acting = (tl.load(form + member) != _IDLE) & (tl.load(coeff + member) > 0)
    return acting


@triton.jit(do_not_specialize=["b", "r"])
def moments_kernel(
    pre, form, coeff, page_member, page_latents, sums, b, r,
    PAGE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Sum one page's pre-activations and their squares."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if works(member, form, coeff) == 0:
        return
    latent = tl.arange(0, PAGE)
    is_latent = latent < tl.load(page_latents + page)
    total = tl.zeros([PAGE], tl.float64)
    squares = tl.zeros([PAGE], tl.float64)
    for first in range(0, b, TOKENS):
        token = first + tl.arange(0, TOKENS)
        at = token.to(tl.int64)[:, None] * r + page * PAGE + latent[None, :]
        mask = (token < b)[:, None] & is_latent[None, :]
        value = tl.load(pre + at, mask=mask, other=0.0).to(tl.float64)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)
    tl.store(sums + 2 * page, tl.sum(total, 0))
    tl.store(sums + 2 * page + 1, tl.sum(squares, 0))


@triton.jit(do_not_specialize=["b", "pages"])
def width_kernel(
    sums, member_pages, page_latents, form, coeff, widths, counts, b, pages, share,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Find how soft one member's selection is, and count its latents."""
    member = tl.program_id(0)
    if works(member, form, coeff) == 0:
        return
    total = tl.zeros([CHUNK], tl.float64)
    squares = tl.zeros([CHUNK], tl.float64)
    latents = tl.zeros([CHUNK], tl.int32)
    for first in range(0, pages, CHUNK):
        place = first + tl.arange(0, CHUNK)
        mine = member_pages + member.to(tl.int64) * pages + place
        page = tl.load(mine, mask=place < pages, other=_FREE)
        total += tl.load(sums + 2 * page, mask=page >= 0, other=0.0)
        squares += tl.load(sums + 2 * page + 1, mask=page >= 0, other=0.0)
        latents += tl.load(page_latents + page, mask=page >= 0, other=0)
    n_latents = tl.sum(latents, 0)
    entries = n_latents.to(tl.float64) * b
    mean = tl.sum(total, 0) / entries
    variance = tl.sum(squares, 0) / entries - mean * mean
    spread = tl.sqrt(tl.maximum(variance, 0.0)).to(tl.float32)
    tl.store(widths + member, tl.maximum(share * spread, _TINY))
    tl.store(counts + member, n_latents)


@triton.jit
def ordered(values):
    """Map float32 to integers that order as they do."""
    bits = values.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def count_from(pre, mine, page_latents, pages, low, PAGE: tl.constexpr):
    """Count a token's pre-activations whose integer is >= low."""
    latent = tl.arange(0, PAGE)
    count = 0
    place = 0
    page = tl.load(mine)
    while page >= 0:
        value = tl.load(pre + page * PAGE + latent)
        there = latent < tl.load(page_latents + page)
        count += tl.sum((there & (ordered(value) >= low)).to(tl.int32), 0)
        place += 1
        page = tl.load(mine + place, mask=place < pages, other=_FREE)
    return count


@triton.jit(do_not_specialize=["b", "pages"])
def middle_kernel(
    pre, threshold, k_of, form, coeff, member_pages, page_latents, middles, b, pages,
    PAGE: tl.constexpr,
):  # fmt: skip
    """Find one token's k-th largest pre-activation, which need not be positive."""
    token = tl.program_id(0)
    member = tl.program_id(1)
    if works(member, form, coeff) == 0:
        return
    here = member.to(tl.int64) * b + token
    kth = tl.load(threshold + here)
    if kth <= 0:  # the selection has not found it: by bisection, through all pages each time
        k = tl.load(k_of + member)
        own = pre + token * pages.to(tl.int64) * PAGE
        mine = member_pages + member.to(tl.int64) * pages
        low = tl.cast(_LOWEST, tl.int64)
        high = tl.cast(1, tl.int64)
        while high - low > 1:
            middle = low + (high - low) // 2
            if count_from(own, mine, page_latents, pages, middle, PAGE) >= k:
                low = middle
            else:
                high = middle
        bits = low.to(tl.int32)
        kth = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(middles + here, kth)


@triton.jit
def selected(pre, middles, width, token, member, row, is_latent, b, r):
    """How far each token selects each latent of a page, from 0 to 1."""
    there = token < b
    middle = tl.load(middles + member.to(tl.int64) * b + token, mask=there, other=0.0)
    at = token.to(tl.int64)[:, None] * r + row[None, :]
    mask = there[:, None] & is_latent[None, :]
    value = tl.load(pre + at, mask=mask, other=0.0)
    soft = 1 / (1 + tl.exp(-((value - middle[:, None]) / width)))
    return tl.where(mask, soft, 0.0)


@triton.jit(do_not_specialize=["b", "r"])
def usage_kernel(
    pre, middles, widths, counts, form, coeff, targets, page_member, page_latents,
    dz, rows, tile_member, biases, shares, b, r,
    PAGE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one page's pre-activations, and what its latents lack together."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    tl.store(tile_member + page, _FREE)
    if works(member, form, coeff) == 0:
        return
    latent = tl.arange(0, PAGE)
    row = page * PAGE + latent
    is_latent = latent < tl.load(page_latents + page)
    width = tl.load(widths + member)
    used = tl.zeros([PAGE], tl.float32)
    for first in range(0, b, TOKENS):
        token = first + tl.arange(0, TOKENS)
        used += tl.sum(selected(pre, middles, width, token, member, row, is_latent, b, r), 0)
    lacking = tl.where(is_latent, tl.maximum(tl.load(targets + member) - used / b, 0.0), 0.0)
    n_latents = tl.load(counts + member).to(tl.float32)
    weight = tl.load(coeff + member) / n_latents
    tl.store(shares + page, weight * tl.sum(lacking * lacking, 0))
    if tl.max(lacking, 0) <= 0:
        return
    tl.store(tile_member + page, member)
    tl.store(rows + row, tl.where(is_latent, row, _FREE))
    factor = -2 * weight * lacking / (b * width)
    bias = tl.zeros([PAGE], tl.float32)
    for first in range(0, b, TOKENS):
        token = first + tl.arange(0, TOKENS)
        soft = selected(pre, middles, width, token, member, row, is_latent, b, r)
        gradient = factor[None, :] * soft * (1 - soft)
        bias += tl.sum(gradient, 0)
        at = token.to(tl.int64)[:, None] * r + row[None, :]
        tl.store(dz + at, gradient.to(dz.dtype.element_ty), mask=(token < b)[:, None])
    tl.store(biases + row, bias)


@triton.jit
def fill_kernel(
    rows, tile_member, biases, into_bias, into_dec, into_activity, filled, d,
    PAGE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the encoder's bias, and leave nothing undefined in rows that had no gradients."""
    page = tl.program_id(0)
    if tl.load(tile_member + page) < 0:
        return
    row = page * PAGE + tl.arange(0, PAGE)
    is_latent = tl.load(rows + row) >= 0
    before = tl.load(filled + row, mask=is_latent, other=1)
    tl.debug_barrier()  # all have read it
    bias = tl.load(biases + row)
    bias += tl.load(into_bias + row, mask=before != 0, other=0.0)
    tl.store(into_bias + row, bias, mask=is_latent)
    tl.store(into_activity + row, tl.zeros([PAGE], tl.float32), mask=before == 0)
    for i in range(0, d, COLUMNS):
        column = i + tl.arange(0, COLUMNS)
        at = row.to(tl.int64)[:, None] * d + column[None, :]
        mask = (before == 0)[:, None] & (column < d)[None, :]
        tl.store(into_dec + at, tl.zeros([PAGE, COLUMNS], tl.float32), mask=mask)
    tl.store(filled + row, tl.full([PAGE], 1, tl.int32), mask=is_latent)


def add_usage(
    table: Table,
    settings: Settings,
    chosen: tuple[Float32[Tensor, "b r"], Float32[Tensor, "members b"]],
    centred: Float[Tensor, "members b d"],
    room: Float[Tensor, "b r"],
    into: RowGradients,
    loss: Float32[Tensor, " members"],
) -> None:
    """Add `reference.usage_loss` times `usage_coeff`, and its gradients; before the update.

    Args:
        table: whose pages they are.
        settings: of each member; those with `usage_coeff` 0 get nothing.
        chosen: pre-activations, and each token's k-th largest activation.
        centred: activations less the decoder's bias, in the operands' type.
        room: for the gradient of pre-activations, overwritten.
        into: gets the gradients added in rows that are filled, written elsewhere.
        loss: grows by the loss.
    """
    pre, threshold = chosen
    members, b, d = centred.shape
    (pages,), r, page = table.page_member.shape, pre.shape[1], table.page
    device, coeff = pre.device, settings.usage_coeff
    whole = torch.empty(r + 2 * members, dtype=torch.int32, device=device)
    rows, counts = whole[:r], whole[r : r + members]
    tile_member = torch.empty(pages, dtype=torch.int32, device=device)
    sums = torch.empty(pages, 2, dtype=torch.float64, device=device)
    widths, middles = torch.empty(members, device=device), torch.empty_like(threshold)
    biases, shares = torch.empty(r, device=device), torch.empty(pages, device=device)
    owners = (table.page_member, table.page_latents)
    sizes = {"PAGE": page, "TOKENS": TOKENS, "num_warps": WARPS}
    moments_kernel[(pages,)](pre, settings.form, coeff, *owners, sums, b, r, **sizes)
    width_kernel[(members,)](
        sums, table.member_pages, table.page_latents, settings.form, coeff, widths, counts,
        b, pages, USAGE_WIDTH, CHUNK=PAGES, num_warps=4,
    )  # fmt: skip
    middle_kernel[(b, members)](
        pre, threshold, settings.k, settings.form, coeff, table.member_pages, table.page_latents,
        middles, b, pages, PAGE=page, num_warps=1,
    )  # fmt: skip
    usage_kernel[(pages,)](
        pre, middles, widths, counts, settings.form, coeff, settings.usage_target, *owners,
        room, rows, tile_member, biases, shares, b, r, **sizes,
    )  # fmt: skip
    side, depth = tile_sides(centred.dtype)
    dims = block_of(d, side)
    weights_kernel[(triton.cdiv(d, dims), pages)](
        room, centred, rows, tile_member, into.filled, into.w_enc, b, r, d,
        PAGE=page, COLUMNS=dims, DEPTH=block_of(b, depth), num_warps=8, num_stages=3,
    )  # fmt: skip
    fill_kernel[(pages,)](
        rows, tile_member, biases, into.b_enc, into.w_dec, into.activity, into.filled, d,
        PAGE=page, COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    add_shares(table, settings, coeff, shares, loss)
