"""Hyperparameter sweeps of sparse autoencoders."""

import os
from typing import TYPE_CHECKING, Any

# cuBLAS reads it at its first product in a process, and is not deterministic without
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if TYPE_CHECKING:
    from sae_sweep.api import Sweep, run

__all__ = ["Sweep", "run"]


def __getattr__(name: str) -> Any:
    # `import sae_sweep.records` must load neither Hydra nor torch, which a sweep needs
    if name not in __all__:
        raise AttributeError(f"module 'sae_sweep' has no attribute {name!r}")
    from sae_sweep import api

    return getattr(api, name)
