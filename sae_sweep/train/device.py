"""What a device can do."""

import os

import torch

from sae_sweep.config import Trial
from sae_sweep.errors import BadInput


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
