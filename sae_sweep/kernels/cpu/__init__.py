"""The operations of a training step in their exact CPU form: no graph, no [n k d] temporary.

`reference` says what each means. Gradients, which autograd finds for the reference, are written out
here; SparseLatents carry them where few latents are active, dense products elsewhere.
"""

from sae_sweep.kernels.cpu.auxiliary import always_on, aux_k_loss, usage_loss
from sae_sweep.kernels.cpu.forms import AS_MEASURED, StepOptions
from sae_sweep.kernels.cpu.gradients import Gradients, Latents, decode, gradients, where_positive
from sae_sweep.kernels.cpu.latents import (
    CHUNK_ENTRIES,
    batch_top_k,
    compact,
    count_active,
    encode,
    in_form,
    margin,
    relu_encode,
    top_k,
)
from sae_sweep.kernels.cpu.products import linear
from sae_sweep.kernels.cpu.updates import adam_step, remove_parallel

__all__ = [
    "AS_MEASURED",
    "CHUNK_ENTRIES",
    "Gradients",
    "Latents",
    "StepOptions",
    "adam_step",
    "always_on",
    "aux_k_loss",
    "batch_top_k",
    "compact",
    "count_active",
    "decode",
    "encode",
    "gradients",
    "in_form",
    "linear",
    "margin",
    "relu_encode",
    "remove_parallel",
    "top_k",
    "usage_loss",
    "where_positive",
]
