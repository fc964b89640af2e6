"""The operations that training consists of: one name, one signature, one meaning.

`reference` says what they mean, `cpu` is their fast form there.
"""

from sae_sweep.kernels.reference import (
    Adam,
    BatchSelection,
    Moments,
    SparseLatents,
    always_on_penalty,
    aux_k_loss,
    batch_top_k,
    dense_decode,
    diversity_penalty,
    jump_relu,
    l1_penalty,
    mean_l0,
    nested_errors,
    normalise_rows,
    pre_activation_loss,
    pre_activations,
    reconstruction_loss,
    relu_encode,
    sparse_decode,
    top_k,
    top_k_by_magnitude,
    usage_loss,
)
from sae_sweep.kernels.updates import adam_step, remove_parallel

__all__ = [
    "Adam",
    "BatchSelection",
    "Moments",
    "SparseLatents",
    "adam_step",
    "always_on_penalty",
    "aux_k_loss",
    "batch_top_k",
    "dense_decode",
    "diversity_penalty",
    "jump_relu",
    "l1_penalty",
    "mean_l0",
    "nested_errors",
    "normalise_rows",
    "pre_activation_loss",
    "pre_activations",
    "reconstruction_loss",
    "relu_encode",
    "remove_parallel",
    "sparse_decode",
    "top_k",
    "top_k_by_magnitude",
    "usage_loss",
]
