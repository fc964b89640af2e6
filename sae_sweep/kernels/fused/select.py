"""The k largest of each token, exactly, without a second look at most pre-activations.

The k-th largest of the page maxima that `encode` leaves bounds the k-th largest pre-activation
from below, so only the pages that reach it are read again: 33 of 512, on average, for k = 32 of
65 536 normally distributed latents.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.radix import (
    ABOVE_KEYS,
    candidates,
    is_chosen,
    kth_largest,
    sort_keys,
)
from sae_sweep.kernels.fused.table import DENSE, FREE, IDLE, Settings, Table

PAGES = 512
"""Page maxima read at a time, by one warp: 16 a thread."""

TILE_PAGES = 16
"""Pages read at a time: 2048 candidates on 4 warps, 16 a thread."""

PROGRAMS = 2048
"""Programs that share all tokens, each with its own scratch: several times what an H200 runs at
once (4 an SM, by their registers), so that none waits long for the last; 16 MiB of scratch."""

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
def find_candidates(
    largest,
    form,
    k_of,
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

    found = 0
    for first in range(0, n_pages, CHUNK):
        page, _inside, key = page_keys(maxima, mine, first, n_pages, CHUNK)
        reaches = (key >= low).to(tl.int32)
        place = found + tl.cumsum(reaches, 0) - 1
        tl.store(listed + place, page, mask=reaches > 0)
        found += tl.sum(reaches, 0)
    here = member.to(tl.int64) * tokens + token
    tl.store(n_candidates + here, found)
    tl.store(bounds + 2 * here, low)
    tl.store(bounds + 2 * here + 1, top + 1)


@triton.jit
def write_chosen(
    pre,
    blocks,
    n_blocks,
    kth,
    last,
    rows,
    values,
    capacity,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the chosen rows and their values, ascending; return how many there are."""
    taken = 0
    for first in range(0, n_blocks, TILE // WIDTH):
        row, key = candidates(pre, blocks, first, n_blocks, WIDTH, TILE)
        chosen = is_chosen(row, key, kth, last).to(tl.int32)
        place = taken + tl.cumsum(chosen, 0) - 1
        fits = (chosen > 0) & (place < capacity)
        tl.store(rows + place, row, mask=fits)
        tl.store(values + place, key.to(tl.float32, bitcast=True), mask=fits)
        taken += tl.sum(chosen, 0)
    return taken


@triton.jit
def pad(rows, values, taken, capacity, no_row, TILE: tl.constexpr):
    """Fill up a token's list."""
    for first in range(0, capacity, TILE):
        place = first + tl.arange(0, TILE)
        beyond = (place >= taken) & (place < capacity)
        tl.store(rows + place, tl.zeros([TILE], tl.int32) + no_row, mask=beyond)
        tl.store(values + place, tl.zeros([TILE], tl.float32), mask=beyond)


@triton.jit(do_not_specialize=["members", "tokens", "pages", "capacity"])
def choose(
    pre,
    form,
    k_of,
    first_page_of,
    candidate_pages,
    n_candidates,
    bounds,
    scratch,
    rows,
    values,
    threshold,
    last_row,
    overflow,
    members,
    tokens,
    pages,
    capacity,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Choose, of the tokens whose turn is this program's, the k largest among the candidates."""
    program = tl.program_id(0)
    mine = scratch + program * TILE
    wide = tokens.to(tl.int64)
    for pair in range(program, members * tokens, tl.num_programs(0)):
        member = pair // tokens
        token = pair % wide
        here = member * wide + token
        acts = tl.load(form + member)
        if acts != _IDLE:
            k = tl.load(k_of + member)
            n_listed = 0
            if (acts != _DENSE) | (k > 0):
                n_listed = tl.load(n_candidates + here)
            listed = candidate_pages + token * pages + tl.load(first_page_of + member)
            own = pre + token * pages * PAGE
            kth = 0
            last = -1
            collected = -1
            if k > 0:
                low = tl.load(bounds + 2 * here)
                high = tl.load(bounds + 2 * here + 1)
                kth, last, collected = kth_largest(
                    own, listed, n_listed, k, low, high, mine, PAGE, TILE
                )
            tl.store(threshold + here, tl.cast(kth, tl.float32, bitcast=True))
            tl.store(last_row + here, last)
            if acts != _DENSE:
                to_rows = rows + here * capacity
                to_values = values + here * capacity
                if collected >= 0:
                    taken = write_chosen(
                        own, mine, collected, kth, last, to_rows, to_values, capacity, 1, TILE
                    )
                else:
                    taken = write_chosen(
                        own, listed, n_listed, kth, last, to_rows, to_values, capacity, PAGE, TILE
                    )
                pad(to_rows, to_values, taken, capacity, pages * PAGE, TILE)
                if taken > capacity:
                    tl.atomic_max(overflow + member, 1)


def select(
    table: Table,
    settings: Settings,
    pre: Float32[Tensor, "n r"],
    largest: Float32[Tensor, "n pages"],
    rows: Int32[Tensor, "members n k"],
    values: Float32[Tensor, "members n k"],
    threshold: Float32[Tensor, "members n"],
    last_tie: Int32[Tensor, "members n"],
    overflow: Int32[Tensor, " members"],
) -> None:
    """Take relu, then the k largest of each token; exact ties go to the lowest row.

    `reference.top_k` for each member in its slot. With k = 0 (l1) every positive one is chosen.

    Args:
        table: whose pages `pre` and `largest` are about.
        settings: form and k of each member.
        pre: pre-activations, what `encode` leaves.
        largest: their maxima by page.
        rows: set for `SPARSE` members: the chosen rows of each token, ascending, then r.
        values: set for `SPARSE` members: their activations, > 0, then 0.
        threshold: set: the k-th largest activation; 0 where fewer than k are positive.
        last_tie: set: the last row chosen of those that equal the threshold, -1 where it is 0.
        overflow: set to 1 for `SPARSE` members of which a token's choice does not fit into `rows`.
    """
    members, tokens = threshold.shape
    pages = len(table.page_member)
    tile = TILE_PAGES * table.page
    programs = min(members * tokens, PROGRAMS)

    def room(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=pre.device)

    n_pages, first_page = room(members), room(members)
    candidate_pages, n_candidates, bounds = (
        room(tokens, pages),
        room(members, tokens),
        room(members, tokens, 2),
    )
    find_extents[members,](table.page_member, n_pages, first_page, pages, CHUNK=PAGES)
    find_candidates[tokens, members](
        largest,
        settings.form,
        settings.k,
        table.member_pages,
        n_pages,
        first_page,
        candidate_pages,
        n_candidates,
        bounds,
        tokens,
        pages,
        CHUNK=PAGES,
        num_warps=1,
    )
    overflow.zero_()
    choose[programs,](
        pre,
        settings.form,
        settings.k,
        first_page,
        candidate_pages,
        n_candidates,
        bounds,
        room(programs, tile),
        rows,
        values,
        threshold,
        last_tie,
        overflow,
        members,
        tokens,
        pages,
        rows.shape[2],
        PAGE=table.page,
        TILE=tile,
        num_warps=4,
    )
