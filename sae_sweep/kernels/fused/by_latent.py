"""The active latents of a batch, ordered by latent: what the weights' gradients walk along."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

BLOCK = 1024


class ByLatent(NamedTuple):
    """Activations in the order of rows, and of tokens within a row."""

    tokens: Int32[Tensor, " active"]
    """Place among the tokens of all members: slot times n, plus the token."""
    values: Float32[Tensor, " active"]
    """Activations, > 0; 0 behind the last row's, where lists were padded."""
    start: Int32[Tensor, " r_and_1"]
    """Where each row's activations begin; the last entry is where the last row's end."""
    rows: Int32[Tensor, " active"]
    """Row of each activation, ascending; r behind the last row's."""


@triton.jit(do_not_specialize=["entries", "capacity"])
def gather_entries(
    order, values, sorted_tokens, sorted_values, entries, capacity, BLOCK: tl.constexpr
):
    """Look up what was sorted: its token and its value."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = place < entries
    entry = tl.load(order + place, mask=exists, other=0)
    tl.store(sorted_tokens + place, (entry // capacity).to(tl.int32), mask=exists)
    tl.store(sorted_values + place, tl.load(values + entry, mask=exists), mask=exists)


def by_latent(
    rows: Int32[Tensor, "members n k"], values: Float32[Tensor, "members n k"], n_rows: int
) -> ByLatent:
    """Order the chosen latents of all tokens by row.

    Args:
        rows: what `select` leaves; `n_rows` where a list is padded.
        values: their activations.
        n_rows: rows of the table.
    """
    capacity = rows.shape[2]
    ordered = rows.flatten().sort(stable=True)
    tokens = torch.empty_like(ordered.values)
    sorted_values = torch.empty_like(values).flatten()
    entries = tokens.numel()
    if entries:
        gather_entries[triton.cdiv(entries, BLOCK),](
            ordered.indices, values, tokens, sorted_values, entries, capacity, BLOCK=BLOCK
        )
    numbers = torch.arange(n_rows + 1, dtype=torch.int32, device=rows.device)
    start = torch.searchsorted(ordered.values, numbers, out_int32=True)
    return ByLatent(tokens, sorted_values, start, ordered.values)
