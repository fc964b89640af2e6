"""The gradient of a latent's rows, from the tokens on which it is active.

A latent's list is walked by the program that updates it; a long one is cut into parts first, which
other programs sum meanwhile, so that no program walks alone for long.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.table import IDLE

TOKENS = {torch.bfloat16: 4, torch.float32: 2}
"""Tokens whose vectors a program has under way at once, by their type: 128 registers per thread."""

NARROW = {torch.bfloat16: 4096, torch.float32: 2048}
"""Widest rows that an update holds in registers, with that many tokens; wider ones go by blocks,
and half as many tokens at once."""

CHUNK = 64
"""Tokens of a part of a latent that is active on many: at least two parts are made.

A walk waits for memory once for every few tokens, and nothing else hides that when its program is
the last to end. Larger parts would take less room: all lists' entries, a row for each part.
"""

_IDLE = tl.constexpr(IDLE)


def tokens_at_once(operand: torch.dtype, width: int) -> int:
    """Choose how many tokens' vectors are under way at once, without spilling registers."""
    return TOKENS[operand] if width <= NARROW[operand] else TOKENS[operand] // 2


class RowGradients(NamedTuple):
    """Gradients that products over whole tiles have left for the update, by row."""

    w_enc: Float32[Tensor, "r d"]
    b_enc: Float32[Tensor, " r"]
    w_dec: Float32[Tensor, "r d"]
    activity: Float32[Tensor, " r"]
    """Sum of a latent's activations over the batch, where they are penalised."""
    active_tokens: Int32[Tensor, " r"]
    """Tokens on which a latent of a `DENSE` member is active."""
    filled: Int32[Tensor, " r"]
    """1 where a row has any; elsewhere the others are not read. A step begins with zeros."""


def empty_gradients(r: int, d: int, device: torch.device) -> RowGradients:
    """Make room for every row's gradients, none filled."""
    wide, narrow = torch.empty(2, r, d, device=device), torch.empty(2, r, device=device)
    filled, active_tokens = torch.zeros(2, r, dtype=torch.int32, device=device)
    return RowGradients(wide[0], narrow[0], wide[1], narrow[1], active_tokens, filled)


@triton.jit
def row_l1_weight(w, l1_weight, unit_rows):
    """What a unit of activation costs: with free rows it is multiplied by the row's norm."""
    norm = tl.sqrt(tl.sum(w * w, axis=0))
    return tl.where(unit_rows != 0, l1_weight, l1_weight * norm), norm


@triton.jit
def walk(
    tokens, values, begin, end, w, l1_weight, g, centred, d, into_dec, into_enc, column, inside,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """Add the gradients of one latent's tokens in [begin, end) to its rows, in their order.

    The vectors of several tokens are loaded and reduced together: one trip to memory and one
    barrier for all of them. They stay in the operands' type until used, so bfloat16 needs half
    the registers.
    """
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
        dz = tl.where(there, tl.sum(upstream * w[None, :], axis=1) + l1_weight, 0.0)
        into_dec += tl.sum(z[:, None] * upstream, axis=0)
        into_enc += tl.sum(dz[:, None] * x, axis=0)
        into_bias += tl.sum(dz, axis=0)
        activity += tl.sum(z, axis=0)
    return into_dec, into_enc, into_bias, activity


@triton.jit(do_not_specialize=["rows"])
def split_kernel(
    w_dec, page_member, page_span, form, unit_rows, l1_weight,
    tokens, values, start, row_of, centred, g, part_enc, part_dec, part_sums, plane, rows, d,
    PAGE: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, CHUNK: tl.constexpr,
    NESTED: tl.constexpr,
):  # fmt: skip
    """Sum the parts of latents with two CHUNKs of tokens or more, one part per program.

    Parts begin a multiple of CHUNK after the latent's own first token, so they do not depend on
    where its list lies. Part q is summed by the program whose window, of CHUNK entries of all
    lists, is the q-th to begin inside the latent's list; there is one for every part, the last of
    which takes what is left over.
    """
    window = tl.program_id(0)
    position = window * CHUNK
    if position >= tl.load(start + rows):
        return
    row = tl.load(row_of + position)
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
    if NESTED:
        g += tl.load(page_span + row // PAGE).to(tl.int64) * plane
    # four at a time, which is a load of float32, so that bfloat16 has the same layout
    column = tl.max_contiguous(tl.arange(0, WIDTH), 4)
    inside = column < d
    w = tl.load(w_dec + tl.cast(row, tl.int64) * d + column, mask=inside, other=0.0)
    unit_weight, _ = row_l1_weight(w, tl.load(l1_weight + member), tl.load(unit_rows + member))
    zeros = tl.zeros([WIDTH], tl.float32)
    first = begin + part * CHUNK
    last = tl.where(part == parts - 1, end, first + CHUNK)
    into_dec, into_enc, into_bias, activity = walk(
        tokens, values, first, last, w, unit_weight, g, centred, d, zeros, zeros, column, inside,
        TOKENS,
    )  # fmt: skip
    offset = tl.cast(window, tl.int64) * d + column
    tl.store(part_enc + offset, into_enc, mask=inside)
    tl.store(part_dec + offset, into_dec, mask=inside)
    tl.store(part_sums + 2 * window, into_bias)
    tl.store(part_sums + 2 * window + 1, activity)


@triton.jit
def gather_gradients(
    tokens, values, begin, end, w, l1_weight, g, centred, part_enc, part_dec, part_sums, d,
    column, inside, TOKENS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Walk a latent's list, or add up its parts in their order where `split_kernel` made any."""
    parts = (end - begin) // CHUNK
    parts = tl.where(parts < 2, 0, parts)
    zeros = tl.zeros(w.shape, tl.float32)
    into_dec, into_enc, into_bias, activity = walk(
        tokens, values, begin, tl.where(parts > 0, begin, end), w, l1_weight, g, centred, d,
        zeros, zeros, column, inside, TOKENS,
    )  # fmt: skip
    first = tl.cdiv(begin, CHUNK)
    for part in range(first, first + parts):
        at = part * tl.cast(d, tl.int64)
        into_dec += tl.load(part_dec + at + column, mask=inside, other=0.0)
        into_enc += tl.load(part_enc + at + column, mask=inside, other=0.0)
        into_bias += tl.load(part_sums + 2 * part)
        activity += tl.load(part_sums + 2 * part + 1)
    return into_dec, into_enc, into_bias, activity
