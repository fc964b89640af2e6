"""Initialisation: random unit rows, a bias at the mean or median, a calibrated encoder scale."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_sweep.sae.base import AbstractSae

WEISZFELD_STEPS = 100
WEISZFELD_TOLERANCE = 1e-6


@torch.no_grad()
def calibrate(
    sae: AbstractSae,
    x: Float[Tensor, "n d"],
    b_dec_init: Literal["mean", "geometric_median"],
    target: Float[Tensor, "n d"] | None = None,
) -> None:
    """Set a new module's decoder bias and encoder scale, in place, from the first batch.

    The bias is 0, the training mean of normalised activations, or the batch's geometric median.
    Latents grow with the encoder (its bias is still 0), so the scale c that minimises
    ||x - b - c x_hat||^2 is <x - b, x_hat> / ||x_hat||^2, x_hat without bias at scale 1.
    The encoder starts at `initial_scale` times c. For TopK that is c / 2: Adam's steps do not grow
    with a row, so short rows turn sooner, but too short ones leave latents dead. Half was measured
    to be the best of c, c / 2 and c / sqrt(k) where there are many rows or many latents, and
    c / sqrt(k) elsewhere (benchmarks/README.md).
    JumpReLU's thresholds stay where they are, so its c is of the latents at scale 1.
    A transcoder starts at the scale for its input, of which nothing says yet what becomes of it;
    its bias is the target's.

    Args:
        sae: a module that `build` has just made.
        x: normalised activations.
        b_dec_init: where the decoder's bias starts.
        target: what a transcoder reconstructs; None for `x` itself.

    Example:
        >>> from sae_sweep.config import TopKConfig
        >>> from sae_sweep.sae import build
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) + 3
        >>> sae = build(TopKConfig(n_latents=16, k=2), d=4, seed=0)
        >>> before = (sae.read(x).x_hat - x).norm()
        >>> calibrate(sae, x, "geometric_median")
        >>> bool((sae.read(x).x_hat - x).norm() < before)
        True
    """
    if b_dec_init == "geometric_median":
        sae.b_dec.copy_(geometric_median(x if target is None else target))
    centred = x - sae.centre
    x_hat = sae.decode(sae.encode(x)) - sae.b_dec
    power = x_hat.square().sum()
    if power > 0:
        sae.w_enc.mul_(sae.config.initial_scale * (centred * x_hat).sum() / power)


def geometric_median(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Find the point with the least sum of Euclidean distances to all rows.

    Weiszfeld's iteration, until a step is 1e-6 of the mean distance; the start for b_dec of
    Bricken et al. 2023 (transformer-circuits.pub/2023/monosemantic-features).

    Args:
        x: at least one row.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [0.0], [100.0]])
        >>> abs(geometric_median(x).item()) < 1e-3
        True
    """
    median = x.mean(dim=0)
    for _ in range(WEISZFELD_STEPS):
        distances = (x - median).norm(dim=1).clamp_min(1e-12)
        nearer = (x / distances[:, None]).sum(dim=0) / (1 / distances).sum()
        moved = (nearer - median).norm()
        median = nearer
        if moved <= WEISZFELD_TOLERANCE * distances.mean():
            break
    return median
