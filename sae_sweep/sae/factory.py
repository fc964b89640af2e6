"""From settings to a module."""

from typing import assert_never

import torch

from sae_sweep.config import AnySae, L1Config, TopKConfig
from sae_sweep.sae.base import AbstractSae
from sae_sweep.sae.l1 import L1Sae
from sae_sweep.sae.topk import TopKSae


def build(config: AnySae, d: int, seed: int) -> AbstractSae:
    """Make a new module of resolved settings (n_latents set), on the CPU.

    Decoder rows are random unit directions, the encoder is tied to them, biases are 0; `calibrate`
    then fits the scale. Equal seeds give equal bits, whatever else draws random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    match config:
        case TopKConfig():
            return TopKSae(config, d, generator)
        case L1Config():
            return L1Sae(config, d, generator)
        case _:
            assert_never(config)
