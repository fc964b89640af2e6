"""The k largest of each token, exactly: most pre-activations are not looked at again."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.candidates import find_candidates
from sae_sweep.kernels.fused.radix import candidates, is_chosen, kth_largest, sort_keys
from sae_sweep.kernels.fused.table import DENSE, IDLE, Settings, Table

TILE_PAGES = 16
"""Pages read at a time: 2048 candidates."""

WARPS = 8
"""Of a program: 8 candidates per thread, which fit into registers beside what the search knows."""

PROGRAMS = 2048
"""Programs that share all tokens, each with its own scratch: several times what an H200 runs at
once (2 an SM, by their registers), so that none waits long for the last; 16 MiB of scratch."""

_DENSE, _IDLE = tl.constexpr(DENSE), tl.constexpr(IDLE)


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
    batch_k_of,
    room_of,
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
            if tl.load(batch_k_of + member) > 0:
                kth = sort_keys(tl.load(threshold + here))
                last = tl.load(last_row + here)
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
                # its own room, not the buffer's, which the others have made as large as it is
                if taken > tl.load(room_of + member):
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

    `reference.top_k` for each member in its slot. With k = 0 (l1) every positive one is chosen, and
    with `batch_k` what `batch_select` has found.

    Args:
        table: whose pages `pre` and `largest` are about.
        settings: form and k of each member.
        pre: pre-activations, what `encode` leaves.
        largest: their maxima by page.
        rows: set for `SPARSE` members: the chosen rows of each token, ascending, then r.
        values: set for `SPARSE` members: their activations, > 0, then 0.
        threshold: set: the k-th largest activation; 0 where fewer than k are positive. That of
            members with `batch_k` is read.
        last_tie: set: the last row chosen of those that equal the threshold, -1 where it is 0. That
            of members with `batch_k` is read.
        overflow: set to 1 for `SPARSE` members of which a token chooses more than it has room for,
            else to 0.
    """
    members, tokens = threshold.shape
    pages = len(table.page_member)
    tile = TILE_PAGES * table.page
    programs = min(members * tokens, PROGRAMS)

    found = find_candidates(table, settings, largest, threshold)
    overflow.zero_()
    choose[programs,](
        pre,
        settings.form,
        settings.k,
        settings.batch_k,
        settings.room,
        *found,
        torch.empty(programs, tile, dtype=torch.int32, device=pre.device),
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
        num_warps=WARPS,
    )
