"""Every kernel compiles for an H200 and keeps what it computes with in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_sweep.kernels.fused import encode
from sae_sweep.kernels.fused.update import MULTIPROCESSOR_REGISTERS

PRODUCTS = {
    "sm90.py": ["encode bfloat16", "encode bfloat16, bulk copies"],
    "sm90_gradients.py": ["decode bfloat16", "dz bfloat16", "weights bfloat16"],
    "sm90_losses.py": [],
}
"""Programs that compile kernels, and which of these multiply bfloat16."""
SHARED_BYTES = 227 * 1024

OLDEST = "SAE_SWEEP_TEST_TRITON"
"""A folder with the Triton that torch on GPU machines brings; `.ci/triton` prints it."""


def triton_folder(which: str) -> str:
    if which == "newest":
        return ""
    folder = os.environ.get(OLDEST)
    if folder is None:
        assert not os.environ.get("CI"), f"{OLDEST} must be set in CI"
        pytest.skip(f"{OLDEST} is not set: no second Triton to compile with (.ci/triton)")
    return folder


def compiled(program: str, folder: Path, *cases: str, **settings: str) -> dict[str, Any]:
    """What a program prints of the cases named; of all, if none is named."""
    fresh = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    # the compiler asks that its default be confirmed; a warning is no failure there
    environment = os.environ | fresh | {"TRITON_DEFAULT_FP_FUSION": "1"} | settings
    command = [sys.executable, Path(__file__).with_name(program), *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["newest", "3.6.0"])
@pytest.mark.parametrize("program", PRODUCTS)
def test_kernels_compile_for_an_h200_without_spills(
    program: str, which: str, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": folder} if (folder := triton_folder(which)) else {}
    found = compiled(program, tmp_path, **path)
    version = found.pop("triton")
    assert which in ("newest", version)
    assert len(found) > 10
    for name in PRODUCTS[program]:
        assert found[name]["wgmma"] > 0, f"{name} must multiply on tensor cores"
    for name, usage in found.items():
        assert (usage["bulk copies"] > 0) == name.endswith("bulk copies"), f"{name}: {usage}"
        assert usage["stack"] == 0, f"{name} spills: {usage}"
        assert usage["registers"] <= 255, f"{name}: {usage}"
        assert usage["registers"] * usage["threads"] <= MULTIPROCESSOR_REGISTERS, f"{name}: {usage}"
        assert usage["shared"] <= SHARED_BYTES, f"{name}: {usage}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "name", "most"),
    [("80", "encode bfloat16", encode.BFLOAT16_BYTES), ("89", "encode bfloat16, few", 99 * 1024)],
)
def test_the_largest_products_fit_older_devices(
    capability: str, name: str, most: int, tmp_path: Path
) -> None:
    """An A100, and Ada's consumer cards."""
    found = compiled("sm90.py", tmp_path, name, SM=capability)
    assert 0 < found[name]["shared"] <= most
