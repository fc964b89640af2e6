"""From active latents to the error of the reconstruction."""

import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.table import SPARSE, Settings, Table

AT_ONCE = 4
"""Decoder rows in flight per token: where tokens are few, nothing else hides memory latency."""

LISTED = 128
"""Places of a token's list that are looked at at once, where it is not known how many are taken."""

_SPARSE = tl.constexpr(SPARSE)


@triton.jit
def count_listed(values, capacity, LISTED: tl.constexpr):
    """Count a token's active latents: the places of its list before the padding."""
    count = 0
    for first in range(0, capacity, LISTED):
        place = first + tl.arange(0, LISTED)
        value = tl.load(values + place, mask=place < capacity, other=0.0)
        count += tl.sum((value != 0).to(tl.int32), 0)
    return count


@triton.jit(do_not_specialize=["members", "tokens", "capacity"])
def decode_token(
    rows,
    values,
    centred,
    w_dec,
    page_span,
    form,
    k_of,
    g,
    squared_error,
    members,
    tokens,
    capacity,
    d,
    scale,
    PAGE: tl.constexpr,
    NESTED: tl.constexpr,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
    LISTED: tl.constexpr,
):
    """Decode one token of one member, whole, by the latents of one of its dictionaries."""
    token = tl.program_id(0)
    plane = tl.program_id(1)
    member = plane
    if NESTED:
        member = plane % members
    if tl.load(form + member) != _SPARSE:
        return
    k = tl.load(k_of + member)
    place = member.to(tl.int64) * tokens + token
    active = tl.minimum(k, capacity)
    if k == 0:
        active = count_listed(values + place * capacity, capacity, LISTED)
    column = tl.arange(0, WIDTH)
    inside = column < d
    error = -tl.load(centred + place * d + column, mask=inside, other=0.0)
    x_hat = tl.zeros([WIDTH], tl.float32)
    for first in range(0, active, AT_ONCE):
        for ahead in tl.static_range(AT_ONCE):
            here = place * capacity + first + ahead
            listed = first + ahead < active
            value = tl.load(values + here, mask=listed, other=0.0)
            row = tl.load(rows + here, mask=listed, other=0).to(tl.int64)
            width = tl.where(value != 0, d, 0)  # a padded place names no row
            if NESTED:
                span = tl.load(page_span + row // PAGE, mask=value != 0, other=0)
                width = tl.where(span <= plane // members, width, 0)
            weight = tl.load(w_dec + row * d + column, mask=column < width, other=0.0)
            x_hat += value * weight.to(tl.float32)
    error += x_hat
    into = place
    if NESTED:
        into = plane.to(tl.int64) * tokens + token
    tl.store(g + into * d + column, error * scale, mask=inside)
    tl.store(squared_error + into, tl.sum(error * error, 0))


def decode_error(
    table: Table,
    settings: Settings,
    rows: Int32[Tensor, "members n k"],
    values: Float32[Tensor, "members n k"],
    centred: Float32[Tensor, "members n d"],
    g: Float[Tensor, "planes n d"],
    squared_error: Float32[Tensor, "planes n"],
) -> None:
    """Reconstruct `SPARSE` members' tokens, less the decoder's bias, and leave the error.

    `reference.sparse_decode` and the gradient of `reference.reconstruction_loss`: the bias is in
    x_hat and in x, so x_hat - x = sum_j f_j w_dec[j] - centred.

    Args:
        table: decoders.
        settings: which members decode by active latents.
        rows: chosen rows of each token.
        values: their activations.
        centred: x - b_dec of each member, in float32.
        g: set: the loss's gradient by each dictionary's x_hat, 2 (x_hat - x) / (n spans), as the
            operands' type.
        squared_error: set: sum over d of (x_hat - x)^2.
    """
    members, tokens, d = centred.shape
    planes = len(g)
    width = triton.next_power_of_2(d)
    decode_token[tokens, planes](
        rows,
        values,
        centred,
        table.operands.w_dec,
        table.page_span,
        settings.form,
        settings.k,
        g,
        squared_error,
        members,
        tokens,
        rows.shape[2],
        d,
        2 / (tokens * (planes // members)),
        PAGE=table.page,
        NESTED=planes > members,
        WIDTH=width,
        AT_ONCE=AT_ONCE,
        LISTED=LISTED,
        num_warps=warps_for(width),
    )


def warps_for(width: int) -> int:
    """Give each thread 16 columns, for loads of 8 bfloat16 at once."""
    return min(max(width // 512, 1), 8)
