"""Decoding, and what the gradient of its result is for the weights: sparse and dense."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_sweep.kernels.cpu.products import linear
from sae_sweep.kernels.reference import SparseLatents

Latents = SparseLatents | Tensor
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
    values, indices = latents
    if (kept := _kept(latents)) is None:
        summed = F.embedding_bag(indices, w_dec, per_sample_weights=values, mode="sum")
    else:
        counts = (kept // indices.shape[1]).bincount(minlength=len(indices))
        rows, weights = (part.reshape(-1)[kept] for part in (indices, values))
        starts = counts.cumsum(dim=0) - counts
        summed = F.embedding_bag(rows, w_dec, starts, per_sample_weights=weights, mode="sum")
    return summed if b_dec is None else summed.add_(b_dec)


def gradients(
    latents: Latents,
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    w_dec: Float[Tensor, "m d"],
    l1_weight: Float[Tensor, " m"] | None = None,
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
    """
    if isinstance(latents, Tensor):
        return _dense(latents, upstream, centred, w_dec, l1_weight)
    return _sparse(latents, upstream, centred, w_dec, l1_weight)


def _dense(
    latents: Float[Tensor, "n m"],
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    w_dec: Float[Tensor, "m d"],
    l1_weight: Float[Tensor, " m"] | None,
) -> Gradients:
    change = torch.ops.aten.threshold_backward(linear(upstream, w_dec, l1_weight), latents, 0)
    return Gradients(
        w_enc=linear(change.T, centred.T),
        b_enc=change.sum(dim=0),
        w_dec=linear(latents.T, upstream.T),
    )


def _sparse(
    latents: SparseLatents,
    upstream: Float[Tensor, "n d"],
    centred: Float[Tensor, "n d"],
    w_dec: Float[Tensor, "m d"],
    l1_weight: Float[Tensor, " m"] | None,
) -> Gradients:
    m = len(w_dec)
    active = by_latent(latents.indices, m, _kept(latents))
    value = latents.values.reshape(-1)[active.order]
    change = dot_products(active, w_dec, upstream)
    if l1_weight is not None:
        change.add_(l1_weight[active.latent])
    return Gradients(
        w_enc=_sum_tokens(active, change, centred),
        b_enc=torch.bincount(active.latent, weights=change, minlength=m).to(change.dtype),
        w_dec=_sum_tokens(active, value, upstream),
    )


def _kept(latents: SparseLatents) -> Int64[Tensor, " pairs"] | None:
    """Where there is something, if zeros fill up the rest: after L1 they can be the most of it."""
    # what is not a number stays, and is seen in the loss
    zero = latents.values.reshape(-1).numpy() <= 0
    return torch.from_numpy(np.flatnonzero(~zero)) if zero.any() else None


def by_latent(
    indices: Int64[Tensor, "n k"], m: int, kept: Int64[Tensor, " pairs"] | None = None
) -> ByLatent:
    """Sort each token's latents, of m, by latent; of all their places those that are kept."""
    flat = indices.reshape(-1) if kept is None else indices.reshape(-1)[kept]
    # NumPy sorts 16-bit integers by radix
    keys = flat.numpy().astype(np.uint16 if m <= 2**16 else np.int64)
    order = torch.from_numpy(np.argsort(keys, kind="stable"))
    counts = torch.bincount(flat, minlength=m)
    return ByLatent(
        order=order if kept is None else kept[order],
        latent=flat[order],
        token=(order if kept is None else kept[order]) // indices.shape[1],
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
