"""Which trials can be trained together, and how many of them fit."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sae_sweep.config import Trial

MEMORY_SHARE = 0.8
"""Share of a device's memory that a cohort may plan with."""


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
    buffers of the forward and backward pass.
    """
    n_latents, d = trial.n_latents, trial.source.d
    return 4 * (4 * 2 * n_latents * d + 4 * trial.train.batch_size * n_latents)


def result_bytes(trial: Trial, *, weights: bool) -> int:
    """Disk that a done trial keeps: its weights, where they are kept, and the table of latents."""
    return _parameter_bytes(trial) * weights + 40 * trial.n_latents


def resume_bytes(trial: Trial) -> int:
    """Disk that a trial takes while it trains: two states of parameters and moments."""
    return 2 * 3 * _parameter_bytes(trial)


def _parameter_bytes(trial: Trial) -> int:
    return 4 * 2 * trial.n_latents * trial.source.d


def cohort_size(trials: Sequence[Trial], slots: int, limit: int | None, memory: int | None) -> int:
    """How many trials a slot takes at once.

    Spread over the slots first, then bounded by `limit` (executor.cohort) and by the device's
    memory in bytes; without a device (`memory` None, a CPU) together is no faster than one after
    another, so one at a time unless `limit` asks for more.
    """
    share = max(1, math.ceil(len(trials) / slots))
    if memory is None:
        return min(share, limit or 1)
    fits = max(1, int(memory * MEMORY_SHARE) // max(memory_bytes(trial) for trial in trials))
    return min(share, fits, limit or share)
