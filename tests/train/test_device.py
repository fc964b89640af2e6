"""What a GPU cannot train is refused before training, in one message."""

import dataclasses
import os
import subprocess
import sys
import weakref
from typing import Any, NamedTuple

import pytest
import torch

from sae_sweep.errors import BadInput
from sae_sweep.kernels.fused.memory import packed_memory, rows_memory
from sae_sweep.train import require_device
from sae_sweep.train.device import is_out_of_memory, with_room, without_frames

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


class Large:
    """What an attempt has allocated."""


def attempt(made: list[weakref.ref[Large]], *, fails: bool) -> int:
    large = Large()
    made.append(weakref.ref(large))
    if fails:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise RuntimeError("operation failed due to a previous error during capture") from None
    return len(made)


def test_what_a_failed_attempt_has_allocated_is_free_before_the_next() -> None:
    made: list[weakref.ref[Large]] = []
    found = []
    done = with_room(lambda: attempt(made, fails=not made), lambda: found.append(made[0]()))
    assert (done, found) == (2, [None])


def test_another_error_is_no_reason_to_try_again() -> None:
    made: list[weakref.ref[Large]] = []

    def broken() -> None:
        made.append(weakref.ref(Large()))
        raise KeyError("shard 3")

    with pytest.raises(KeyError):
        with_room(broken, lambda: None)
    assert len(made) == 1


def test_an_error_that_is_kept_holds_nothing_and_still_says_what_it_was() -> None:
    made: list[weakref.ref[Large]] = []
    try:
        attempt(made, fails=True)
    except RuntimeError as error:
        kept = without_frames(error)
    assert made[0]() is None
    assert is_out_of_memory(kept)
    assert not is_out_of_memory(RuntimeError("operation failed"))


def test_importing_the_package_makes_products_deterministic() -> None:
    """cuBLAS reads the variable at a process's first product, which may be anybody's."""
    code = "import os, sae_sweep; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("CUBLAS")}
    ran = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert ran.stdout.strip() == ":4096:8"
