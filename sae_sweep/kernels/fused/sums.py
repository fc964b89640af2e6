"""What a step reports of each member: sums over its batch, and which latents were silent."""

import triton
import triton.language as tl
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from sae_sweep.kernels.fused.table import DENSE, FREE, IDLE, Settings, Table

PAGES = 64
"""Pages whose shares of a member's penalty are read at a time."""

_DENSE, _IDLE, _FREE = tl.constexpr(DENSE), tl.constexpr(IDLE), tl.constexpr(FREE)


@triton.jit(do_not_specialize=["tokens"])
def count_page(
    start,
    dense_count,
    form,
    page_member,
    page_latents,
    silent_tokens,
    active,
    tokens,
    PAGE: tl.constexpr,
):
    """Count how often each latent of a page was chosen, and how long it has not been."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if member == _FREE:
        return
    acts = tl.load(form + member)
    if acts == _IDLE:
        return
    latent = tl.arange(0, PAGE)
    row = page * PAGE + latent
    is_latent = latent < tl.load(page_latents + page)
    if acts == _DENSE:
        count = tl.load(dense_count + row, mask=is_latent, other=0)
    else:
        count = tl.load(start + row + 1) - tl.load(start + row)
    silent = tl.load(silent_tokens + row)
    silent = tl.where(count > 0, 0, silent + tokens)
    tl.store(silent_tokens + row, silent, mask=is_latent)
    # integers: any order gives the same sum
    tl.atomic_add(active + member, tl.sum(count.to(tl.int64), 0))


def count_active(
    table: Table,
    settings: Settings,
    tokens: int,
    start: Int32[Tensor, " r_and_1"],
    dense: Int32[Tensor, " r"],
    active: Int64[Tensor, " members"],
) -> None:
    """Count each member's active latents over its batch, and the tokens its latents were silent.

    Args:
        table: whose `silent_tokens` grow by n, or become 0 where the latent is active.
        settings: which members take part, and in which form.
        tokens: of a batch.
        start: where each row's activations begin, of `by_latent`, for `SPARSE` members.
        dense: tokens on which each row is active, of `add_gradients`, for `DENSE` members.
        active: set: the count, n times the batch's l0; 0 for idle members.
    """
    active.zero_()
    count_page[len(table.page_member),](
        start,
        dense,
        settings.form,
        table.page_member,
        table.page_latents,
        table.silent_tokens,
        active,
        tokens,
        PAGE=table.page,
    )


@triton.jit(do_not_specialize=["pages"])
def add_pages(
    penalties, member_pages, form, penalty, pages, GROUPS: tl.constexpr, PAGES: tl.constexpr
):
    """Add up the shares of one member's pages, in their order among its own."""
    member = tl.program_id(0)
    if tl.load(form + member) == _IDLE:
        return
    mine = member_pages + member.to(tl.int64) * pages
    group = tl.arange(0, GROUPS)
    totals = tl.zeros([PAGES, GROUPS], tl.float32)
    first = 0
    more = True
    while more:
        place = first + tl.arange(0, PAGES)
        page = tl.load(mine + place, mask=place < pages, other=_FREE)
        at = page[:, None] * GROUPS + group[None, :]
        totals += tl.load(penalties + at, mask=(page >= 0)[:, None], other=0.0)
        first += PAGES
        more = tl.min(page, 0) >= 0
    tl.store(penalty + member, tl.sum(tl.sum(totals, 1), 0))


def member_penalties(
    table: Table,
    settings: Settings,
    shares: Float32[Tensor, " groups"],
    penalty: Float32[Tensor, " members"],
) -> None:
    """Add up each member's sparsity term; idle members' are left as they are.

    Args:
        table: whose pages the shares are of.
        settings: which members take part.
        shares: of groups of latents, as `update_rows` leaves them.
        penalty: set: `reference.l1_penalty`, coefficient included.
    """
    pages = len(table.page_member)
    add_pages[len(penalty),](
        shares,
        table.member_pages,
        settings.form,
        penalty,
        pages,
        GROUPS=len(shares) // pages,
        PAGES=PAGES,
        num_warps=4,
    )
