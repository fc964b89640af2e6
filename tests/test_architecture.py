"""What import contracts cannot say: what works with the rest absent."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINING_HALF = ("sae_sweep.train", "sae_sweep.sae", "sae_sweep.kernels", "sae_sweep.activations")
BLOCKED = ("ray", "hydra", "optuna", "sqlalchemy", "transformers", "pandas", "matplotlib", "rich")


@pytest.mark.slow
def test_the_training_half_works_with_the_rest_absent() -> None:
    code = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it raises
import importlib
for name in {TRAINING_HALF}:
    importlib.import_module(name)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_reading_results_loads_neither_torch_nor_ray() -> None:
    code = "import sys, analysis.cli; print({'torch', 'ray', 'hydra', 'optuna'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_sweep_with_nothing_to_train_loads_no_ray(tmp_path) -> None:
    words = [
        "+sweep=smoke",
        f"outputs={tmp_path}",
        "activations.train_tokens=1024",
        "activations.validation_tokens=256",
    ]
    code = f"""
import sys
from sae_sweep.cli import main
assert main({[*words, "executor=inline"]}) == 0
assert main({[*words, "executor=ray"]}) == 0
assert "ray" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "nothing to train" in ran.stderr


@pytest.mark.slow
def test_the_wheel_carries_the_sweeps(tmp_path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    ran = subprocess.run(
        [sys.executable, "-m", "sae_sweep", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"grid_topk +32 trials", ran.stdout)
