"""From settings to a module."""

from typing import assert_never

import torch
from torch import nn

from sae_sweep.config.sae import (
    AnySae,
    BatchTopKConfig,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    TopKConfig,
)
from sae_sweep.sae.base import AbstractSae
from sae_sweep.sae.batchtopk import BatchTopKSae
from sae_sweep.sae.gated import GatedSae
from sae_sweep.sae.jumprelu import JumpReluSae
from sae_sweep.sae.l1 import L1Sae
from sae_sweep.sae.topk import TopKSae


def build(config: AnySae, d: int, seed: int) -> AbstractSae:
    """Make a new module of resolved settings, on the CPU in float32.

    Decoder rows are random unit directions, the encoder is their transpose (Gao et al. 2024,
    arXiv:2406.04093, section 2.1), biases are 0; `calibrate` then fits the scale. Equal seeds give
    equal bits, whatever else draws random numbers.

    Args:
        config: settings of one architecture, n_latents set.
        d: width of the activations.
        seed: of the decoder's directions.

    Returns:
        A module in training mode with w_enc [m, d], w_dec [m, d], b_enc [m], b_dec [d].

    Example:
        >>> import torch
        >>> sae = build(TopKConfig(n_latents=16, k=2), d=4, seed=0)
        >>> x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        >>> latents, x_hat = sae.read(x)
        >>> x_hat.shape, bool(((latents > 0).sum(dim=1) <= 2).all())
        (torch.Size([5, 4]), True)
    """
    sae = _module(config, d, torch.Generator().manual_seed(seed))
    sae.b_dec.requires_grad_(config.decoder_bias)
    if config.skip:
        sae.w_skip = nn.Parameter(torch.zeros(d, d))
    return sae


def _module(config: AnySae, d: int, generator: torch.Generator) -> AbstractSae:
    match config:
        case TopKConfig():
            return TopKSae(config, d, generator)
        case L1Config():
            return L1Sae(config, d, generator)
        case BatchTopKConfig() | MatryoshkaConfig():
            return BatchTopKSae(config, d, generator)
        case JumpReluConfig():
            return JumpReluSae(config, d, generator)
        case GatedConfig():
            return GatedSae(config, d, generator)
        case _:
            assert_never(config)
