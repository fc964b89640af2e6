"""The training half stands without what only the orchestration needs, and loads SciPy late."""

import subprocess
import sys

import pytest

WITHOUT = ("ray", "hydra", "optuna", "sqlalchemy", "transformers", "scipy")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["sae_sweep.train", "sae_sweep.sae", "sae_sweep.kernels"])
def test_it_imports_without_them(module: str) -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in WITHOUT)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; import {module}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
