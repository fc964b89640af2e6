"""The operations that training consists of: one name, one signature, one meaning.

`reference` says what they mean, `cpu` is their fast form there.
"""

from sae_sweep.kernels.reference import (
    Adam,
    Moments,
    SparseLatents,
    always_on_penalty,
    aux_k_loss,
    dense_decode,
    l1_penalty,
    normalise_rows,
    pre_activations,
    reconstruction_loss,
    relu_encode,
    sparse_decode,
    top_k,
    usage_loss,
)
from sae_sweep.kernels.updates import adam_step, remove_parallel

__all__ = [
    "Adam",
    "Moments",
    "SparseLatents",
    "adam_step",
    "always_on_penalty",
    "aux_k_loss",
    "dense_decode",
    "l1_penalty",
    "normalise_rows",
    "pre_activations",
    "reconstruction_loss",
    "relu_encode",
    "remove_parallel",
    "sparse_decode",
    "top_k",
    "usage_loss",
]
