"""Lists of latents over which whole tiles are multiplied: all of a member's, or its dead ones.

A list gives latents their columns in buffers of activations. Members' columns lie side by side,
each member with as many pages' worth as it owns, so that there is always room; what a member's
columns hold does not depend on where they lie.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Int32
from torch import Tensor

from sae_sweep.kernels.fused.table import DENSE, FREE, IDLE, Settings, Table

_IDLE, _DENSE, _FREE = tl.constexpr(IDLE), tl.constexpr(DENSE), tl.constexpr(FREE)

PAGES = 1024
"""Pages whose counts a program reads at once."""


class Columns(NamedTuple):
    """Which latents take part, in ascending order for each member."""

    rows: Int32[Tensor, " r"]
    """Row of each column's latent; `FREE` where there is none, undefined in a free tile."""
    tile_member: Int32[Tensor, " pages"]
    """Slot to which a page's worth of columns belongs; `FREE` where it holds no latent."""
    tile_plane: Int32[Tensor, " pages"]
    """Plane of the reconstruction's gradient for these latents: of their member and span."""
    first: Int32[Tensor, " members"]
    """A member's first column."""
    counts: Int32[Tensor, " members"]
    """A member's columns from the first to the last of a latent."""


@triton.jit
def _takes_part(
    page, member, page_latents, form, silent_tokens, aux_coeff, dead_window,
    PAGE: tl.constexpr, DEAD: tl.constexpr,
):  # fmt: skip
    offset = tl.arange(0, PAGE)
    chosen = offset < tl.load(page_latents + page)
    if DEAD:
        silent = tl.load(silent_tokens + page * PAGE + offset)
        works = (tl.load(form + member) != _IDLE) & (tl.load(aux_coeff + member) > 0)
        chosen = chosen & works & (silent >= tl.load(dead_window + member))
    else:
        chosen = chosen & (tl.load(form + member) == _DENSE)
    return chosen.to(tl.int32)


@triton.jit
def count_kernel(
    page_member, page_latents, form, silent_tokens, aux_coeff, dead_window, page_counts,
    PAGE: tl.constexpr, DEAD: tl.constexpr,
):  # fmt: skip
    """Count each page's latents that take part."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if member < 0:
        return
    chosen = _takes_part(
        page, member, page_latents, form, silent_tokens, aux_coeff, dead_window, PAGE, DEAD
    )
    tl.store(page_counts + page, tl.sum(chosen, axis=0))


@triton.jit(do_not_specialize=["members", "pages"])
def place_kernel(
    page_member, page_latents, form, silent_tokens, aux_coeff, dead_window, page_counts,
    rows, tile_member, tile_plane, first, counts, page_span, members, pages,
    PAGE: tl.constexpr, DEAD: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    """Give a page's latents their columns, and one tile of columns its owner and its end."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if member < 0:
        return
    tile = 0  # pages of lower slots, then the page's number among its member's
    number = 0
    owned = 0
    last = page
    before = 0
    total = 0
    for i in range(0, pages, PAGES):
        other = i + tl.arange(0, PAGES)
        owner = tl.load(page_member + other, mask=other < pages, other=_FREE)
        same = owner == member
        count = tl.load(page_counts + other, mask=same, other=0)
        tile += tl.sum(((owner >= 0) & (owner < member)).to(tl.int32), axis=0)
        number += tl.sum((same & (other < page)).to(tl.int32), axis=0)
        last = tl.maximum(last, tl.max(tl.where(same, other, 0), axis=0))
        owned += tl.sum(same.to(tl.int32), axis=0)
        before += tl.sum(tl.where(other < page, count, 0), axis=0)
        total += tl.sum(count, axis=0)
    start = tile * PAGE
    chosen = _takes_part(
        page, member, page_latents, form, silent_tokens, aux_coeff, dead_window, PAGE, DEAD
    )
    offset = tl.arange(0, PAGE)
    past = number * PAGE + offset
    plane = member
    if DEAD:
        column = start + before + tl.cumsum(chosen, axis=0) - 1
        tl.store(rows + column, page * PAGE + offset, mask=chosen > 0)
        tl.store(rows + start + past, tl.full([PAGE], _FREE, tl.int32), mask=past >= total)
    else:  # a tile is a page, so that all its latents are of one span
        through = (owned - 1) * PAGE + tl.load(page_counts + last)
        total = tl.where(total > 0, through, 0)
        tl.store(rows + start + past, tl.where(chosen > 0, page * PAGE + offset, _FREE))
        plane += members * tl.load(page_span + page)
    tl.store(tile_member + tile + number, tl.where(number * PAGE < total, member, _FREE))
    tl.store(tile_plane + tile + number, tl.where(number * PAGE < total, plane, _FREE))
    if number == 0:
        tl.store(first + member, start)
        tl.store(counts + member, total)


def dense_columns(table: Table, settings: Settings) -> Columns:
    """List all latents of `DENSE` members; good until a member joins, leaves or changes form."""
    return _listed(table, settings, dead=False)


def dead_columns(table: Table, settings: Settings) -> Columns:
    """List the latents of members with AuxK that are dead: silent for their `dead_window`."""
    return _listed(table, settings, dead=True)


def _listed(table: Table, settings: Settings, *, dead: bool) -> Columns:
    pages, members = table.member_pages.shape[::-1]
    device = table.page_member.device
    page_counts = torch.empty(pages, dtype=torch.int32, device=device)
    listed = Columns(
        rows=torch.empty(pages * table.page, dtype=torch.int32, device=device),
        tile_member=torch.full((pages,), FREE, dtype=torch.int32, device=device),
        tile_plane=torch.full((pages,), FREE, dtype=torch.int32, device=device),
        first=torch.zeros(members, dtype=torch.int32, device=device),
        counts=torch.zeros(members, dtype=torch.int32, device=device),
    )
    given = (
        table.page_member, table.page_latents, settings.form, table.silent_tokens,
        settings.aux_coeff, settings.dead_window, page_counts,
    )  # fmt: skip
    count_kernel[(pages,)](*given, PAGE=table.page, DEAD=dead, num_warps=4)
    place_kernel[(pages,)](
        *(*given, *listed, table.page_span, members, pages),
        PAGE=table.page, DEAD=dead, PAGES=PAGES, num_warps=4,
    )  # fmt: skip
    return listed
