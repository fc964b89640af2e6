"""Every operation as plain PyTorch: what the words mean; faster forms have to agree with these.

Letters: x [n d] activations, x_hat [n d] their reconstruction, n tokens, d width, m latents, k
active latents per token; w_enc and w_dec are [m d], one row per latent. All operations take float32
or float64, and all but the updates in place are differentiable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

USAGE_WIDTH = 0.25
"""Width of the soft selection in `usage_loss`, in standard deviations of the pre-activations."""


class SparseLatents(NamedTuple):
    """The active latents of each token."""

    values: Float[Tensor, "n k"]
    """Activations, >= 0; 0 where a token has fewer than k positive ones."""
    indices: Int64[Tensor, "n k"]
    """Which latent each value belongs to."""


class Moments(NamedTuple):
    """Adam's state of one parameter; both start at 0."""

    first: Float[Tensor, "*shape"]
    """Decaying mean of the gradient."""
    second: Float[Tensor, "*shape"]
    """Decaying mean of its square."""


class Adam(NamedTuple):
    """Settings of one Adam step."""

    lr: float
    beta1: float
    beta2: float
    eps: float = 1e-8


def pre_activations(
    x: Float[Tensor, "n d"],
    w_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    b_dec: Float[Tensor, " d"],
) -> Float[Tensor, "n m"]:
    """Project the input, less the decoder's bias, on the encoder: (x - b_dec) w_enc^T + b_enc."""
    return F.linear(x - b_dec, w_enc, b_enc)


def relu_encode(
    x: Float[Tensor, "n d"],
    w_enc: Float[Tensor, "m d"],
    b_enc: Float[Tensor, " m"],
    b_dec: Float[Tensor, " d"],
) -> Float[Tensor, "n m"]:
    """Keep the positive pre-activations."""
    return pre_activations(x, w_enc, b_enc, b_dec).relu()


def top_k(pre: Float[Tensor, "n m"], k: int) -> SparseLatents:
    """Take relu, then the k largest of each token; exact ties go to the lowest index.

    A token with fewer than k positive pre-activations is filled up with zeros, which carry no
    gradient. Gao et al. 2024, arXiv:2406.04093, eq. 2 (relu first: section 2.3).
    """
    positive = pre.relu()
    largest = positive.detach().topk(k)
    indices, threshold = largest.indices, largest.values[:, -1:]
    # torch.topk breaks ties as it likes: redo the rows where equal values straddle the k-th place
    straddled = ((positive >= threshold).sum(dim=1) > k).nonzero()[:, 0]
    if len(straddled):
        indices[straddled] = lowest_ties(positive.detach()[straddled], threshold[straddled], k)
    return SparseLatents(positive.gather(1, indices), indices)


def lowest_ties(
    positive: Float[Tensor, "n m"], threshold: Float[Tensor, "n 1"], k: int
) -> Int64[Tensor, "n k"]:
    """Find what is above each token's k-th largest value, and its first equals."""
    above = ~(positive <= threshold)  # NaN counts as above, as it does for torch.topk
    ties = positive == threshold
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (ties & (ties.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)


class BatchSelection(NamedTuple):
    """Latents that were selected over a whole batch."""

    latents: Float[Tensor, "n m"]
    """Zeros included."""
    threshold: Float[Tensor, ""]
    """The smallest of the k n largest pre-activations after relu; 0 where fewer are positive."""


def batch_top_k(pre: Float[Tensor, "n m"], k: int) -> BatchSelection:
    """Take relu, then the k n largest of all tokens together; exact ties go to the first ones.

    First by token, then by latent. Bussmann et al. 2024, arXiv:2412.06410, eq. 5.
    """
    positive = pre.relu()
    flat = positive.detach().reshape(-1)
    count = k * len(pre)
    threshold = flat.topk(count).values[-1]
    above = ~(flat <= threshold)  # NaN counts as above, as it does for torch.topk
    ties = flat == threshold
    chosen = above | (ties & (ties.cumsum(dim=0) <= count - above.sum()))
    return BatchSelection(torch.where(chosen.view_as(pre), positive, 0.0), threshold)


def top_k_by_magnitude(pre: Float[Tensor, "n m"], k: int) -> SparseLatents:
    """Take the k largest of each token by absolute value, signs kept; ties to the lowest index."""
    chosen = top_k(pre.detach().abs(), k).indices
    return SparseLatents(pre.gather(1, chosen), chosen)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre <= threshold, 0.0, pre)  # NaN stays, and is seen in the loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2) * upstream[0]
        slope = -threshold / ctx.bandwidth * near.sum(dim=0)
        return upstream[0] * (pre > threshold), slope, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2) * upstream[0]
        return None, -near.sum(dim=0) / ctx.bandwidth, None


def jump_relu(
    pre: Float[Tensor, "n m"], threshold: Float[Tensor, " m"], bandwidth: float
) -> Float[Tensor, "n m"]:
    """Keep the pre-activations above their latent's threshold.

    The gradient reaches `pre` where it is above. That for the threshold is a straight-through
    estimate: -threshold / bandwidth times the upstream gradient, summed over the pre-activations
    within bandwidth / 2 of it. Rajamanoharan et al. 2024, arXiv:2407.14435, eq. 11.
    """
    return _JumpReLU.apply(pre, threshold, bandwidth)  # type: ignore[no-untyped-call]


def mean_l0(
    pre: Float[Tensor, "n m"], threshold: Float[Tensor, " m"], bandwidth: float
) -> Float[Tensor, ""]:
    """Mean count per token of pre-activations above their latent's threshold.

    Its gradient reaches the thresholds alone, by a straight-through estimate: -1 / bandwidth for
    each pre-activation within bandwidth / 2. Rajamanoharan et al. 2024, arXiv:2407.14435, eq. 12.
    """
    return _Step.apply(pre, threshold, bandwidth).sum(dim=1).mean()  # type: ignore[no-untyped-call]


def pre_activation_loss(
    pre: Float[Tensor, "n m"], threshold: Float[Tensor, " m"], dead: Bool[Tensor, " m"]
) -> Float[Tensor, ""]:
    """Mean over tokens of the sum over dead latents of max(0, threshold - pre).

    It pulls the pre-activations of dead latents, which nothing else reaches, up to their threshold.
    Conerly et al. 2025, "Dictionary learning optimization techniques", with unit-norm decoder rows.
    """
    ids = dead.nonzero()[:, 0]
    return (threshold[ids] - pre.index_select(1, ids)).relu().sum(dim=1).mean()


def sparse_decode(
    latents: SparseLatents, w_dec: Float[Tensor, "m d"], b_dec: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "n d"]:
    """Sum the active decoder rows, weighted by their activations, and add the bias."""
    summed = F.embedding_bag(latents.indices, w_dec, per_sample_weights=latents.values, mode="sum")
    return summed if b_dec is None else summed + b_dec


def dense_decode(
    latents: Float[Tensor, "n m"], w_dec: Float[Tensor, "m d"], b_dec: Float[Tensor, " d"]
) -> Float[Tensor, "n d"]:
    """Sum all decoder rows, weighted by their activations, and add the bias."""
    return torch.addmm(b_dec, latents, w_dec)


def nested_errors(
    x: Float[Tensor, "n d"],
    latents: Float[Tensor, "n m"],
    w_dec: Float[Tensor, "m d"],
    b_dec: Float[Tensor, " d"],
    prefixes: Sequence[int],
) -> list[Float[Tensor, "n d"]]:
    """x_hat - x for the reconstruction by each prefix of the dictionary, the shortest first.

    Args:
        x: activations.
        latents: of all of the dictionary.
        w_dec: its decoder.
        b_dec: part of every reconstruction.
        prefixes: numbers of latents, ascending; the last is m.
    """
    errors, error, start = [], b_dec - x, 0
    for stop in prefixes:
        error = error + latents[:, start:stop] @ w_dec[start:stop]
        errors.append(error)
        start = stop
    return errors


def reconstruction_loss(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean over tokens of the squared error, summed over dimensions."""
    return (x_hat - x).square().sum(dim=1).mean()


def l1_penalty(
    latents: Float[Tensor, "n m"], w_dec: Float[Tensor, "m d"] | None = None
) -> Float[Tensor, ""]:
    """Mean over tokens of sum_j f_j ||w_dec[j]||, or of sum_j f_j where no decoder is given.

    With the decoder's norms: Conerly et al. 2024, "Update on how we train SAEs". The gradient
    reaches the decoder through the norms. Without: Bricken et al. 2023, with unit-norm rows.
    """
    activity = latents.mean(dim=0)
    return activity.sum() if w_dec is None else activity @ w_dec.norm(dim=1)


def always_on_penalty(
    latents: Float[Tensor, "n m"], threshold: float, w_dec: Float[Tensor, "m d"] | None = None
) -> Float[Tensor, ""]:
    """Mean over tokens of sum_j e_j f_j ||w_dec[j]||, or of sum_j e_j f_j without a decoder.

    e_j = max(0, q_j - threshold) / (1 - threshold), detached, with q_j the share of the batch's
    tokens in which latent j is > 0: nothing up to the threshold, 1 for one that is always on. A
    penalty on the activations of latents that fire too often, which leaves all others alone.
    """
    share = (latents.detach() > 0).to(latents).mean(dim=0)
    excess = (share - threshold).relu() / (1 - threshold)
    return l1_penalty(latents * excess, w_dec)


def aux_k_loss(
    residual: Float[Tensor, "n d"],
    pre: Float[Tensor, "n m"],
    dead: Bool[Tensor, " m"],
    w_dec: Float[Tensor, "m d"],
) -> Float[Tensor, ""]:
    """Let dead latents reconstruct what is left: sum ||e - e_hat||^2 / sum ||e - e_mean||^2.

    e is the residual x - x_hat, detached, e_mean its mean over the batch; e_hat sums the decoder
    rows, without bias, of the min(d // 2, dead ones) dead latents with the largest pre-activations,
    after relu. 0 where none is dead or the residual does not vary. The gradient reaches the
    encoder through `pre`, and the decoder. Gao et al. 2024, arXiv:2406.04093, appendix A.2.
    """
    dead_ids = dead.nonzero()[:, 0]
    if len(dead_ids) == 0:
        return pre.new_zeros(())
    k_aux = min(max(1, residual.shape[1] // 2), len(dead_ids))
    strongest = top_k(pre.index_select(1, dead_ids), k_aux)
    target = residual.detach()
    error = (target - sparse_decode(strongest, w_dec.index_select(0, dead_ids))).square().sum()
    variance = (target - target.mean(dim=0)).square().sum()
    smallest = torch.finfo(variance.dtype).tiny
    return torch.where(variance > 0, error / variance.clamp_min(smallest), 0.0)


def usage_loss(pre: Float[Tensor, "n m"], k: int, target: float) -> Float[Tensor, ""]:
    """Pull up latents that are selected too rarely: mean_j max(0, target - u_j)^2.

    u_j = mean_i sigmoid((pre_ij - t_i) / w) is the share of tokens that select latent j, made
    smooth: t_i is token i's k-th largest pre-activation and w is `USAGE_WIDTH` times the standard
    deviation of all pre-activations of the batch, both detached. A latent whose pre-activation is
    the k-th counts as half selected, one standard deviation below it as 1.8 %.
    """
    threshold = pre.detach().topk(k).values[:, -1:]
    spread = pre.detach().std(correction=0)
    width = (USAGE_WIDTH * spread).clamp_min(torch.finfo(pre.dtype).tiny)
    usage = torch.sigmoid((pre - threshold) / width).mean(dim=0)
    return (target - usage).relu().square().mean()


def diversity_penalty(w_dec: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Mean over pairs i != j of the squared cosine between decoder rows i and j.

    With u_j = w_j / ||w_j|| and U the matrix of rows u_j: (||U^T U||_F^2 - m) / (m (m - 1)), since
    ||U U^T||_F = ||U^T U||_F. 0 where all rows are orthogonal, 1 where all are parallel.
    """
    m = len(w_dec)
    unit = F.normalize(w_dec, dim=1)
    return ((unit.T @ unit).square().sum() - m) / max(1, m * (m - 1))


@torch.no_grad()
def adam_step(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    moments: Moments,
    step: int,
    settings: Adam,
) -> None:
    """Update parameter and moments in place, as torch.optim.Adam does.

    first <- b1 first + (1 - b1) g;  second <- b2 second + (1 - b2) g^2;
    p <- p - lr first / (1 - b1^t) / (sqrt(second / (1 - b2^t)) + eps).

    Args:
        parameter: changed in place.
        gradient: left as it is.
        moments: changed in place.
        step: t, 1 for the first update.
        settings: learning rate, decays and eps of this step.
    """
    lr, beta1, beta2, eps = settings
    moments.first.lerp_(gradient, 1 - beta1)
    moments.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = moments.second.sqrt().div_((1 - beta2**step) ** 0.5).add_(eps)
    parameter.addcdiv_(moments.first, denominator, value=-lr / (1 - beta1**step))


@torch.no_grad()
def remove_parallel(gradient: Float[Tensor, "m d"], rows: Float[Tensor, "m d"]) -> None:
    """Take from each gradient row, in place, its part along the unit-norm row: g - <g, w> w."""
    gradient.sub_((gradient * rows).sum(dim=1, keepdim=True) * rows)


@torch.no_grad()
def normalise_rows(rows: Float[Tensor, "m d"]) -> None:
    """Scale each row in place to unit norm; a row of zeros stays."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny))
