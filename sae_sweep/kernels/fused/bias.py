"""The decoder's bias of each member: what reaches it of the gradients, and Adam."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.table import IDLE, Settings, Table
from sae_sweep.kernels.fused.update import EPS, adam

_IDLE = tl.constexpr(IDLE)

TOKENS = 64
"""Tokens whose gradients a program adds up."""

COLUMNS = 64
"""Dimensions of a program."""

LAST_COLUMNS = 32
"""Dimensions of a program that ends a member's sum: narrow, for there are only d / 32 of them."""

LAST_TERMS = 64
"""Sums that it adds at once."""


@triton.jit(do_not_specialize=["pages", "b", "blocks"])
def sum_kernel(
    partials, g, page_member, form, sums, pages, b, blocks, d,
    GROUPS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up each page's shares, and each block of tokens of a member."""
    term = tl.program_id(0)
    member = (term - pages) // blocks
    if term < pages:
        member = tl.load(page_member + term)
    if member < 0:
        return
    if tl.load(form + member) == _IDLE:
        return
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < d
    if term < pages:
        group = term.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
        shares = group[:, None] * d + column[None, :]
        total = tl.sum(tl.load(partials + shares, mask=inside[None, :], other=0.0), axis=0)
    else:
        token = (term - pages) % blocks * TOKENS + tl.arange(0, TOKENS)
        at = (member.to(tl.int64) * b + token)[:, None] * d + column[None, :]
        there = (token < b)[:, None] & inside[None, :]
        total = tl.sum(tl.load(g + at, mask=there, other=0.0).to(tl.float32), axis=0)
    tl.store(sums + term.to(tl.int64) * d + column, total, mask=inside)


@triton.jit(do_not_specialize=["pages", "blocks"])
def update_bias_kernel(
    b_dec, first, second, sums, member_pages,
    form, step_sizes, corrections, complements1, betas2, complements2, pages, blocks, d, eps,
    COLUMNS: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Add a member's tokens and its pages, in their order among its own, and take the step."""
    member = tl.program_id(0)
    if tl.load(form + member) == _IDLE:
        return
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < d
    total = tl.zeros([COLUMNS], tl.float32)
    for i in range(0, blocks, TERMS):
        block = i + tl.arange(0, TERMS)
        at = (pages + member * blocks + block).to(tl.int64)[:, None] * d + column[None, :]
        there = (block < blocks)[:, None] & inside[None, :]
        total += tl.sum(tl.load(sums + at, mask=there, other=0.0), axis=0)
    listed = member_pages + member.to(tl.int64) * pages
    i = 0
    more = True
    while more:
        which = i + tl.arange(0, TERMS)
        page = tl.load(listed + which, mask=which < pages, other=-1)
        at = page.to(tl.int64)[:, None] * d + column[None, :]
        there = (page >= 0)[:, None] & inside[None, :]
        total += tl.sum(tl.load(sums + at, mask=there, other=0.0), axis=0)
        i += TERMS
        more = tl.min(page, axis=0) >= 0
    at = member.to(tl.int64) * d + column
    b, m, v = adam(
        tl.load(b_dec + at, mask=inside, other=0.0), tl.load(first + at, mask=inside, other=0.0),
        tl.load(second + at, mask=inside, other=0.0), total,
        tl.load(step_sizes + member), tl.load(corrections + member),
        tl.load(complements1 + member), tl.load(betas2 + member), tl.load(complements2 + member),
        eps,
    )  # fmt: skip
    tl.store(b_dec + at, b, mask=inside)
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)


def update_biases(
    table: Table,
    settings: Settings,
    g: Float[Tensor, "members b d"],
    partials: Float32[Tensor, "groups d"],
) -> None:
    """Take one Adam step with the decoder's bias of every member, in place.

    Args:
        table: the biases change.
        settings: of each member.
        g: gradient of the loss with respect to the reconstruction.
        partials: what `update_rows` returned.
    """
    members, b, d = g.shape
    pages = len(table.page_member)
    blocks = triton.cdiv(b, TOKENS)
    sums = torch.empty(pages + members * blocks, d, device=g.device)
    sum_kernel[(len(sums), triton.cdiv(d, COLUMNS))](
        partials, g, table.page_member, settings.form, sums, pages, b, blocks, d,
        GROUPS=len(partials) // pages, TOKENS=TOKENS, COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    update_bias_kernel[(members, triton.cdiv(d, LAST_COLUMNS))](
        *table.biases, sums, table.member_pages,
        settings.form, settings.step_size, settings.correction,
        settings.complement1, settings.beta2, settings.complement2, pages, blocks, d, EPS,
        COLUMNS=LAST_COLUMNS, TERMS=LAST_TERMS, num_warps=4,
    )  # fmt: skip
