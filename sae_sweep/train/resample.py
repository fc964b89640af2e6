"""Restart silent latents where reconstruction is poor.

Bricken et al. 2023, "Towards Monosemanticity", https://transformer-circuits.pub/2023/
monosemantic-features, appendix "Neuron Resampling". As there: a silent latent takes an input drawn
with probability proportional to the square of its loss; its decoder row is that input at unit norm,
its encoder row the same direction at 0.2 times the mean norm of the other encoder rows, its bias 0;
its Adam state is cleared. Not as there: losses are computed on `RESAMPLE_TOKENS` training tokens in
place of 819,200, and inputs are taken relative to b_dec, which this encoder subtracts.
"""

import hashlib

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.kernels import Moments, normalise_rows
from sae_sweep.sae import AbstractSae
from sae_sweep.train.evaluation import chunk_rows
from sae_sweep.train.source import ActivationSource, drawn

RESAMPLE_TOKENS = 8192
ENCODER_SHARE = 0.2


def is_due(trial: Trial, step: int) -> bool:
    """Whether silent latents are to be restarted after this update."""
    every = trial.train.resample_every
    if every is None:
        return False
    # after the last update nothing would train what was restarted
    return step % every == 0 and step < trial.steps


def resample_silent(
    trial: Trial,
    step: int,
    sae: AbstractSae,
    moments: dict[str, Moments],
    silent_tokens: Int64[Tensor, " m"],
    activations: ActivationSource,
) -> None:
    """Restart, in place, the latents that a trial's settings call silent after this update."""
    settings = trial.train
    assert settings.resample_after is not None
    silent = silent_tokens >= settings.resample_after * settings.batch_size
    generator = generator_at(settings.seed_init, step)
    x = drawn(activations, settings, step, RESAMPLE_TOKENS, generator).to(sae.w_enc.device)
    resample(sae, moments, silent, x, generator)
    silent_tokens.masked_fill_(silent, 0)


def generator_at(seed: int, step: int) -> torch.Generator:
    """Make random numbers that depend on seed and step alone, so a resume needs no state."""
    # the CPU generator reads only 32 bits of a seed: mix both numbers into them
    mixed = hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "big"))


@torch.no_grad()
def resample(
    sae: AbstractSae,
    moments: dict[str, Moments],
    silent: Bool[Tensor, " m"],
    x: Float[Tensor, "n d"],
    generator: torch.Generator,
) -> None:
    """Restart the silent latents, in place.

    Args:
        sae: its rows and biases of silent latents are replaced.
        moments: Adam's state by parameter name; the same rows are cleared.
        silent: the latents to restart.
        x: training tokens to draw from.
        generator: on the CPU.
    """
    ids = silent.nonzero()[:, 0]
    losses = torch.cat(
        [_losses(sae, part) for part in torch.split(x, chunk_rows(len(silent)))]
    ).double()
    weights = losses.square().cpu()
    if len(ids) == 0 or not 0 < weights.sum() < torch.inf:
        return  # nothing to restart, or no loss to tell where: all is perfect, or has diverged
    drawn = torch.multinomial(weights, len(ids), replacement=True, generator=generator)
    rows = x[drawn.to(x.device)] - sae.b_dec
    normalise_rows(rows)
    others = sae.w_enc if silent.all() else sae.w_enc[~silent]
    norm = ENCODER_SHARE * others.norm(dim=1).mean()
    sae.w_dec[ids] = rows
    sae.w_enc[ids] = rows * norm
    sae.get_parameter("b_enc")[ids] = 0
    for name in ("w_enc", "b_enc", "w_dec"):
        moments[name].first[ids] = 0
        moments[name].second[ids] = 0


def _losses(sae: AbstractSae, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return (sae.decode(sae.encode(x)) - x).square().sum(dim=1)
