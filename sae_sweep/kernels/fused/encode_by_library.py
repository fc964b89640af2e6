"""Pre-activations by the vendor's product: faster where it is, and not the same bits in company."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.table import FREE, Table

TOKENS = 32
"""Tokens of a page that a program adds the bias to."""

_FREE = tl.constexpr(FREE)


class Run(NamedTuple):
    """Rows of one member that lie side by side."""

    slot: int
    start: int
    stop: int


def runs_of(table: Table) -> list[Run]:
    """Find every member's runs of rows; good until a member joins or leaves. Waits for the device.

    A member's last page may hold fewer latents than rows, so a run ends there.
    """
    found: list[Run] = []
    owners, latents = table.page_member.tolist(), table.page_latents.tolist()
    for page, (slot, count) in enumerate(zip(owners, latents, strict=True)):
        start = page * table.page
        if slot == FREE:
            continue
        if found and found[-1].slot == slot and found[-1].stop == start:
            found[-1] = found[-1]._replace(stop=start + count)
        else:
            found.append(Run(slot, start, start + count))
    return found


@triton.jit(do_not_specialize=["tokens", "pages"])
def finish_pages(
    b_enc, page_member, page_latents, pre, largest, tokens, pages,
    PAGE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Add the bias to one page's products of one block of tokens, and take their maxima."""
    page = tl.program_id(0)
    if tl.load(page_member + page) == _FREE:
        return
    latent = tl.arange(0, PAGE)
    row = page * PAGE + latent
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    exists = token < tokens
    is_latent = latent < tl.load(page_latents + page)
    at = pre + token.to(tl.int64)[:, None] * (pages * PAGE) + row[None, :]
    mask = exists[:, None] & is_latent[None, :]
    total = tl.load(at, mask=mask, other=-float("inf")) + tl.load(b_enc + row)[None, :]
    total = tl.where(is_latent[None, :], total, -float("inf"))
    tl.store(at, total, mask=exists[:, None])
    tl.store(largest + token.to(tl.int64) * pages + page, tl.max(total, 1), mask=exists)


def encode_by_library(
    table: Table,
    runs: list[Run],
    centred: Float[Tensor, "members n d"],
    pre: Float32[Tensor, "n r"],
    largest: Float32[Tensor, "n pages"],
) -> None:
    """Compute what `encode` does; idle members are not left out.

    Args:
        table: encoders.
        runs: of `runs_of`.
        centred: x - b_dec of each member, as the operands' type.
        pre: set: each row's, for its own member's tokens.
        largest: set: maxima by page.
    """
    for slot, start, stop in runs:
        x, w, out = centred[slot], table.operands.w_enc[start:stop].T, pre[:, start:stop]
        if x.dtype == torch.float32:
            torch.mm(x, w, out=out)
        else:
            torch.mm(x, w, out_dtype=torch.float32, out=out)
    tokens, pages = largest.shape
    finish_pages[(pages, triton.cdiv(tokens, TOKENS))](
        table.weights.b_enc, table.page_member, table.page_latents, pre, largest, tokens, pages,
        PAGE=table.page, TOKENS=TOKENS, num_warps=4,
    )  # fmt: skip
