"""The pages of a token that may hold one of its k largest, by the maxima that `encode` leaves.

The k-th largest maximum bounds the k-th largest pre-activation from below, so only the pages that
reach it have to be read again: 33 of 512, on average, for k = 32 of 65 536 normally distributed
latents.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.radix import ABOVE_KEYS, sort_keys
from sae_sweep.kernels.fused.table import DENSE, FREE, IDLE, Settings, Table

PAGES = 512
"""Page maxima read at a time, by one warp: 16 per thread."""

_DENSE, _IDLE, _FREE = tl.constexpr(DENSE), tl.constexpr(IDLE), tl.constexpr(FREE)


@triton.jit(do_not_specialize=["pages"])
def find_extents(page_member, n_pages, first_page, pages, CHUNK: tl.constexpr):
    """Count each member's pages, and the pages of the members before it."""
    member = tl.program_id(0)
    own = 0
    before = 0
    for first in range(0, pages, CHUNK):
        page = first + tl.arange(0, CHUNK)
        owner = tl.load(page_member + page, mask=page < pages, other=_FREE)
        own += tl.sum((owner == member).to(tl.int32), 0)
        before += tl.sum(((owner != _FREE) & (owner < member)).to(tl.int32), 0)
    tl.store(n_pages + member, own)
    tl.store(first_page + member, before)


@triton.jit
def page_keys(largest, member_pages, first, n_pages, CHUNK: tl.constexpr):
    """Read a chunk of the member's pages and their maxima's keys."""
    place = first + tl.arange(0, CHUNK)
    inside = place < n_pages
    page = tl.load(member_pages + place, mask=inside, other=0)
    return page, inside, sort_keys(tl.load(largest + page, mask=inside, other=-1.0))


@triton.jit
def count_pages(largest, member_pages, n_pages, low, CHUNK: tl.constexpr):
    """Count the pages whose maximum's key is >= low."""
    count = 0
    for first in range(0, n_pages, CHUNK):
        _page, _inside, key = page_keys(largest, member_pages, first, n_pages, CHUNK)
        count += tl.sum((key >= low).to(tl.int32), 0)
    return count


@triton.jit
def bound_below(largest, member_pages, n_pages, k, smallest, top, CHUNK: tl.constexpr):
    """Find a key that at least k pages reach and few more; 1 where fewer than k are positive."""
    low = tl.maximum(smallest, 1)
    high = top + 1
    count = count_pages(largest, member_pages, n_pages, low, CHUNK)
    if (k == 0) | (count < k):
        low = 1
    else:
        # a few pages too many cost less than the steps of bisection that would leave them out
        while (count > k + k // 8) & (high - low > 1):
            middle = low + ((high - low) >> 1)
            reached = count_pages(largest, member_pages, n_pages, middle, CHUNK)
            if reached >= k:
                low = middle
                count = reached
            else:
                high = middle
    return low


@triton.jit(do_not_specialize=["tokens", "pages"])
def list_pages(
    largest,
    form,
    k_of,
    batch_k_of,
    threshold,
    member_pages,
    n_pages_of,
    first_page_of,
    candidate_pages,
    n_candidates,
    bounds,
    tokens,
    pages,
    CHUNK: tl.constexpr,
):
    """List the pages of a token that may hold one of its k largest, ascending."""
    token = tl.program_id(0)
    member = tl.program_id(1)
    k = tl.load(k_of + member)
    acts = tl.load(form + member)
    if (acts == _IDLE) | ((acts == _DENSE) & (k == 0)):
        return
    n_pages = tl.load(n_pages_of + member)
    mine = member_pages + member * pages.to(tl.int64)
    maxima = largest + token * pages.to(tl.int64)
    listed = candidate_pages + token * pages.to(tl.int64) + tl.load(first_page_of + member)

    top = 0
    smallest = ABOVE_KEYS - 1
    for first in range(0, n_pages, CHUNK):
        _page, inside, key = page_keys(maxima, mine, first, n_pages, CHUNK)
        top = tl.maximum(top, tl.max(key, 0))
        smallest = tl.minimum(smallest, tl.min(tl.where(inside, key, ABOVE_KEYS - 1), 0))
    low = bound_below(maxima, mine, n_pages, k, smallest, top, CHUNK)
    here = member.to(tl.int64) * tokens + token
    if tl.load(batch_k_of + member) > 0:
        low = tl.maximum(low, sort_keys(tl.load(threshold + here)))

    found = 0
    for first in range(0, n_pages, CHUNK):
        page, _inside, key = page_keys(maxima, mine, first, n_pages, CHUNK)
        reaches = (key >= low).to(tl.int32)
        place = found + tl.cumsum(reaches, 0) - 1
        tl.store(listed + place, page, mask=reaches > 0)
        found += tl.sum(reaches, 0)
    tl.store(n_candidates + here, found)
    tl.store(bounds + 2 * here, low)
    tl.store(bounds + 2 * here + 1, top + 1)


class Candidates(NamedTuple):
    """Pages that may hold one of a token's k largest, for each member and token."""

    first_page: Int32[Tensor, " members"]
    """Where a member's list begins in a token's; members' lists do not overlap."""
    pages: Int32[Tensor, "n pages"]
    """The lists, each ascending."""
    length: Int32[Tensor, "members n"]
    """Pages of each list."""
    bounds: Int32[Tensor, "members n 2"]
    """A key that the k-th largest reaches, 1 where fewer than k are positive, and one above all."""


def find_candidates(
    table: Table,
    settings: Settings,
    largest: Float32[Tensor, "n pages"],
    threshold: Float32[Tensor, "members n"],
) -> Candidates:
    """List the pages to read again; nothing for `DENSE` members without k, or idle ones.

    Of members with `batch_k` those that reach `threshold`.
    """
    tokens, pages = largest.shape
    members = len(settings.form)

    def room(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=largest.device)

    n_pages = room(members)
    found = Candidates(
        room(members), room(tokens, pages), room(members, tokens), room(members, tokens, 2)
    )
    find_extents[members,](table.page_member, n_pages, found.first_page, pages, CHUNK=PAGES)
    list_pages[tokens, members](
        largest,
        settings.form,
        settings.k,
        settings.batch_k,
        threshold,
        table.member_pages,
        n_pages,
        *found,
        tokens,
        pages,
        CHUNK=PAGES,
        num_warps=1,
    )
    return found
