"""Pre-activations of all members at once: one tiled product over the pages of the table."""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

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
"""As 128 x 256, which tensor cores and the L2 like best: 128 accumulators per thread, and 48 KiB
per stage. Smaller ones would read more than the L2 can give: 1/64 byte per FLOP at 128 x 128."""

BFLOAT16_FEW = Tile(128, 64, 4, 3)
"""For batches that would leave many SMs without a tile; two of these share an SM."""

FLOAT32 = Tile(64, 32, 8, 3)
"""On plain cores, where registers feed the product: 32 accumulators per thread."""

BFLOAT16_BYTES = 3 * 48 * 1024
"""Shared memory that the largest tile takes before Hopper. Ada's blocks, and those of Ampere that
are not an A100's, have 99 KiB: they take the smaller one."""

FEW_TOKENS = 512
GROUP = 8
"""Pages whose tiles are neighbours in the order of programs: at 4096 tokens a wave of 132 SMs then
works on 8 pages by 16 blocks of tokens, the smallest set of operands that fills it."""

ALIGNED = 8
"""Rows of so many bfloat16 begin at multiples of 16 bytes, as the bulk copies of Hopper want."""

_IDLE, _FREE = tl.constexpr(IDLE), tl.constexpr(FREE)


def tile_for(operand: torch.dtype, tokens: int, device: torch.device) -> Tile:
    """Choose by what all members share, never by who they are: no sum depends on the others."""
    if operand == torch.float32:
        return FLOAT32
    few = tokens <= FEW_TOKENS or shared_bytes(device) < BFLOAT16_BYTES
    return BFLOAT16_FEW if few else BFLOAT16


@triton.jit
def store_page(
    total, b_enc, page_latents, pre, largest, token, page, tokens, pages, PAGE: tl.constexpr
):
    """Add the bias to a tile of products, and write it and its maxima by token."""
    latent = tl.arange(0, PAGE)
    row = page * PAGE + latent
    exists = token < tokens
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
    store_page(total, b_enc, page_latents, pre, largest, token, page, tokens, pages, PAGE)


@triton.jit(do_not_specialize=["tokens", "pages"])
def multiply_by_bulk_copies(
    x_blocks,
    w_blocks,
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
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Compute what `multiply_pages` does, one tile after another: copies run ahead of products.

    Operands come as descriptors of [members n, d] and [r, d]; what lies beyond them is read as 0.
    """
    blocks = tl.cdiv(tokens, TOKENS)
    for program in tl.range(tl.program_id(0), pages * blocks, PROGRAMS, flatten=False):
        first_page = program // (GROUP * blocks) * GROUP
        neighbours = tl.minimum(pages - first_page, GROUP)
        within = program % (GROUP * blocks)
        page = first_page + within % neighbours
        member = tl.load(page_member + page)
        acts = _IDLE
        if member != _FREE:
            acts = tl.load(form + member)
        if acts != _IDLE:
            first = within // neighbours * TOKENS
            total = tl.zeros([TOKENS, PAGE], tl.float32)
            for start in tl.range(0, d, DEPTH):
                x = x_blocks.load([member * tokens + first, start])
                w = w_blocks.load([page * PAGE, start])
                total = tl.dot(x, w.T, total, input_precision="ieee")
            token = first + tl.arange(0, TOKENS)
            store_page(total, b_enc, page_latents, pre, largest, token, page, tokens, pages, PAGE)


@cache
def shared_bytes(device: torch.device) -> int:
    """Most shared memory that a block of a device can have."""
    if device.type != "cuda":  # the interpreter has no such limit
        return BFLOAT16_BYTES
    return int(driver.active.utils.get_device_properties(device.index)["max_shared_mem"])


@cache
def programs_with_bulk_copies(device: torch.device) -> int:
    """Multiprocessors of a device that has Hopper's bulk copies; 0 of one that has not."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return 0
    return torch.cuda.get_device_properties(device).multi_processor_count


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
    tile = tile_for(centred.dtype, tokens, centred.device)
    programs = programs_with_bulk_copies(centred.device)
    if programs and tile is BFLOAT16 and d % ALIGNED == 0:
        encode_by_bulk_copies(table, settings, centred, pre, largest, tile, programs)
        return
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


def encode_by_bulk_copies(
    table: Table,
    settings: Settings,
    centred: Float[Tensor, "members n d"],
    pre: Float32[Tensor, "n r"],
    largest: Float32[Tensor, "n pages"],
    tile: Tile,
    programs: int,
) -> None:
    """Compute what `encode` does, on a device that copies blocks of tensors on its own.

    Args:
        table: as for `encode`.
        settings: as for `encode`.
        centred: as for `encode`; rows must begin at multiples of 16 bytes.
        pre: set, as by `encode`.
        largest: set, as by `encode`.
        tile: how the product is cut.
        programs: that run at a time.
    """
    _members, tokens, d = centred.shape
    pages = len(table.page_member)
    multiply_by_bulk_copies[(min(programs, pages * triton.cdiv(tokens, tile.tokens)),)](
        TensorDescriptor.from_tensor(centred.flatten(0, 1), [tile.tokens, tile.depth]),
        TensorDescriptor.from_tensor(table.operands.w_enc, [table.page, tile.depth]),
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
        GROUP=GROUP,
        PROGRAMS=programs,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
