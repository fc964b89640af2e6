"""One pass over the latents: gradients from their active tokens, Adam, unit norm.

All that a latent's update needs is its own two rows and the tokens on which it is active, so no
gradient of the weights is ever stored. A row moves 26 bytes a weight (three tensors read and
written in float32, a bfloat16 copy written); the rest of the design keeps that traffic flowing.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.by_latent import ByLatent
from sae_sweep.kernels.fused.gradients import (
    CHUNK,
    NARROW,
    RowGradients,
    gather_gradients,
    row_l1_weight,
    split_kernel,
    tokens_at_once,
)
from sae_sweep.kernels.fused.table import IDLE, Settings, Table
from sae_sweep.kernels.reference import Adam

REGISTERS = 128
"""Most of a thread: two programs of 8 warps on a multiprocessor. Nothing spills."""

NESTED_REGISTERS = 168
"""The same where dictionaries are nested: each latent reads the gradient of its own span."""

MULTIPROCESSOR_REGISTERS = 65_536
"""All that the threads of a program can have together."""

ROWS = 8
"""Latents of a program: one more row of sums for the decoder's bias is written for each."""

BLOCK = 1024
"""Dimensions that are updated at a time where a row is too wide for registers."""

EPS: float = Adam._field_defaults["eps"]

_IDLE = tl.constexpr(IDLE)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def load_adam(step_sizes, corrections, complements1, betas2, complements2, member):
    """Read what `adam` needs to know of a member."""
    step_size = tl.load(step_sizes + member)
    correction = tl.load(corrections + member)
    complement1 = tl.load(complements1 + member)
    return (
        step_size, correction, complement1, tl.load(betas2 + member), tl.load(complements2 + member)
    )  # fmt: skip


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
def store_row(
    parameter, first, second, copy, p, m, v, column, inside, COPIES: tl.constexpr
):  # fmt: skip
    """Write a row, its moments, and what products will read of it."""
    tl.store(parameter + column, p, mask=inside)
    tl.store(first + column, m, mask=inside)
    tl.store(second + column, v, mask=inside)
    if COPIES:
        tl.store(copy + column, p.to(copy.dtype.element_ty), mask=inside)


@triton.jit
def update_scalar(
    parameter, first, second, gradient, step_size, correction, complement1, beta2, complement2,
    eps,
):  # fmt: skip
    """Take the step in place, with one number."""
    p, m, v = adam(
        tl.load(parameter), tl.load(first), tl.load(second), gradient,
        step_size, correction, complement1, beta2, complement2, eps,
    )  # fmt: skip
    tl.store(parameter, p)
    tl.store(first, m)
    tl.store(second, v)


@triton.jit
def row_gradients(
    row, at, begin, end, w, unit_weight, tokens, values, g, centred,
    part_enc, part_dec, part_sums, dense_w_enc, dense_b_enc, dense_w_dec, dense_activity,
    filled, d, column, inside, TOKENS: tl.constexpr, CHUNK: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Gather all of a latent's gradients, from its tokens and from products over whole tiles."""
    further = 0
    if DENSE:
        further = tl.load(filled + row)
    into_dec, into_enc, into_bias, activity = gather_gradients(
        tokens, values, begin, end, w, unit_weight, g, centred, part_enc, part_dec, part_sums,
        d, column, inside, TOKENS, CHUNK,
    )  # fmt: skip
    if further != 0:
        into_dec += tl.load(dense_w_dec + at + column, mask=inside, other=0.0)
        into_enc += tl.load(dense_w_enc + at + column, mask=inside, other=0.0)
        into_bias += tl.load(dense_b_enc + row)
        activity += tl.load(dense_activity + row)
    return into_dec, into_enc, into_bias, activity


@triton.jit
def along_row(into_dec, w, activity, norm, member_weight, unit):
    """A unit row's gradient loses its part along the row, a free row's gets the norm's share."""
    return tl.where(
        unit != 0,
        -tl.sum(into_dec * w, axis=0),
        tl.where(norm > 0, member_weight * activity / tl.maximum(norm, _TINY), 0.0),
    )


@triton.jit
def update_kernel(
    w_enc, b_enc, w_dec,
    first_w_enc, first_b_enc, first_w_dec, second_w_enc, second_b_enc, second_w_dec,
    copy_enc, copy_dec, page_member, page_latents, page_span,
    form, unit_rows, step_sizes, corrections, complements1, betas2, complements2, l1_weight,
    tokens, values, start, centred, g,
    part_enc, part_dec, part_sums, dense_w_enc, dense_b_enc, dense_w_dec, dense_activity, filled,
    partials, penalties, plane, d, eps,
    PAGE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
    CHUNK: tl.constexpr, COPIES: tl.constexpr, DENSE: tl.constexpr, NESTED: tl.constexpr,
):  # fmt: skip
    """Update ROWS latents of one page, one after the other."""
    group = tl.program_id(0)
    page = group * ROWS // PAGE
    member = tl.load(page_member + page)
    if member < 0:
        return
    if tl.load(form + member) == _IDLE:
        return
    if NESTED:
        g += tl.load(page_span + page).to(tl.int64) * plane
    unit = tl.load(unit_rows + member)
    member_weight = tl.load(l1_weight + member)
    settings = load_adam(step_sizes, corrections, complements1, betas2, complements2, member)
    step_size, correction, complement1, beta2, complement2 = settings
    # four at a time, which is a load of float32, so that bfloat16 has the same layout
    column = tl.max_contiguous(tl.arange(0, WIDTH), 4)
    inside = column < d
    wide = tl.cast(d, tl.int64)
    to_bias = tl.zeros([WIDTH], tl.float32)
    penalty = 0.0
    last_row = tl.minimum((group + 1) * ROWS, page * PAGE + tl.load(page_latents + page))
    end = tl.load(start + group * ROWS)
    next_end = tl.load(start + group * ROWS + 1)
    for row in range(group * ROWS, last_row):
        begin = end
        end = next_end
        next_end = tl.load(
            start + tl.minimum(row + 2, last_row)
        )  # a row early: the walk waits for it
        at = row * wide
        w = tl.load(w_dec + at + column, mask=inside, other=0.0)
        unit_weight, norm = row_l1_weight(w, member_weight, unit)
        into_dec, into_enc, into_bias, activity = row_gradients(
            row, at, begin, end, w, unit_weight, tokens, values, g, centred,
            part_enc, part_dec, part_sums, dense_w_enc, dense_b_enc, dense_w_dec, dense_activity,
            filled, d, column, inside, TOKENS, CHUNK, DENSE,
        )  # fmt: skip
        penalty += unit_weight * activity

        # all of Adam's loads before the first reduction, so that they travel together
        first_dec = tl.load(first_w_dec + at + column, mask=inside, other=0.0)
        second_dec = tl.load(second_w_dec + at + column, mask=inside, other=0.0)
        u = tl.load(w_enc + at + column, mask=inside, other=0.0)
        first_enc = tl.load(first_w_enc + at + column, mask=inside, other=0.0)
        second_enc = tl.load(second_w_enc + at + column, mask=inside, other=0.0)

        along = along_row(into_dec, w, activity, norm, member_weight, unit)
        w, first_dec, second_dec = adam(
            w, first_dec, second_dec, into_dec + along * w,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        norm = tl.sqrt(tl.sum(tl.where(inside, w * w, 0.0), axis=0))
        w = w / tl.where(unit != 0, tl.maximum(norm, _TINY), 1.0)
        store_row(
            w_dec + at, first_w_dec + at, second_w_dec + at, copy_dec + at,
            w, first_dec, second_dec, column, inside, COPIES,
        )  # fmt: skip
        to_bias -= into_bias * u
        u, first_enc, second_enc = adam(
            u, first_enc, second_enc, into_enc,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        store_row(
            w_enc + at, first_w_enc + at, second_w_enc + at, copy_enc + at,
            u, first_enc, second_enc, column, inside, COPIES,
        )  # fmt: skip
        update_scalar(
            b_enc + row, first_b_enc + row, second_b_enc + row, into_bias,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
    tl.store(partials + group * wide + column, to_bias, mask=inside)
    tl.store(penalties + group, penalty)


@triton.jit
def adam_by_blocks(
    w_enc, w_dec, first_w_enc, first_w_dec, second_w_enc, second_w_dec, copy_enc, copy_dec,
    waiting_enc, waiting_dec, to_bias, into_bias, unit,
    step_size, correction, complement1, beta2, complement2, d, eps,
    COPIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Step a latent's two rows, whose gradients wait in memory."""
    squares = 0.0
    for i in range(0, d, BLOCK):
        part = i + tl.max_contiguous(tl.arange(0, BLOCK), 4)
        there = part < d
        p, m, v = adam(
            tl.load(w_dec + part, mask=there, other=0.0),
            tl.load(first_w_dec + part, mask=there, other=0.0),
            tl.load(second_w_dec + part, mask=there, other=0.0),
            tl.load(waiting_dec + part, mask=there, other=0.0),
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        squares += tl.sum(tl.where(there, p * p, 0.0), axis=0)
        tl.store(waiting_dec + part, p, mask=there)
        tl.store(first_w_dec + part, m, mask=there)
        tl.store(second_w_dec + part, v, mask=there)
    divisor = tl.where(unit != 0, tl.maximum(tl.sqrt(squares), _TINY), 1.0)
    for i in range(0, d, BLOCK):
        part = i + tl.max_contiguous(tl.arange(0, BLOCK), 4)
        there = part < d
        p = tl.load(waiting_dec + part, mask=there, other=0.0) / divisor
        tl.store(w_dec + part, p, mask=there)
        if COPIES:
            tl.store(copy_dec + part, p.to(copy_dec.dtype.element_ty), mask=there)
        u = tl.load(w_enc + part, mask=there, other=0.0)
        share = tl.load(to_bias + part, mask=there, other=0.0) - into_bias * u
        tl.store(to_bias + part, share, mask=there)
        u, m, v = adam(
            u, tl.load(first_w_enc + part, mask=there, other=0.0),
            tl.load(second_w_enc + part, mask=there, other=0.0),
            tl.load(waiting_enc + part, mask=there, other=0.0),
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        store_row(
            w_enc, first_w_enc, second_w_enc, copy_enc,
            u, m, v, part, there, COPIES,
        )  # fmt: skip


@triton.jit
def update_wide_kernel(
    w_enc, b_enc, w_dec,
    first_w_enc, first_b_enc, first_w_dec, second_w_enc, second_b_enc, second_w_dec,
    copy_enc, copy_dec, page_member, page_latents, page_span,
    form, unit_rows, step_sizes, corrections, complements1, betas2, complements2, l1_weight,
    tokens, values, start, centred, g,
    part_enc, part_dec, part_sums, dense_w_enc, dense_b_enc, dense_w_dec, dense_activity, filled,
    partials, penalties, plane, d, eps,
    PAGE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
    CHUNK: tl.constexpr, COPIES: tl.constexpr, DENSE: tl.constexpr, NESTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Do what `update_kernel` does with rows that registers do not hold: Adam goes by blocks."""
    group = tl.program_id(0)
    page = group * ROWS // PAGE
    member = tl.load(page_member + page)
    if member < 0:
        return
    if tl.load(form + member) == _IDLE:
        return
    if NESTED:
        g += tl.load(page_span + page).to(tl.int64) * plane
    unit = tl.load(unit_rows + member)
    member_weight = tl.load(l1_weight + member)
    column = tl.max_contiguous(tl.arange(0, WIDTH), 4)
    inside = column < d
    wide = tl.cast(d, tl.int64)
    to_bias = partials + group * wide
    waiting_enc = to_bias + tl.num_programs(0) * wide
    waiting_dec = waiting_enc + tl.num_programs(0) * wide
    for i in range(0, d, BLOCK):
        part = i + tl.max_contiguous(tl.arange(0, BLOCK), 4)
        tl.store(to_bias + part, tl.zeros([BLOCK], tl.float32), mask=part < d)
    penalty = 0.0
    last_row = tl.minimum((group + 1) * ROWS, page * PAGE + tl.load(page_latents + page))
    for row in range(group * ROWS, last_row):
        at = row * wide
        w = tl.load(w_dec + at + column, mask=inside, other=0.0)
        unit_weight, norm = row_l1_weight(w, member_weight, unit)
        into_dec, into_enc, into_bias, activity = row_gradients(
            row, at, tl.load(start + row), tl.load(start + row + 1), w, unit_weight,
            tokens, values, g, centred, part_enc, part_dec, part_sums,
            dense_w_enc, dense_b_enc, dense_w_dec, dense_activity, filled, d, column, inside,
            TOKENS, CHUNK, DENSE,
        )  # fmt: skip
        penalty += unit_weight * activity
        into_dec += along_row(into_dec, w, activity, norm, member_weight, unit) * w
        tl.store(waiting_enc + column, into_enc, mask=inside)
        tl.store(waiting_dec + column, into_dec, mask=inside)
        tl.debug_barrier()  # other threads read it by blocks

        settings = load_adam(step_sizes, corrections, complements1, betas2, complements2, member)
        step_size, correction, complement1, beta2, complement2 = settings
        adam_by_blocks(
            w_enc + at, w_dec + at, first_w_enc + at, first_w_dec + at,
            second_w_enc + at, second_w_dec + at, copy_enc + at, copy_dec + at,
            waiting_enc, waiting_dec, to_bias, into_bias, unit,
            step_size, correction, complement1, beta2, complement2, d, eps, COPIES, BLOCK,
        )  # fmt: skip
        update_scalar(
            b_enc + row, first_b_enc + row, second_b_enc + row, into_bias,
            step_size, correction, complement1, beta2, complement2, eps,
        )  # fmt: skip
        tl.debug_barrier()  # the next row waits in the same place
    tl.store(penalties + group, penalty)


class Shares(NamedTuple):
    """What `ROWS` latents have to give; undefined where a page is free or its member idle."""

    bias: Float32[Tensor, "groups d"]
    """Of the gradient of the decoder's bias."""
    penalty: Float32[Tensor, " groups"]
    """Of the sparsity term, coefficient included."""


def warps(width: int) -> int:
    """Choose warps for programs that hold whole rows in registers: 8 numbers of a row per thread.

    With nine rows and their addresses that is 128 registers, and two programs of d = 2048 on a
    multiprocessor: while one waits for its tokens, the other's moments travel.
    """
    return min(max(width // 256, 1), 16)


def registers(width: int, *, nested: bool) -> int:
    """Most registers of a thread of `update_kernel`, for rows of a width."""
    if not nested:
        return REGISTERS
    return min(NESTED_REGISTERS, MULTIPROCESSOR_REGISTERS // (32 * warps(width)))


def update_rows(
    table: Table,
    settings: Settings,
    active: ByLatent,
    centred: Float[Tensor, "members b d"],
    g: Float[Tensor, "planes b d"],
    dense: RowGradients | None = None,
) -> Shares:
    """Take one Adam step with the encoder, its bias and the decoder of every member, in place.

    Args:
        table: weights, moments and operands change.
        settings: of each member.
        active: the active latents of `SPARSE` members, by row.
        centred: activations less the decoder's bias, in the operands' type as g.
        g: gradient of the loss with respect to the reconstruction, by span.
        dense: further gradients, which stay as they are.

    Returns:
        What is left to be added up for each member.
    """
    tokens, values, start, row_of = active
    r, d = table.weights.w_enc.shape
    plane = centred.numel()
    windows = max(triton.cdiv(len(tokens), CHUNK), 1)
    width, groups = triton.next_power_of_2(d), r // ROWS
    wide = width > NARROW[g.dtype]
    part_enc, part_dec = torch.empty(2, windows, d, device=g.device)
    part_sums = torch.empty(windows, 2, device=g.device)
    to_bias = torch.empty(3 if wide else 1, groups, d, device=g.device)
    shares = Shares(bias=to_bias[0], penalty=torch.empty(groups, device=g.device))
    lists = (tokens, values, start, centred, g)
    nested = len(g) > len(centred)
    sizes = {
        "PAGE": table.page,
        "WIDTH": width,
        "TOKENS": tokens_at_once(g.dtype, width),
        "CHUNK": CHUNK,
        "NESTED": nested,
    }
    split_kernel[(windows,)](
        table.weights.w_dec, table.page_member, table.page_span, settings.form,
        settings.unit_rows, settings.l1_weight, tokens, values, start, row_of, centred, g,
        part_enc, part_dec, part_sums, plane, r, d,
        **sizes, num_warps=warps(width),
    )  # fmt: skip
    given = (part_sums,) * 5
    if dense is not None:
        given = (dense.w_enc, dense.b_enc, dense.w_dec, dense.activity, dense.filled)
    kernel, blocks = (update_wide_kernel, {"BLOCK": BLOCK}) if wide else (update_kernel, {})
    kernel[(groups,)](
        *table.weights, *table.first, *table.second, *table.operands,
        table.page_member, table.page_latents, table.page_span,
        settings.form, settings.unit_rows, settings.step_size, settings.correction,
        settings.complement1, settings.beta2, settings.complement2, settings.l1_weight,
        *lists, part_enc, part_dec, part_sums, *given, *shares, plane, d, EPS,
        ROWS=ROWS, COPIES=table.operands.w_enc.dtype != torch.float32, DENSE=dense is not None,
        **sizes, **blocks, num_warps=warps(width),
        maxnreg=registers(width, nested=nested),
    )  # fmt: skip
    return shares
