"""Which trials can be trained together, and how many of them fit."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.memory import packed_memory


class ShapeKey(NamedTuple):
    """Trials with equal keys can share a tensor program; all else may differ per trial."""

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
        return packed_memory(trial).total
    return 4 * (4 * 2 * n_latents * d + 4 * trial.train.batch_size * n_latents)


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


def size_in_memory(waiting: Sequence[Trial], slots: int, limit: int | None) -> int:
    """Trials per slot where all read each window while it is cached: as many as memory holds.

    On a GPU the slot itself sends back what finds no room.
    """
    share = fair_share(len(waiting), slots)
    if limit is not None or waiting[0].train.kernels == "fused":
        return min(share, limit or share)
    each = max(map(memory_bytes, waiting))
    room = psutil.virtual_memory().available // (2 * slots)
    return max(1, min(share, room // each))


def fair_share(trials: int, slots: int) -> int:
    """Most trials a slot may take, so that no other slot stays idle while trials are queued."""
    return max(1, math.ceil(trials / slots))
