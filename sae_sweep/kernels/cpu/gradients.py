"""Decoding, and what the gradient of its result is for the weights: sparse and dense."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_sweep.kernels.cpu.products import linear
from sae_sweep.kernels.reference import SparseLatents


class Pairs(NamedTuple):
    """The active latents of n tokens, however many each has: a token's one after the other."""

    values: Float[Tensor, " pairs"]
    """Activations."""
    latent: Int64[Tensor, " pairs"]
    token: Int64[Tensor, " pairs"]
    start: Int64[Tensor, " n"]
    """Where each token's run begins."""


Latents = SparseLatents | Pairs | Tensor
"""Latents of n tokens: the active ones, or all of them, [n m]."""


class Gradients(NamedTuple):
    """Gradients of the rows of one dictionary."""

    w_enc: Float[Tensor, "m d"]
    b_enc: Float[Tensor, " m"]
    w_dec: Float[Tensor, "m d"]


class ByLatent(NamedTuple):
    """Pairs of a token and a latent, sorted by latent and then by token."""

    order: Int64[Tensor, " pairs"]
    """Where each pair stands when they are sorted by token."""
    latent: Int64[Tensor, " pairs"]
    token: Int64[Tensor, " pairs"]
    start: Int64[Tensor, " m"]
    """Where each latent's run begins."""


def decode(
    latents: Latents, w_dec: Float[Tensor, "m d"], b_dec: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "n d"]:
    """Sum the decoder rows, weighted by their activations, and add the bias."""
    if isinstance(latents, Tensor):
        return linear(latents, w_dec.T, b_dec)
    latents = _without_zeros(latents)
    if isinstance(latents, Pairs):
        values, rows, _, starts = latents
    else:
        (values, rows), starts = latents, None
    summed = F.embedding_bag(rows, w_dec, starts, per_sample_weights=values, mode="sum")
    return summed if b_dec is None else summed.add_(b_dec)


def gradients(
    latents: Latents,
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    w_dec: Float[Tensor, "m d"],
    l1_weight: Float[Tensor, " m"] | None = None,
    change: Float[Tensor, "n m"] | None = None,
) -> Gradients:
    """Compute the gradients of a loss of decode(relu(centred w_enc^T + b_enc)).

    With f the latents and g the upstream gradient:
    df_ij = (<g_i, w_dec_j> + l1_weight_j) [f_ij > 0], dw_dec_j = sum_i f_ij g_i,
    dw_enc_j = sum_i df_ij centred_i, db_enc_j = sum_i df_ij.

    Args:
        latents: of each token.
        upstream: gradient of the loss for the decoded tokens.
        centred: what the encoder was given: activations less the decoder's bias.
        w_dec: the decoder.
        l1_weight: gradient of the loss for each activation itself, as a penalty on it has.
        change: <g_i, w_dec_j> + l1_weight_j for the dense form, where the caller needs them too.
    """
    if isinstance(latents, Tensor):
        change = linear(upstream, w_dec, l1_weight) if change is None else change
        return _dense(latents, upstream, centred, change)
    return _sparse(latents, upstream, centred, w_dec, l1_weight)


def where_positive(
    condition: Float[Tensor, "n m"], values: Float[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """Take values where a condition is above 0 or not a number; elsewhere 0."""
    # six times as fast as torch.where of a comparison
    return torch.ops.aten.threshold_backward(values, condition, 0)


def _dense(
    latents: Float[Tensor, "n m"],
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    change: Float[Tensor, "n m"],
) -> Gradients:
    change = where_positive(latents, change)
    return Gradients(
        w_enc=linear(change.T, centred.T),
        b_enc=change.sum(dim=0),
        w_dec=linear(latents.T, upstream.T),
    )


def _sparse(
    latents: SparseLatents | Pairs,
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    w_dec: Float[Tensor, "m d"],
    l1_weight: Float[Tensor, " m"] | None,
) -> Gradients:
    m = len(w_dec)
    latents = _without_zeros(latents)
    active = by_latent(latents if isinstance(latents, Pairs) else latents.indices, m)
    value = latents.values.reshape(-1)[active.order]
    change = dot_products(active, w_dec, upstream)
    if l1_weight is not None:
        change.add_(l1_weight[active.latent])
    return Gradients(
        w_enc=_sum_tokens(active, change, centred),
        b_enc=torch.bincount(active.latent, weights=change, minlength=m).to(change.dtype),
        w_dec=_sum_tokens(active, value, upstream),
    )


def _without_zeros(latents: SparseLatents | Pairs) -> SparseLatents | Pairs:
    """Leave out what fills up the rest where tokens have fewer active latents than others."""
    if isinstance(latents, Pairs):
        return latents
    values, indices = (part.reshape(-1) for part in latents)
    # what is not a number stays, and is seen in the loss
    zero = values.numpy() <= 0
    if not zero.any():
        return latents
    kept = torch.from_numpy(np.flatnonzero(~zero))
    token = kept // latents.values.shape[1]
    counts = token.bincount(minlength=len(latents.values))
    return Pairs(values[kept], indices[kept], token, counts.cumsum(dim=0) - counts)


def by_latent(latents: Int64[Tensor, "n k"] | Pairs, m: int) -> ByLatent:
    """Sort each token's latents, of m, by latent."""
    flat = latents.latent if isinstance(latents, Pairs) else latents.reshape(-1)
    # NumPy sorts 16-bit integers by radix
    keys = flat.numpy().astype(np.uint16 if m <= 2**16 else np.int64)
    order = torch.from_numpy(np.argsort(keys, kind="stable"))
    counts = torch.bincount(flat, minlength=m)
    return ByLatent(
        order=order,
        latent=flat[order],
        token=latents.token[order] if isinstance(latents, Pairs) else order // latents.shape[1],
        start=counts.cumsum(dim=0) - counts,
    )


def dot_products(
    pairs: ByLatent, of_latents: Float[Tensor, "m d"], of_tokens: Float[Tensor, "n d"]
) -> Float[Tensor, " pairs"]:
    """Multiply the rows of each pair: a latent's row is read once for all its tokens."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        of_latents, of_tokens, pairs.token, pairs.start, pairs.latent, 0
    )


def _sum_tokens(
    active: ByLatent, weight: Float[Tensor, " pairs"], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "m d"]:
    """Sum, for each latent, the rows of the tokens in which it is active."""
    return F.embedding_bag(active.token, rows, active.start, per_sample_weights=weight, mode="sum")
