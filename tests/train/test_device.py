"""What a GPU cannot train is refused before training, in one message."""

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from sae_sweep.errors import BadInput
from sae_sweep.kernels.fused.memory import packed_memory, rows_memory
from sae_sweep.train import require_device

CUDA = torch.device("cuda")


class Properties(NamedTuple):
    """What torch says of a GPU."""

    name: str = "NVIDIA A100-SXM4-40GB"
    major: int = 8
    minor: int = 0
    total_memory: int = 40 * 10**9


@pytest.mark.parametrize(
    ("width", "train", "gpu", "message"),
    [
        (
            16384,
            {},
            {},
            r"width d=16384 with train\.kernels=fused: .*rows of up to 8192; use train",
        ),
        (
            *(64, {}),
            {"name": "Tesla T4", "major": 7, "minor": 5},
            r"train\.precision=bf16 .* on Tesla T4: its compute capability 7\.5 has no bfloat16 .*"
            r"use train\.precision=fp32",
        ),
        (
            *(8192, {"batch_size": 4096}, {}),
            r"sae\.n_latents=524288 at d=8192 with train\.batch_size=4096 takes about 220 GB .*and "
            r"NVIDIA A100-SXM4-40GB has 40 GB: not even one trial fits; choose a narrower",
        ),
    ],
)
def test_what_no_kernel_or_no_memory_takes_is_refused_before_training(
    make_trial, monkeypatch, width: int, train: dict[str, Any], gpu: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties(**gpu))
    trial = make_trial({"n_latents": 64 * width}, kernels="fused", **train)
    trial = dataclasses.replace(trial, source=trial.source._replace(d=width))
    with pytest.raises(BadInput, match=message):
        require_device(trial, CUDA)


def test_the_rows_count_where_they_stay_on_the_device(make_trial, monkeypatch) -> None:
    trial = make_trial({"n_latents": 64}, kernels="fused")
    rows = rows_memory(trial, 10**12)
    assert rows == 4 * trial.source.d * trial.source.train_tokens
    there = packed_memory(trial).most + rows
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: Properties(total_memory=there)
    )
    require_device(trial, CUDA)
    less = Properties(total_memory=there - 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: less)
    with pytest.raises(BadInput, match="not even one trial fits"):
        require_device(trial, CUDA)


def test_what_fits_is_not_refused(make_trial, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties())
    require_device(make_trial({"n_latents": 64}, kernels="fused"), CUDA)
    old = Properties(major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: old)
    require_device(make_trial({"n_latents": 64}, kernels="fused", precision="fp32"), CUDA)
