"""Every kernel compiles for an H200 and keeps what it computes with in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize("which", ["newest", "3.6.0"])
@pytest.mark.parametrize("program", PRODUCTS)
def test_kernels_compile_for_an_h200_without_spills(
    program: str, which: str, tmp_path: Path
) -> None:
    fresh = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    # the compiler asks that its default be confirmed; a warning is no failure there
    environment = os.environ | fresh | {"TRITON_DEFAULT_FP_FUSION": "1"}
    if folder := triton_folder(which):
        environment["PYTHONPATH"] = folder
    command = [sys.executable, Path(__file__).with_name(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
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
