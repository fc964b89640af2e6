"""A penalty on latents that fire in too many tokens of the batch."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.by_latent import ByLatent
from sae_sweep.kernels.fused.gradients import RowGradients
from sae_sweep.kernels.fused.table import DENSE, FREE, IDLE, Settings, Table

WARPS = 16
"""Of the program of a page."""

REGISTERS = 128
"""Most of a thread: left to itself the compiler takes fewer, and spills."""

_DENSE, _IDLE, _FREE = tl.constexpr(DENSE), tl.constexpr(IDLE), tl.constexpr(FREE)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


TOKENS = 32
"""Tokens of a page's pre-activations that are looked at at a time."""


@triton.jit
def count_dense(
    pre, threshold, last_tie, member, row, tokens, n_rows, PAGE: tl.constexpr, TOKENS: tl.constexpr
):
    """Count the tokens that choose each row of a page."""
    count = tl.zeros([PAGE], tl.int32)
    for first in range(0, tokens, TOKENS):
        token = first + tl.arange(0, TOKENS)
        exists = token < tokens
        place = member.to(tl.int64) * tokens + token
        at = token.to(tl.int64)[:, None] * n_rows + row[None, :]
        value = tl.load(pre + at, mask=exists[:, None], other=-1.0)
        bound = tl.load(threshold + place, mask=exists, other=0.0)[:, None]
        last = tl.load(last_tie + place, mask=exists, other=-1)[:, None]
        chosen = (value > bound) | ((value == bound) & (value > 0) & (row[None, :] <= last))
        count += tl.sum(chosen.to(tl.int32), 0)
    return count


@triton.jit
def excess_of_page(
    page, member, acts, start, pre, threshold, last_tie, page_latents, coeff, limit, b, r,
    PAGE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """L1 weight of each latent of a page, without its row's norm."""
    latent = tl.arange(0, PAGE)
    row = page * PAGE + latent
    if acts == _DENSE:
        count = count_dense(pre, threshold, last_tie, member, row, b, r, PAGE, TOKENS)
    else:
        count = tl.load(start + row + 1) - tl.load(start + row)
    share = count.to(tl.float32) / b
    excess = coeff * tl.maximum(share - limit, 0.0) / (1 - limit)
    return tl.where(latent < tl.load(page_latents + page), excess, 0.0)


@triton.jit
def active_sums(
    row, member, acts, start, tokens, values, pre, threshold, last_tie, centred, b, r, d,
    column, inside,
):  # fmt: skip
    """Sum, over the tokens on which a latent is active, its inputs, its activations and ones."""
    inputs = tl.zeros(column.shape, tl.float32)
    activity = 0.0
    count = 0.0
    place = member.to(tl.int64) * b
    if acts == _DENSE:
        for token in range(0, b):
            value = tl.load(pre + token * r.to(tl.int64) + row)
            bound = tl.load(threshold + place + token)
            last = tl.load(last_tie + place + token)
            if (value > bound) | ((value == bound) & (value > 0) & (row <= last)):
                at = (place + token) * d + column
                inputs += tl.load(centred + at, mask=inside, other=0.0).to(tl.float32)
                activity += value
                count += 1.0
    else:
        for entry in range(tl.load(start + row), tl.load(start + row + 1)):
            at = tl.load(tokens + entry).to(tl.int64) * d + column
            inputs += tl.load(centred + at, mask=inside, other=0.0).to(tl.float32)
            activity += tl.load(values + entry)
            count += 1.0
    return inputs, activity, count


@triton.jit(do_not_specialize=["b", "r"])
def often_kernel(
    start, tokens, values, pre, threshold, last_tie, centred, w_dec, form, unit_rows,
    often_coeff, often_limit, page_member, page_latents,
    into_enc, into_bias, into_dec, into_activity, filled, shares, b, r, d,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the gradients of one page's latents, and write their penalty."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if member == _FREE:
        return
    acts = tl.load(form + member)
    coeff = tl.load(often_coeff + member)
    penalty = 0.0
    if (acts != _IDLE) & (coeff > 0):
        limit = tl.load(often_limit + member)
        excess = excess_of_page(
            page, member, acts, start, pre, threshold, last_tie, page_latents, coeff, limit,
            b, r, PAGE, TOKENS,
        )  # fmt: skip
        latent = tl.arange(0, PAGE)
        column = tl.arange(0, WIDTH)
        inside = column < d
        unit = tl.load(unit_rows + member)
        rest = tl.sum((excess > 0).to(tl.int32), 0)
        offset = 0
        while rest > 0:
            l1_weight = tl.sum(tl.where(latent == offset, excess, 0.0), 0)
            if l1_weight > 0:
                rest -= 1
                row = page * PAGE + offset
                inputs, activity, count = active_sums(
                    row, member, acts, start, tokens, values, pre, threshold, last_tie, centred,
                    b, r, d, column, inside,
                )  # fmt: skip
                at = row * d.to(tl.int64) + column
                w = tl.load(w_dec + at, mask=inside, other=0.0)
                norm = tl.where(unit != 0, 1.0, tl.sqrt(tl.sum(w * w, 0)))
                penalty += l1_weight * norm * activity / b
                pull = tl.where((unit == 0) & (norm > 0), l1_weight / tl.maximum(norm, _TINY), 0.0)
                to_enc = inputs * (l1_weight * norm / b)
                to_dec = w * (pull * activity / b)
                to_bias = count * (l1_weight * norm / b)
                before = tl.load(filled + row)
                tl.debug_barrier()  # all threads have read it
                if before != 0:
                    to_enc += tl.load(into_enc + at, mask=inside, other=0.0)
                    to_dec += tl.load(into_dec + at, mask=inside, other=0.0)
                    to_bias += tl.load(into_bias + row)
                else:
                    tl.store(into_activity + row, 0.0)
                tl.store(into_enc + at, to_enc, mask=inside)
                tl.store(into_dec + at, to_dec, mask=inside)
                tl.store(into_bias + row, to_bias)
                tl.store(filled + row, 1)
            offset += 1
    tl.store(shares + page, penalty)


@triton.jit(do_not_specialize=["pages"])
def add_shares_kernel(shares, member_pages, form, coeff, loss, pages, CHUNK: tl.constexpr):
    """Add the shares of one member's pages to its loss, in their order."""
    member = tl.program_id(0)
    if tl.load(form + member) == _IDLE:
        return
    if tl.load(coeff + member) <= 0:
        return
    total = tl.zeros([CHUNK], tl.float32)
    for first in range(0, pages, CHUNK):
        place = first + tl.arange(0, CHUNK)
        mine = member_pages + member.to(tl.int64) * pages + place
        page = tl.load(mine, mask=place < pages, other=_FREE)
        total += tl.load(shares + page, mask=page >= 0, other=0.0)
    tl.store(loss + member, tl.load(loss + member) + tl.sum(total, 0))


def add_shares(
    table: Table,
    settings: Settings,
    coeff: Float32[Tensor, " members"],
    shares: Float32[Tensor, " pages"],
    loss: Float32[Tensor, " members"],
) -> None:
    """Add what the pages of each member have to give to its loss.

    Args:
        table: whose pages they are.
        settings: which members take part.
        coeff: those with 0 get nothing.
        shares: of each page.
        loss: grows.
    """
    add_shares_kernel[(len(loss),)](
        shares, table.member_pages, settings.form, coeff, loss, len(shares), CHUNK=512, num_warps=4
    )


def add_always_on(
    table: Table,
    settings: Settings,
    active: ByLatent,
    chosen: tuple[Float32[Tensor, "b r"], Float32[Tensor, "members b"], Int32[Tensor, "members b"]],
    centred: Float[Tensor, "members b d"],
    into: RowGradients,
    loss: Float32[Tensor, " members"],
) -> None:
    """Add `reference.always_on_penalty` times `often_coeff`, and its gradients.

    Few latents fire so often: each is walked by the program of its page.

    Args:
        table: the decoder is read.
        settings: of each member; those with `often_coeff` 0 get nothing.
        active: active latents of `SPARSE` members.
        chosen: pre-activations, thresholds and last ties, for `DENSE` ones.
        centred: activations less the decoder's bias, in the operands' type.
        into: gets the gradients added in rows that are filled, written elsewhere.
        loss: grows by the penalty.
    """
    b, r = chosen[0].shape
    pages, d = len(table.page_member), centred.shape[2]
    shares = torch.empty(pages, device=centred.device)
    often_kernel[(pages,)](
        active.start, active.tokens, active.values, *chosen, centred, table.weights.w_dec,
        settings.form, settings.unit_rows, settings.often_coeff, settings.often_limit,
        table.page_member, table.page_latents,
        into.w_enc, into.b_enc, into.w_dec, into.activity, into.filled, shares, b, r, d,
        PAGE=table.page, TOKENS=TOKENS, WIDTH=triton.next_power_of_2(d),
        num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip
    add_shares(table, settings, settings.often_coeff, shares, loss)
