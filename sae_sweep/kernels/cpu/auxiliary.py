"""Auxiliary losses: their value, and their gradients added to those of the reconstruction."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.cpu.gradients import Gradients, decode, gradients
from sae_sweep.kernels.cpu.latents import encode, in_form, kth_largest
from sae_sweep.kernels.cpu.products import linear
from sae_sweep.kernels.reference import SparseLatents


class AlwaysOn(NamedTuple):
    """Terms of `reference.always_on_penalty`."""

    excess: Float[Tensor, " m"]
    """e_j, 0 up to the threshold."""
    activity: Float[Tensor, " m"]
    """Mean over tokens of each latent."""


def always_on(latents: SparseLatents | Tensor, m: int, threshold: float) -> AlwaysOn:
    """Find which of m latents fire too often, and how strongly.

    The penalty is excess @ (activity * norms), its gradient for f_ij excess_j norm_j / n.
    """
    if isinstance(latents, Tensor):
        share, activity = latents.sign().mean(dim=0), latents.mean(dim=0)
    else:
        values, indices = latents.values.reshape(-1), latents.indices.reshape(-1)
        n = len(latents.values)
        share, activity = (
            (torch.bincount(indices, weights=each, minlength=m) / n).to(values)
            for each in (values.sign(), values)
        )
    return AlwaysOn((share - threshold).relu_().div_(1 - threshold), activity)


def aux_k_loss(
    residual: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    dead: Bool[Tensor, " m"],
    weights: Gradients,
    into: Gradients,
    coeff: float,
) -> Float[Tensor, ""]:
    """AuxK: dead latents reconstruct the residual; `reference.aux_k_loss` times `coeff`.

    Args:
        residual: x - x_hat.
        centred: activations less the decoder's bias.
        dead: the latents that take part; the others' rows are not touched.
        weights: encoder, its bias and decoder.
        into: gets the gradients added.
        coeff: weight of the loss.
    """
    ids = dead.nonzero()[:, 0]
    variance = (residual - residual.mean(dim=0)).square_().sum()
    if len(ids) == 0 or variance == 0:
        return residual.new_zeros(())
    w_enc, b_enc, w_dec = (part.index_select(0, ids) for part in weights)
    k_aux = min(max(1, residual.shape[1] // 2), len(ids))
    latents = in_form(encode(centred, w_enc, b_enc, k_aux), w_dec)
    error = decode(latents, w_dec).sub_(residual)
    scale = coeff / variance
    found = gradients(latents, error * (2 * scale), centred, w_dec)
    for total, part in zip(into, found, strict=True):
        total.index_add_(0, ids, part)
    return scale * error.square_().sum()


def usage_loss(
    pre: Float[Tensor, "n m"],
    centred: Float[Tensor, "n d"],
    k: int,
    target: float,
    into: Gradients,
    coeff: float,
) -> Float[Tensor, ""]:
    """Usage loss: raise latents that are selected too rarely; `reference.usage_loss` times `coeff`.

    Args:
        pre: pre-activations.
        centred: what the encoder was given: activations less the decoder's bias.
        k: active latents per token.
        target: share of tokens that is to select each latent.
        into: gets the encoder's gradients added.
        coeff: weight of the loss.
    """
    n, m = pre.shape
    spread = pre.std(correction=0)
    width = (reference.USAGE_WIDTH * spread).clamp_min(torch.finfo(pre.dtype).tiny)
    selected = (pre - kth_largest(pre, k)).div_(width).sigmoid_()
    missing = (target - selected.mean(dim=0)).relu_()
    slope = torch.ops.aten.sigmoid_backward(missing * (-2 * coeff / m / n), selected)
    change = slope.div_(width)
    into.w_enc.add_(linear(change.T, centred.T))
    into.b_enc.add_(change.sum(dim=0))
    return coeff * missing.square_().mean()
