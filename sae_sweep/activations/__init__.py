"""Activations: their sources, their files, and the order of training."""

from sae_sweep.activations.cache import Cache, Supplier
from sae_sweep.activations.collect import Inputs, ModelReader, seconds_per_row
from sae_sweep.activations.facts import checksums
from sae_sweep.activations.order import batch_indices
from sae_sweep.activations.plan import Wanted, cache_bytes, passes, stored_bytes
from sae_sweep.activations.preparation import disk_bytes, missing_rows, prepare
from sae_sweep.activations.shards import Activations, open_activations, verify
from sae_sweep.activations.source import declare, describe
from sae_sweep.activations.synthetic import dictionary

__all__ = [
    "Activations",
    "Cache",
    "Inputs",
    "ModelReader",
    "Supplier",
    "Wanted",
    "batch_indices",
    "cache_bytes",
    "checksums",
    "declare",
    "describe",
    "dictionary",
    "disk_bytes",
    "missing_rows",
    "open_activations",
    "passes",
    "prepare",
    "seconds_per_row",
    "stored_bytes",
    "verify",
]
