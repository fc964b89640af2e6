"""Machine and versions that a sweep runs with: recorded beside results, never part of a uid."""

import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from sae_sweep.records import Place

PACKAGES = ("sae-sweep", "torch", "ray", "optuna", "numpy", "safetensors", "transformers")


def place(device: torch.device, threads: int) -> Place:
    """This process, for the records of the trials that it trains."""
    return Place(socket.gethostname(), device_name(device), threads, git_commit(), versions())


def device_name(device: torch.device) -> str:
    """The model of the accelerator or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({names[0] if names else platform.machine()})"


def versions() -> dict[str, str]:
    """Versions of the packages that results can depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the clone that this code runs from, with + when it was changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *words: str) -> str | None:
    try:
        ran = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()
