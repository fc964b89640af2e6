"""Which trials can be trained together, and how many of them fit."""

import math
from typing import NamedTuple

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.table import PAGE, SPARSE_UP_TO


class ShapeKey(NamedTuple):
    """Trials with equal keys can share a tensor program; everything else is free per trial."""

    activations: str
    d: int
    batch_size: int
    kernels: str
    precision: str
    reproducible: bool
    kind: str


def shape_key(trial: Trial) -> ShapeKey:
    """The key of a trial."""
    train = trial.train
    return ShapeKey(
        trial.source.fingerprint,
        trial.source.d,
        train.batch_size,
        train.kernels,
        train.precision,
        train.reproducible,
        trial.sae.kind,
    )


def memory_bytes(trial: Trial) -> int:
    """Estimate what training a trial takes, apart from the activations.

    Parameters, gradients and two moments in fp32 for both matrices, and four [batch, n_latents]
    buffers of the forward and backward pass; in a pack what `kernels.fused` keeps and makes.
    """
    n_latents, d = trial.n_latents, trial.source.d
    if trial.train.kernels == "fused":
        return _packed_bytes(trial)
    return 4 * (4 * 2 * n_latents * d + 4 * trial.train.batch_size * n_latents)


def _packed_bytes(trial: Trial) -> int:
    d, batch, sae = trial.source.d, trial.train.batch_size, trial.sae.fused
    rows = PAGE * math.ceil(trial.n_latents / PAGE)
    operand = 2 if trial.train.precision == "bf16" else 4
    copies = 0 if operand == 4 else 2 * operand * rows * d
    # both matrices: weights, two moments, and the module that is looked at
    kept = 4 * 2 * (3 * rows + trial.n_latents) * d + copies
    tokens = batch * d * (4 + operand + (operand if copies else 0))  # centred, its copy, g
    pre = 4 * batch * rows
    k = sae.k or trial.n_latents
    if k > SPARSE_UP_TO * trial.n_latents:
        # both gradients, activations and theirs
        return kept + tokens + pre + 2 * 4 * rows * d + 2 * operand * batch * rows
    dead = 2 * 4 * rows * d + 2 * operand * batch * rows if sae.aux_coeff > 0 else 0
    # lists by token and by latent, what sorting takes, parts of latents with many tokens
    return kept + tokens + pre + dead + batch * k * (8 + 32 + d // 16) + rows * d // 2


def result_bytes(trial: Trial, *, weights: bool) -> int:
    """Disk that a done trial keeps: its weights, where they are kept, and the table of latents."""
    return _parameter_bytes(trial) * weights + 40 * trial.n_latents


def resume_bytes(trial: Trial) -> int:
    """Disk that a trial takes while it trains: two states of parameters and moments."""
    return 2 * 3 * _parameter_bytes(trial)


def _parameter_bytes(trial: Trial) -> int:
    return 4 * 2 * trial.n_latents * trial.source.d


def cohort_size(waiting: int, slots: int, limit: int | None) -> int:
    """How many trials a slot takes at first.

    Spread over the slots, then bounded by `limit` (executor.cohort). Without a limit one: on a CPU
    together is no faster than one after another, and a GPU's slot finds out how many pay there
    (`sizing`).
    """
    return min(fair_share(waiting, slots), limit or 1)


def fair_share(trials: int, slots: int) -> int:
    """The most that a slot may take, so that no other is left without while trials last."""
    return max(1, math.ceil(trials / slots))
