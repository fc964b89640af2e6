"""Every kernel compiles for an H200 and keeps what it computes with in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sm90.py")
SHARED_BYTES = 227 * 1024


@pytest.mark.slow
def test_kernels_compile_for_an_h200_without_spills(tmp_path: Path) -> None:
    fresh = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    # the compiler asks that its default be confirmed; a warning is no failure there
    environment = os.environ | fresh | {"TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 10
    assert found["encode bfloat16"]["wgmma"] > 0, "the encoder must multiply on tensor cores"
    for name, usage in found.items():
        assert usage["stack"] == 0, f"{name} spills: {usage}"
        assert usage["registers"] <= 255, f"{name}: {usage}"
        assert usage["shared"] <= SHARED_BYTES, f"{name}: {usage}"
