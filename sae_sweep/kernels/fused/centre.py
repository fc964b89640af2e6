"""The batches of all members, each less its own decoder's bias."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from sae_sweep.kernels.fused.table import IDLE, Settings, Table

_IDLE = tl.constexpr(IDLE)


@triton.jit(do_not_specialize=["n_streams", "batch"])
def centre_kernel(
    x, at, stream, form, b_dec, centred, operand, n_streams, batch, d,
    WIDTH: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Centre one token of one member."""
    member = tl.program_id(0) // batch
    token = tl.program_id(0) % batch
    if tl.load(form + member) == _IDLE:
        return
    column = tl.arange(0, WIDTH)
    inside = column < d
    source = (tl.load(at) * n_streams + tl.load(stream + member)) * batch + token
    row = tl.load(x + source * d + column, mask=inside, other=0.0)
    bias = tl.load(b_dec + member * d + column, mask=inside, other=0.0)
    target = (member * batch + token).to(tl.int64) * d + column
    tl.store(centred + target, row - bias, mask=inside)
    if COPY:
        tl.store(operand + target, (row - bias).to(operand.dtype.element_ty), mask=inside)


def centre(
    table: Table,
    settings: Settings,
    batches: tuple[
        Float32[Tensor, "steps streams b d"], Int64[Tensor, "1"], Int32[Tensor, " members"]
    ],
    centred: Float32[Tensor, "members b d"],
    operand: Float[Tensor, "members b d"],
) -> None:
    """Subtract each member's decoder bias from its batch.

    Args:
        table: has the biases.
        settings: of each member.
        batches: rows of several steps, the step that is next, and each member's stream of rows.
        centred: written.
        operand: written too, where it is not `centred` itself.
    """
    x, at, stream = batches
    members, batch, d = centred.shape
    centre_kernel[(members * batch,)](
        x, at, stream, settings.form, table.biases.b_dec, centred, operand, x.shape[1], batch, d,
        WIDTH=triton.next_power_of_2(d), COPY=operand.dtype != torch.float32,
    )  # fmt: skip
