"""From activations to latents: which are active, and in which form they are kept."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_sweep.kernels.cpu import forms
from sae_sweep.kernels.cpu.gradients import Latents, Pairs, by_latent, dot_products
from sae_sweep.kernels.cpu.products import linear
from sae_sweep.kernels.reference import BatchSelection, SparseLatents, lowest_ties

CHUNK_ENTRIES = 2**22
"""Pre-activations that exist at once: the allocator gives back what is larger, at every step."""

GROUP = 8
"""Latents that share one maximum in the first look at a wide row."""

GROUPED_FROM = 16
"""Latents per selected one from which that first look pays."""


def encode(
    centred: Float[Tensor, "n d"],
    w_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
    *,
    bf16_select: bool = False,
) -> SparseLatents:
    """Compute the k active latents of activations less the decoder's bias.

    With `bf16_select` a product in bfloat16 proposes k + `margin(k)` latents of each token, and
    their exact pre-activations decide. What it did not propose is missed; values are exact.
    """
    if bf16_select and k + margin(k) < len(w_enc):
        return _rank(_propose(centred, w_enc, b_enc, k + margin(k)), centred, w_enc, b_enc, k)
    chunks = torch.split(centred, max(1, CHUNK_ENTRIES // len(w_enc)))
    chosen = [top_k(linear(chunk, w_enc, b_enc), k) for chunk in chunks]
    return SparseLatents(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))


def margin(k: int) -> int:
    """How many latents beyond k a product in bfloat16 has to propose.

    On trained encoders no latent that belongs was further down than 12 places, at k = 100; the
    number of pre-activations that bfloat16 cannot tell from the k-th grows with k.
    """
    return 8 + k // 8


def _propose(
    centred: Float[Tensor, "n d"],
    w_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    count: int,
) -> Int64[Tensor, "n count"]:
    """Find the `count` largest pre-activations of each token in bfloat16, indices ascending."""
    rough, weight, bias = (part.bfloat16() for part in (centred, w_enc, b_enc))
    chunks = torch.split(rough, max(1, CHUNK_ENTRIES // len(weight)))
    found = [_largest(linear(chunk, weight, bias).float(), count) for chunk in chunks]
    return torch.from_numpy(np.sort(torch.cat(found).numpy(), axis=1))


def _rank(
    candidates: Int64[Tensor, "n count"],
    centred: Float[Tensor, "n d"],
    w_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    k: int,
) -> SparseLatents:
    """Compute the pre-activations of each token's candidates, and take its k largest."""
    pairs = by_latent(candidates, len(w_enc))
    products = dot_products(pairs, w_enc, centred)
    pre = torch.empty_like(products).scatter_(0, pairs.order, products).view(candidates.shape)
    best = top_k(pre + b_enc[candidates], k)
    return SparseLatents(best.values, candidates.gather(1, best.indices))


def relu_encode(
    centred: Float[Tensor, "n d"], w_enc: Float[Tensor, "m d"], b_enc: Float[Tensor, " m"]
) -> Float[Tensor, "n m"]:
    """Keep the positive pre-activations of activations less the decoder's bias."""
    return linear(centred, w_enc, b_enc).relu_()


def in_form(
    latents: SparseLatents, w_dec: Float[Tensor, "m d"], form: forms.Form = "auto"
) -> Latents:
    """Write latents out, zeros included, where the form is dense."""
    (n, k), (m, d) = latents.indices.shape, w_dec.shape
    if forms.is_sparse(form, d, m, k, n):
        return latents
    return w_dec.new_zeros(n, m).scatter_(1, latents.indices, latents.values)


def count_active(latents: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Count the latents > 0 of each token, among latents >= 0; NaN is not counted."""
    # three times as fast as counting a comparison, which is not vectorised
    return latents.sign().nan_to_num_(0.0).sum(dim=1)


def compact(
    latents: Float[Tensor, "n m"],
    counts: Float[Tensor, " n"],
    d: int,
    form: forms.Form = "auto",
) -> Latents:
    """Take the active ones out of latents where the form is sparse.

    Args:
        latents: of all tokens, >= 0.
        counts: how many of each token are active.
        d: width of what they decode to.
        form: to take.
    """
    n, m = latents.shape
    if not forms.is_sparse(form, d, m, max(1, round(counts.mean().nan_to_num().item())), n):
        return latents
    # torch.nonzero takes three times as long as NumPy's
    position = torch.from_numpy(np.flatnonzero(latents.numpy() > 0))
    token = position // m
    whole = counts.long()
    start = whole.cumsum(dim=0) - whole
    return Pairs(latents.view(-1)[position], position - token * m, token, start)


def top_k(pre: Float[Tensor, "n m"], k: int) -> SparseLatents:
    """Take relu, then the k largest of each token; exact ties go to the lowest index.

    Indices ascend in each row. Where fewer than k are positive, values of 0 fill up, at any index.
    """
    n, m = pre.shape
    if k == m:
        return SparseLatents(pre.relu(), torch.arange(m).repeat(n, 1))
    # one more than asked for: a tie across the k-th place shows as two equal values
    indices = _largest(pre, k + 1)
    values = pre.gather(1, indices)
    runner_up, kept = values[:, :1], values[:, 1:]
    tied = ((kept == runner_up) & (runner_up > 0)).any(dim=1).nonzero()[:, 0]
    indices = indices[:, 1:]
    if len(tied):
        rows = pre[tied].relu_()
        indices[tied] = lowest_ties(rows, runner_up[tied], k)
    ascending = torch.from_numpy(np.sort(indices.numpy(), axis=1))
    return SparseLatents(pre.gather(1, ascending).relu_(), ascending)


def kth_largest(pre: Float[Tensor, "n m"], k: int) -> Float[Tensor, "n 1"]:
    """Find the k-th largest pre-activation of each token, whatever its sign."""
    return pre.gather(1, _largest(pre, k)[:, :1])


def _largest(rows: Float[Tensor, "n m"], count: int) -> Int64[Tensor, "n count"]:
    """Find where the `count` largest values of each row stand, the smallest of them first.

    A wide row is looked at in groups: the largest values lie in the groups with the largest
    maxima. Of values equal to the smallest of them any may be found.
    """
    n, m = rows.shape
    if m < GROUPED_FROM * count or m % GROUP:
        return _partition(rows, count)
    stride = m // GROUP
    groups = _partition(rows.view(n, GROUP, stride).amax(dim=1), count)
    members = (groups[:, None, :] + torch.arange(0, m, stride)[:, None]).view(n, -1)
    return members.gather(1, _partition(rows.gather(1, members), count))


def _partition(rows: Float[Tensor, "n m"], count: int) -> Int64[Tensor, "n count"]:
    # NumPy partitions with vector instructions, which torch.topk does not
    return torch.from_numpy(np.argpartition(rows.numpy(), -count, axis=1)[:, -count:])


def batch_top_k(pre: Float[Tensor, "n m"], k: int) -> BatchSelection:
    """Take relu, then the k n largest of all tokens together; exact ties go to the first ones.

    `pre` is overwritten with the latents.
    """
    flat = pre.numpy().reshape(-1)
    count = k * len(pre)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    if threshold <= 0:  # fewer are positive
        return BatchSelection(pre.relu_(), pre.new_zeros(()))
    latents = torch.threshold_(pre, float(np.nextafter(threshold, flat.dtype.type(0))), 0.0)
    ties = np.flatnonzero(flat == threshold)
    surplus = int(np.count_nonzero(flat)) - count
    if surplus > 0:
        flat[ties[len(ties) - surplus :]] = 0
    return BatchSelection(latents, pre.new_tensor(threshold))
