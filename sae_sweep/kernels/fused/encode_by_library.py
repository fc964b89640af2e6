"""Pre-activations by the vendor's product: faster where it is, and not the same bits in company."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sae_sweep.kernels.fused.table import FREE, Table


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
        pre: set in the rows of runs; -inf before in the others.
        largest: set: maxima by page.
    """
    for slot, start, stop in runs:
        x, w, out = centred[slot], table.operands.w_enc[start:stop].T, pre[:, start:stop]
        if x.dtype == torch.float32:
            torch.mm(x, w, out=out)
        else:
            out.copy_(torch.mm(x, w, out_dtype=torch.float32))
        out.add_(table.weights.b_enc[start:stop])
    torch.amax(pre.view(len(pre), -1, table.page), dim=2, out=largest)
