"""Pre-activations of all members at once: one tiled product over the pages of the table."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.table import FREE, IDLE, Settings, Table


class Tile(NamedTuple):
    """How the product is cut."""

    tokens: int
    """By the latents of a page."""
    depth: int
    """Dimensions that are multiplied at a time."""
    warps: int
    stages: int


BFLOAT16 = Tile(256, 64, 8, 4)
"""As 128 x 256, which tensor cores and the L2 like best: 128 accumulators a thread, and 48 KiB a
stage. Smaller ones would read more than the L2 can give: 1/64 byte a FLOP at 128 x 128."""

BFLOAT16_FEW = Tile(128, 64, 4, 3)
"""For batches that would leave many SMs without a tile; two of these share an SM."""

FLOAT32 = Tile(64, 32, 8, 3)
"""On plain cores, where registers feed the product: 32 accumulators a thread."""

FEW_TOKENS = 512
GROUP = 8
"""Pages whose tiles are neighbours in the order of programs: at 4096 tokens a wave of 132 SMs then
works on 8 pages by 16 blocks of tokens, the smallest set of operands that fills it."""

_IDLE, _FREE = tl.constexpr(IDLE), tl.constexpr(FREE)


def tile_for(operand: torch.dtype, tokens: int) -> Tile:
    """Choose by what all members share, never by who they are: no sum depends on the others."""
    if operand == torch.float32:
        return FLOAT32
    return BFLOAT16_FEW if tokens <= FEW_TOKENS else BFLOAT16


@triton.jit(do_not_specialize=["tokens", "pages"])
def multiply_pages(
    centred,
    w_enc,
    b_enc,
    form,
    page_member,
    page_latents,
    pre,
    largest,
    tokens,
    pages,
    d,
    PAGE: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Compute one page's pre-activations of one block of tokens, and their maxima."""
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens, TOKENS)
    first_page = program // (GROUP * blocks) * GROUP
    neighbours = tl.minimum(pages - first_page, GROUP)
    within = program % (GROUP * blocks)
    page = first_page + within % neighbours
    member = tl.load(page_member + page)
    if member == _FREE:
        return
    if tl.load(form + member) == _IDLE:
        return
    token = within // neighbours * TOKENS + tl.arange(0, TOKENS)
    latent = tl.arange(0, PAGE)
    depth = tl.arange(0, DEPTH)
    row = page * PAGE + latent
    exists = token < tokens
    # tokens past the last read the last one: no mask in the loop
    source = member.to(tl.int64) * tokens + tl.minimum(token, tokens - 1)
    x_at = centred + source[:, None] * d + depth[None, :]
    w_at = w_enc + row.to(tl.int64)[:, None] * d + depth[None, :]
    total = tl.zeros([TOKENS, PAGE], tl.float32)
    for start in range(0, d, DEPTH):
        if EVEN:
            x = tl.load(x_at)
            w = tl.load(w_at)
        else:
            inside = depth[None, :] < d - start
            x = tl.load(x_at, mask=inside, other=0.0)
            w = tl.load(w_at, mask=inside, other=0.0)
        total = tl.dot(x, tl.trans(w), total, input_precision="ieee")
        x_at += DEPTH
        w_at += DEPTH
    is_latent = latent < tl.load(page_latents + page)
    total += tl.load(b_enc + row)[None, :]
    total = tl.where(is_latent[None, :], total, -float("inf"))
    tl.store(
        pre + token.to(tl.int64)[:, None] * (pages * PAGE) + row[None, :],
        total,
        mask=exists[:, None],
        eviction_policy="evict_first",  # few are read again; the operands are, by the next wave
    )
    tl.store(largest + token.to(tl.int64) * pages + page, tl.max(total, 1), mask=exists)


def encode(
    table: Table,
    settings: Settings,
    centred: Float[Tensor, "members n d"],
    pre: Float32[Tensor, "n r"],
    largest: Float32[Tensor, "n pages"],
) -> None:
    """Compute pre-activations from the input less the decoder's bias: `reference.pre_activations`.

    Rows that are no latents get -inf; free pages and those of idle members are left as they are.

    Args:
        table: encoders, and whose pages they are.
        settings: which members take part.
        centred: x - b_dec of each member, as the operands' type.
        pre: set: each row's, for its own member's tokens.
        largest: set: maxima by page.
    """
    _members, tokens, d = centred.shape
    pages = len(table.page_member)
    tile = tile_for(centred.dtype, tokens)
    multiply_pages[pages * triton.cdiv(tokens, tile.tokens),](
        centred,
        table.operands.w_enc,
        table.weights.b_enc,
        settings.form,
        table.page_member,
        table.page_latents,
        pre,
        largest,
        tokens,
        pages,
        d,
        PAGE=table.page,
        TOKENS=tile.tokens,
        DEPTH=tile.depth,
        EVEN=d % tile.depth == 0,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
