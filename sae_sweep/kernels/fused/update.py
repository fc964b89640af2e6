"""One pass over the latents: gradients from their active tokens, Adam, unit norm.

All that a latent's update needs is its own two rows and the tokens on which it is active, so no
gradient of the weights is ever stored. A row moves 26 bytes a weight (three tensors read and
written in float32, a bfloat16 copy written); the rest of the design keeps that traffic flowing.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.table import IDLE, Settings, Table
from sae_sweep.kernels.reference import Adam

ROWS = 8
"""Latents of a program: one more row of sums for the decoder's bias is written for each."""

TOKENS = {torch.bfloat16: 4, torch.float32: 2}
"""Tokens whose vectors a program has under way at once, by their type: 128 registers a thread."""

CHUNK = 128
"""Tokens of a part of a latent that is active on many: at least two parts are made."""

EPS: float = Adam._field_defaults["eps"]

_IDLE = tl.constexpr(IDLE)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


class RowGradients(NamedTuple):
    """Gradients that products over whole tiles have left for the update, by row."""

    w_enc: Float32[Tensor, "r d"]
    b_enc: Float32[Tensor, " r"]
    w_dec: Float32[Tensor, "r d"]
    activity: Float32[Tensor, " r"]
    """Sum of a latent's activations over the batch, where they have a price."""
    filled: Int32[Tensor, " r"]
    """1 where a row has any; elsewhere the others are not read. A step begins with zeros."""


def empty_gradients(r: int, d: int, device: torch.device) -> RowGradients:
    """Make room for every row's gradients, none filled."""
    wide, narrow = torch.empty(2, r, d, device=device), torch.empty(2, r, device=device)
    filled = torch.zeros(r, dtype=torch.int32, device=device)
    return RowGradients(wide[0], narrow[0], wide[1], narrow[1], filled)


@triton.jit
def _row_price(w, price, unit_rows):
    """What a unit of activation costs: with free rows it is multiplied by the row's norm."""
    norm = tl.sqrt(tl.sum(w * w, axis=0))
    return tl.where(unit_rows != 0, price, price * norm), norm


@triton.jit
def _walk(
    tokens, values, begin, end, w, price, g, centred, d, into_dec, into_enc, column, inside,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """Add the gradients of one latent's tokens in [begin, end) to its rows, in their order.

    The vectors of several tokens are loaded and reduced together: one trip to memory and one
    barrier for all of them. They stay in the operands' type until used, so bfloat16 needs half
    the registers.
    """
    column = tl.max_contiguous(column, 4)  # as many as a load of float32 takes: one layout for all
    into_bias = 0.0
    activity = 0.0
    for j in range(begin, end, TOKENS):
        at = j + tl.arange(0, TOKENS)
        there = at < end
        token = tl.load(tokens + at, mask=there, other=0).to(tl.int64)
        z = tl.load(values + at, mask=there, other=0.0)
        offset = (token * d)[:, None]
        mask = there[:, None] & inside[None, :]
        upstream = tl.load(g + offset + column[None, :], mask=mask, other=0.0).to(tl.float32)
        x = tl.load(centred + offset + column[None, :], mask=mask, other=0.0).to(tl.float32)
        dz = tl.where(there, tl.sum(upstream * w[None, :], axis=1) + price, 0.0)
        into_dec += tl.sum(z[:, None] * upstream, axis=0)
        into_enc += tl.sum(dz[:, None] * x, axis=0)
        into_bias += tl.sum(dz, axis=0)
        activity += tl.sum(z, axis=0)
    return into_dec, into_enc, into_bias, activity


@triton.jit(do_not_specialize=["rows"])
def split_kernel(
    w_dec, page_member, form, unit_rows, price, tokens, values, start, centred, g,
    part_enc, part_dec, part_sums, rows, d,
    PAGE: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum the parts of latents with two CHUNKs of tokens or more, one part a program.

    Parts begin a multiple of CHUNK after the latent's own first token, so they do not depend on
    where its list lies. Part q is summed by the program whose window, of CHUNK entries of all
    lists, is the q-th to begin inside the latent's list; there is one for every part, the last of
    which takes what is left over.
    """
    window = tl.program_id(0)
    position = window * CHUNK
    if position >= tl.load(start + rows):
        return
    row = 0
    above = rows
    while above - row > 1:  # the row whose list contains `position`
        middle = (row + above) // 2
        before = tl.load(start + middle) <= position
        row = tl.where(before, middle, row)
        above = tl.where(before, above, middle)
    begin = tl.load(start + row)
    end = tl.load(start + row + 1)
    part = window - tl.cdiv(begin, CHUNK)
    parts = (end - begin) // CHUNK
    if (parts < 2) | (part >= parts):
        return
    member = tl.load(page_member + row // PAGE)
    if member < 0:
        return
    if tl.load(form + member) == _IDLE:
        return
    column = tl.arange(0, WIDTH)
    inside = column < d
    w = tl.load(w_dec + row.to(tl.int64) * d + column, mask=inside, other=0.0)
    row_price, _ = _row_price(w, tl.load(price + member), tl.load(unit_rows + member))
    zeros = tl.zeros([WIDTH], tl.float32)
    first = begin + part * CHUNK
    last = tl.where(part == parts - 1, end, first + CHUNK)
    into_dec, into_enc, into_bias, activity = _walk(
        tokens, values, first, last, w, row_price, g, centred, d, zeros, zeros, column, inside,
        TOKENS,
    )  # fmt: skip
    offset = window.to(tl.int64) * d + column
    tl.store(part_enc + offset, into_enc, mask=inside)
    tl.store(part_dec + offset, into_dec, mask=inside)
    tl.store(part_sums + 2 * window, into_bias)
    tl.store(part_sums + 2 * window + 1, activity)


@triton.jit
def adam(
    parameter, first, second, gradient, step_size, correction, complement1, beta2, complement2,
    eps,
):  # fmt: skip
    """Compute what `reference.adam_step` leaves in parameter and moments."""
    first += complement1 * (gradient - first)
    second = beta2 * second + complement2 * gradient * gradient
    return parameter - step_size * first / (tl.sqrt(second) / correction + eps), first, second


@triton.jit
def update_kernel(
    w_enc, b_enc, w_dec,
    first_w_enc, first_b_enc, first_w_dec, second_w_enc, second_b_enc, second_w_dec,
    copy_enc, copy_dec, page_member, page_latents,
    form, unit_rows, step_sizes, corrections, complements1, betas2, complements2, price,
    tokens, values, start, centred, g,
    part_enc, part_dec, part_sums, dense_w_enc, dense_b_enc, dense_w_dec, dense_activity, filled,
    partials, d, eps,
    PAGE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
    CHUNK: tl.constexpr, COPIES: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Update ROWS latents of one page, one after the other."""
    group = tl.program_id(0)
    page = group * ROWS // PAGE
    member = tl.load(page_member + page)
    if member < 0:
        return
    if tl.load(form + member) == _IDLE:
        return
    unit = tl.load(unit_rows + member)
    member_price = tl.load(price + member)
    step_size = tl.load(step_sizes + member)
    correction = tl.load(corrections + member)
    complement1 = tl.load(complements1 + member)
    beta2 = tl.load(betas2 + member)
    complement2 = tl.load(complements2 + member)
    column = tl.arange(0, WIDTH)
    inside = column < d
    quads = tl.max_contiguous(column, 4)
    wide = d.to(tl.int64)
    to_bias = tl.zeros([WIDTH], tl.float32)
    last_row = tl.minimum((group + 1) * ROWS, page * PAGE + tl.load(page_latents + page))
    end = tl.load(start + group * ROWS)
    for row in range(group * ROWS, last_row):
        begin = end
        end = tl.load(start + row + 1)
        at = row * wide
        w = tl.load(w_dec + at + column, mask=inside, other=0.0)
        row_price, norm = _row_price(w, member_price, unit)
        parts = (end - begin) // CHUNK
        parts = tl.where(parts < 2, 0, parts)
        zeros = tl.zeros([WIDTH], tl.float32)
        into_dec, into_enc, into_bias, activity = _walk(
            tokens, values, begin, tl.where(parts > 0, begin, end), w, row_price, g, centred, d,
            zeros, zeros, column, inside, TOKENS,
        )  # fmt: skip
        first_part = tl.cdiv(begin, CHUNK)
        for part in range(first_part, first_part + parts):
            offset = part * wide
            into_dec += tl.load(part_dec + offset + column, mask=inside, other=0.0)
            into_enc += tl.load(part_enc + offset + column, mask=inside, other=0.0)
            into_bias += tl.load(part_sums + 2 * part)
            activity += tl.load(part_sums + 2 * part + 1)
        if DENSE:
            if tl.load(filled + row) != 0:
                into_dec += tl.load(dense_w_dec + at + column, mask=inside, other=0.0)
                into_enc += tl.load(dense_w_enc + at + column, mask=inside, other=0.0)
                into_bias += tl.load(dense_b_enc + row)
                activity += tl.load(dense_activity + row)

        # all of Adam's loads before the first reduction, so that they travel together
        first_dec = tl.load(first_w_dec + at + column, mask=inside, other=0.0)
        second_dec = tl.load(second_w_dec + at + column, mask=inside, other=0.0)
        u = tl.load(w_enc + at + column, mask=inside, other=0.0)
        first_enc = tl.load(first_w_enc + at + column, mask=inside, other=0.0)
        second_enc = tl.load(second_w_enc + at + column, mask=inside, other=0.0)
        b = tl.load(b_enc + row)
        first_b = tl.load(first_b_enc + row)
        second_b = tl.load(second_b_enc + row)

        # a unit row's gradient loses its part along the row, a free row's gets the norm's share
        along = tl.where(
            unit != 0,
            -tl.sum(into_dec * w, axis=0),
            tl.where(norm > 0, member_price * activity / tl.maximum(norm, _TINY), 0.0),
        )
        w, first_dec, second_dec = adam(
            w, first_dec, second_dec, into_dec + along * w,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        norm = tl.sqrt(tl.sum(tl.where(inside, w * w, 0.0), axis=0))
        w = w / tl.where(unit != 0, tl.maximum(norm, _TINY), 1.0)
        tl.store(w_dec + at + column, w, mask=inside)
        tl.store(first_w_dec + at + column, first_dec, mask=inside)
        tl.store(second_w_dec + at + column, second_dec, mask=inside)

        to_bias -= into_bias * u
        u, first_enc, second_enc = adam(
            u, first_enc, second_enc, into_enc,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        tl.store(w_enc + at + column, u, mask=inside)
        tl.store(first_w_enc + at + column, first_enc, mask=inside)
        tl.store(second_w_enc + at + column, second_enc, mask=inside)
        if COPIES:
            tl.store(copy_dec + at + quads, w.to(copy_dec.dtype.element_ty), mask=inside)
            tl.store(copy_enc + at + quads, u.to(copy_enc.dtype.element_ty), mask=inside)

        b, first_b, second_b = adam(
            b, first_b, second_b, into_bias,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        tl.store(b_enc + row, b)
        tl.store(first_b_enc + row, first_b)
        tl.store(second_b_enc + row, second_b)
    tl.store(partials + group * wide + column, to_bias, mask=inside)


def warps(width: int) -> int:
    """Choose warps for programs that hold whole rows in registers: 8 numbers of a row a thread.

    With nine rows and their addresses that is 128 registers, and two programs of d = 2048 on a
    multiprocessor: while one waits for its tokens, the other's moments travel.
    """
    return min(max(width // 256, 1), 16)


def update_rows(
    table: Table,
    settings: Settings,
    by_latent: tuple[Int32[Tensor, " nnz"], Float32[Tensor, " nnz"], Int32[Tensor, " r_1"]],
    centred: Float[Tensor, "members b d"],
    g: Float[Tensor, "members b d"],
    dense: RowGradients | None = None,
) -> Float32[Tensor, "groups d"]:
    """Take one Adam step with the encoder, its bias and the decoder of every member, in place.

    Args:
        table: weights, moments and operands change.
        settings: of each member.
        by_latent: tokens, activations and each latent's first entry of the lists of active pairs.
        centred: activations less the decoder's bias.
        g: gradient of the loss with respect to the reconstruction.
        dense: further gradients, which stay as they are.

    Returns:
        What `update_biases` needs: shares of the gradient of the decoder's bias, `ROWS` latents
        each, undefined where a page is free or its member idle.
    """
    tokens, values, start = by_latent
    r, d = table.weights.w_enc.shape
    windows = max(triton.cdiv(len(tokens), CHUNK), 1)
    part_enc, part_dec = torch.empty(2, windows, d, device=g.device)
    part_sums = torch.empty(windows, 2, device=g.device)
    partials = torch.empty(r // ROWS, d, device=g.device)
    width = triton.next_power_of_2(d)
    lists = (tokens, values, start, centred, g)
    sizes = {"PAGE": table.page, "WIDTH": width, "TOKENS": TOKENS[g.dtype], "CHUNK": CHUNK}
    split_kernel[(windows,)](
        table.weights.w_dec, table.page_member, settings.form, settings.unit_rows, settings.price,
        *lists, part_enc, part_dec, part_sums, r, d, **sizes, num_warps=warps(width),
    )  # fmt: skip
    given = (part_sums,) * 5 if dense is None else dense
    update_kernel[(r // ROWS,)](
        *table.weights, *table.first, *table.second, *table.operands,
        table.page_member, table.page_latents,
        settings.form, settings.unit_rows, settings.step_size, settings.correction,
        settings.complement1, settings.beta2, settings.complement2, settings.price,
        *lists, part_enc, part_dec, part_sums, *given, partials, d, EPS,
        ROWS=ROWS, COPIES=table.operands.w_enc.dtype != torch.float32, DENSE=dense is not None,
        **sizes, num_warps=warps(width),
    )  # fmt: skip
    return partials
