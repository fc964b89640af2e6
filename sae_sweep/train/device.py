"""What a device can do."""

import gc
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from sae_sweep.config import Trial
from sae_sweep.errors import BadInput
from sae_sweep.kernels.fused.memory import packed_memory, rows_memory
from sae_sweep.kernels.fused.table import WIDEST

Made = TypeVar("Made")

BFLOAT16_SINCE = (8, 0)
"""Compute capability."""

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "not enough memory", "out of memory", "ALLOC_FAILED")
"""What CPU, CUDA, Triton and cuBLAS say in errors of no type of their own."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that there is no memory for more, or one says it that led to it.

    The end of a CUDA graph's recording that ran out of memory raises an error of its own.
    """
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    return said or is_out_of_memory(error.__context__)


def with_room(work: Callable[[], Made], release: Callable[[], object]) -> Made:
    """Do some work; where memory runs out, release some and do it once more."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # no earlier: the frames of an error that is being handled hold what they have allocated
    release()
    gc.collect()  # errors that were kept, and their frames, refer to each other
    return work()


def without_frames(error: Exception) -> Exception:
    """Release the frames that an error came out of, and what they have allocated."""
    before = error.__context__
    if isinstance(before, Exception):
        without_frames(before)
    return error.with_traceback(None)


def require_device(trial: Trial, device: torch.device) -> None:
    """Refuse a trial whose arithmetic the device does not have.

    Raises:
        BadInput: with the settings that it does have.
    """
    train = trial.train
    if train.precision == "bf16_select" and device.type != "cpu":
        raise BadInput(
            f"train.precision=bf16_select on {device.type}: only CPUs have it; use "
            "train.precision=fp32, or train.kernels=fused with train.precision=bf16"
        )
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if train.kernels == "fused" and device.type != "cuda" and not interpreted:
        raise BadInput(
            "train.kernels=fused needs a GPU and none is visible here: use train.kernels=auto, or "
            "executor.address=... of a cluster that has one"
        )
    if train.kernels == "fused":
        _require_fused(trial, device)


def _require_fused(trial: Trial, device: torch.device) -> None:
    d, n_latents, precision = trial.source.d, trial.n_latents, trial.train.precision
    if d > WIDEST:
        raise BadInput(
            f"activations of width d={d} with train.kernels=fused: its kernels hold rows of up to "
            f"{WIDEST}; use train.kernels=auto"
        )
    if device.type != "cuda":
        return
    properties = torch.cuda.get_device_properties(device)
    capability = properties.major, properties.minor
    if precision == "bf16" and capability < BFLOAT16_SINCE:
        raise BadInput(
            f"train.precision=bf16 with train.kernels=fused on {properties.name}: its compute "
            f"capability {capability[0]}.{capability[1]} has no bfloat16 products (8.0 has); use "
            "train.precision=fp32"
        )
    there = properties.total_memory
    need = packed_memory(trial).most + rows_memory(trial, there)
    if need > there:
        raise BadInput(
            f"sae.n_latents={n_latents} at d={d} with train.batch_size={trial.train.batch_size} "
            f"takes about {need / 1e9:.3g} GB with train.kernels=fused, and {properties.name} has "
            f"{there / 1e9:.3g} GB: not even one trial fits; choose a narrower dictionary or a "
            "smaller batch"
        )
