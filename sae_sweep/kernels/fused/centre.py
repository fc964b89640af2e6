"""The batches of all members, each less its own decoder's bias."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from sae_sweep.kernels.fused.ahead import Ahead
from sae_sweep.kernels.fused.table import IDLE, Settings, Table

_IDLE = tl.constexpr(IDLE)


@triton.jit(do_not_specialize=["n_streams", "batch"])
def centre_kernel(
    rows, order, at, stream, form, b_dec, centred, operand, squares, n_streams, batch, d,
    WIDTH: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Fetch and centre one token of one member."""
    member = tl.program_id(0) // batch
    token = tl.program_id(0) % batch
    if tl.load(form + member) == _IDLE:
        return
    column = tl.arange(0, WIDTH)
    inside = column < d
    place = (tl.load(at) * n_streams + tl.load(stream + member)) * batch + token
    source = tl.load(order + place).to(tl.int64) * d + column
    row = tl.load(rows + source, mask=inside, other=0.0)
    bias = tl.load(b_dec + member * d + column, mask=inside, other=0.0)
    here = (member * batch + token).to(tl.int64)
    target = here * d + column
    tl.store(centred + target, row - bias, mask=inside)
    tl.store(squares + here, tl.sum(row * row, 0))
    if COPY:
        tl.store(operand + target, (row - bias).to(operand.dtype.element_ty), mask=inside)


def centre(
    table: Table,
    settings: Settings,
    batches: tuple[Float32[Tensor, "rows d"], Ahead, Int32[Tensor, " members"]],
    centred: Float32[Tensor, "members b d"],
    operand: Float[Tensor, "members b d"],
    squares: Float32[Tensor, "members b"],
) -> None:
    """Fetch each member's batch and subtract its decoder's bias.

    Args:
        table: has the biases.
        settings: of each member.
        batches: training rows, which of them are whose next batches, and each member's stream.
        centred: written.
        operand: written too, where it is not `centred` itself.
        squares: written: each token's sum over d of x^2.
    """
    rows, ahead, stream = batches
    members, batch, d = centred.shape
    centre_kernel[(members * batch,)](
        rows, ahead.order, ahead.at, stream, settings.form, table.biases.b_dec,
        centred, operand, squares, ahead.order.shape[1], batch, d,
        WIDTH=triton.next_power_of_2(d), COPY=operand.dtype != torch.float32,
    )  # fmt: skip
