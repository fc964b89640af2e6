"""Activations: where they come from, how they lie on disk, in which order they are trained on."""

from sae_sweep.activations.order import batch_indices
from sae_sweep.activations.preparation import Wanted, disk_bytes, passes, prepare
from sae_sweep.activations.shards import Activations, open_activations, verify
from sae_sweep.activations.source import declare, describe
from sae_sweep.activations.synthetic import dictionary

__all__ = [
    "Activations",
    "Wanted",
    "batch_indices",
    "declare",
    "describe",
    "dictionary",
    "disk_bytes",
    "open_activations",
    "passes",
    "prepare",
    "verify",
]
