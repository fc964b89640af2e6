"""Changes in place of parameters and gradients."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_sweep.kernels.reference import Adam, Moments

BLOCK_ROWS = 256
"""Rows whose products stay in the cache between two passes over them."""


@torch.no_grad()
def adam_step(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    moments: Moments,
    step: int,
    settings: Adam,
) -> None:
    """Update parameter and moments in place, in one pass over memory."""
    lr, beta1, beta2, eps = settings
    torch._fused_adam_(
        [parameter],
        [gradient],
        [moments.first],
        [moments.second],
        [],
        [torch.tensor(float(step))],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


@torch.no_grad()
def remove_parallel(gradient: Float[Tensor, "m d"], rows: Float[Tensor, "m d"]) -> None:
    """Take from each gradient row, in place, its part along the unit-norm row: g - <g, w> w."""
    blocks = zip(torch.split(gradient, BLOCK_ROWS), torch.split(rows, BLOCK_ROWS), strict=True)
    for gradient_block, block in blocks:
        along = torch.linalg.vecdot(gradient_block, block)
        gradient_block.addcmul_(block, along[:, None], value=-1)
