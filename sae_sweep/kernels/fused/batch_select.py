"""The k n largest of a member's batch, exactly: where its tokens' lists end.

The k n-th largest key is found digit by digit, each from a histogram of the keys that share the
digits before it. Counts are integers, so the order in which they are added does not matter.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.radix import sort_keys
from sae_sweep.kernels.fused.table import FREE, IDLE, Settings, Table

DIGITS = ((20, 11), (10, 10), (0, 10))
"""Lowest bit and length of each digit of a key, the highest digit first."""

TOKENS = 8
"""Tokens of a page that a program reads at a time."""

TURNS = 16
"""Times that it does: its histogram is added to the member's once."""

PAGES = 16
"""Pages of a token that are read at a time."""

CHUNK = 1024
"""Tokens whose ties are added at a time."""

_IDLE, _FREE = tl.constexpr(IDLE), tl.constexpr(FREE)


@triton.jit
def takes_part(form, batch_k, member):
    """Whether a member selects from its batch as a whole."""
    return (tl.load(form + member) != _IDLE) & (tl.load(batch_k + member) > 0)


@triton.jit(do_not_specialize=["tokens", "pages"])
def histogram_kernel(
    pre, largest, form, batch_k, page_member, prefix, counts, tokens, pages,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, TURNS: tl.constexpr,
    SHIFT: tl.constexpr, BITS: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Count one digit of the positive keys of a page that begin with the member's prefix."""
    page = tl.program_id(0)
    member = tl.load(page_member + page)
    if member == _FREE:
        return
    if takes_part(form, batch_k, member) == 0:
        return
    known = tl.load(prefix + member)
    row = page * PAGE + tl.arange(0, PAGE)
    found = tl.zeros([BINS], tl.int32)
    first = tl.program_id(1) * TOKENS * TURNS
    for start in range(first, tl.minimum(first + TOKENS * TURNS, tokens), TOKENS):
        token = start + tl.arange(0, TOKENS)
        wide = token.to(tl.int64)
        top = tl.load(largest + wide * pages + page, mask=token < tokens, other=-1.0)
        reaches = (top > 0) & ((sort_keys(top) >> (SHIFT + BITS)) >= known)
        at = wide[:, None] * (pages * PAGE) + row[None, :]
        key = sort_keys(tl.load(pre + at, mask=reaches[:, None], other=-1.0))
        within = (key > 0) & ((key >> (SHIFT + BITS)) == known)
        digit = tl.where(within, (key >> SHIFT) & (BINS - 1), 0)
        flat = tl.reshape(digit, [TOKENS * PAGE])
        found += tl.histogram(flat, BINS, mask=tl.reshape(within, [TOKENS * PAGE]))
    number = tl.arange(0, BINS)
    tl.atomic_add(counts + member * BINS + number, found, mask=found > 0)


@triton.jit
def digit_kernel(form, batch_k, prefix, rest, counts, BITS: tl.constexpr, BINS: tl.constexpr):
    """Append the next digit of the key sought, and leave how many of its equals are wanted."""
    member = tl.program_id(0)
    if takes_part(form, batch_k, member) == 0:
        return
    wanted = tl.load(rest + member)
    number = tl.arange(0, BINS)
    count = tl.load(counts + member * BINS + number)
    at_least = tl.sum(count, 0) - tl.cumsum(count, 0) + count
    digit = tl.sum((at_least >= wanted).to(tl.int32), 0) - 1
    missing = (wanted <= 0) | (digit < 0)  # fewer are positive: all of them are chosen
    above = tl.sum(tl.where(number > digit, count, 0), 0)
    tl.store(prefix + member, tl.where(missing, 0, (tl.load(prefix + member) << BITS) | digit))
    tl.store(rest + member, tl.where(missing, 0, wanted - above))


@triton.jit
def read_pages(
    pre, largest, member_pages, first, pages, low, PAGE: tl.constexpr, PAGES: tl.constexpr
):
    """Read PAGES of a token's pages: rows, ascending, keys, 0 in a page that does not reach `low`.

    Returns also whether the member may have further pages.
    """
    place = first + tl.arange(0, PAGES)
    page = tl.load(member_pages + place, mask=place < pages, other=_FREE)
    top = sort_keys(tl.load(largest + page, mask=page >= 0, other=-1.0))
    row = page[:, None] * PAGE + tl.arange(0, PAGE)[None, :]
    key = sort_keys(tl.load(pre + row, mask=(top >= low)[:, None], other=-1.0))
    flat_row, flat_key = tl.reshape(row, [PAGES * PAGE]), tl.reshape(key, [PAGES * PAGE])
    return flat_row, flat_key, tl.min(page, 0) >= 0


@triton.jit(do_not_specialize=["tokens", "pages"])
def ties_kernel(
    pre, largest, form, batch_k, member_pages, prefix, rest, ties, tokens, pages,
    PAGE: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    """Count a token's keys that equal the one found."""
    token = tl.program_id(0).to(tl.int64)
    member = tl.program_id(1)
    if takes_part(form, batch_k, member) == 0:
        return
    kth = tl.load(prefix + member)
    count = 0
    if tl.load(rest + member) > 0:
        mine = member_pages + member.to(tl.int64) * pages
        own = pre + token * pages * PAGE
        first = 0
        more = True
        while more:
            _row, key, more = read_pages(
                own, largest + token * pages, mine, first, pages, kth, PAGE, PAGES
            )
            count += tl.sum((key == kth).to(tl.int32), 0)
            first += PAGES
    tl.store(ties + member.to(tl.int64) * tokens + token, count)


@triton.jit(do_not_specialize=["tokens", "pages"])
def place_kernel(
    pre, largest, form, batch_k, member_pages, prefix, rest, ties, threshold, last_tie, smallest,
    tokens, pages, PAGE: tl.constexpr, PAGES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write where a token's list ends: ties go to the first tokens, then to the lowest rows."""
    token = tl.program_id(0).to(tl.int64)
    member = tl.program_id(1)
    if takes_part(form, batch_k, member) == 0:
        return
    kth = tl.load(prefix + member)
    counted = ties + member.to(tl.int64) * tokens
    room = tl.load(rest + member)
    for before in range(0, tl.program_id(0), CHUNK):
        other = before + tl.arange(0, CHUNK)
        room -= tl.sum(tl.load(counted + other, mask=other < token, other=0), 0)
    mine = tl.load(counted + token)
    last = -1
    if (mine > 0) & (room > 0):
        own = pre + token * pages * PAGE
        listed = member_pages + member.to(tl.int64) * pages
        seen = 0
        first = 0
        more = True
        while more:
            row, key, more = read_pages(
                own, largest + token * pages, listed, first, pages, kth, PAGE, PAGES
            )
            equal = (key == kth).to(tl.int32)
            admitted = (equal > 0) & (seen + tl.cumsum(equal, 0) <= room)
            last = tl.maximum(last, tl.max(tl.where(admitted, row, -1), 0))
            seen += tl.sum(equal, 0)
            first += PAGES
    value = tl.cast(kth, tl.float32, bitcast=True)
    here = member.to(tl.int64) * tokens + token
    tl.store(threshold + here, value)
    tl.store(last_tie + here, last)
    if token == 0:
        tl.store(smallest + member, value)


def batch_select(
    table: Table,
    settings: Settings,
    pre: Float32[Tensor, "n r"],
    largest: Float32[Tensor, "n pages"],
    threshold: Float32[Tensor, "members n"],
    last_tie: Int32[Tensor, "members n"],
    smallest: Float32[Tensor, " members"],
) -> None:
    """Find the k n largest of the n tokens of each member with `batch_k`, after relu.

    `reference.batch_top_k` for each member in its slot; the others' entries are left as they are.

    Args:
        table: whose pages `pre` and `largest` are about.
        settings: form and `batch_k` of each member.
        pre: pre-activations, what `encode` leaves.
        largest: their maxima by page.
        threshold: set: the k n-th largest activation, for every token of the member alike; 0 where
            fewer are positive.
        last_tie: set: the last row of each token that is chosen of those that equal it, or -1.
        smallest: set: the threshold of each member.
    """
    members, tokens = threshold.shape
    pages, device = len(table.page_member), pre.device
    prefix = torch.zeros(members, dtype=torch.int32, device=device)
    rest = settings.batch_k * tokens
    ties = torch.empty(members, tokens, dtype=torch.int32, device=device)
    told = settings.form, settings.batch_k
    for shift, bits in DIGITS:
        counts = torch.zeros(members, 1 << bits, dtype=torch.int32, device=device)
        histogram_kernel[(pages, triton.cdiv(tokens, TOKENS * TURNS))](
            pre, largest, *told, table.page_member, prefix, counts, tokens, pages,
            PAGE=table.page, TOKENS=TOKENS, TURNS=TURNS, SHIFT=shift, BITS=bits, BINS=1 << bits,
            num_warps=4,
        )  # fmt: skip
        digit_kernel[(members,)](*told, prefix, rest, counts, BITS=bits, BINS=1 << bits)
    given = pre, largest, *told, table.member_pages, prefix, rest, ties
    sizes = {"PAGE": table.page, "PAGES": PAGES}
    ties_kernel[(tokens, members)](*given, tokens, pages, **sizes, num_warps=4)
    place_kernel[(tokens, members)](
        *given, threshold, last_tie, smallest, tokens, pages, **sizes, CHUNK=CHUNK, num_warps=4
    )
