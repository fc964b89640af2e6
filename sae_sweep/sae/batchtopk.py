"""BatchTopK and Matryoshka: k latents per token on average over the batch, in one or more parts."""

from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config.sae import BatchTopKConfig, MatryoshkaConfig
from sae_sweep.kernels import cpu
from sae_sweep.sae.base import (
    AbstractSae,
    Reading,
    SaelensForm,
    SaeOutput,
    Scale,
)

SLOWEST = 0.1
"""Least weight of a batch in the running mean of the threshold. A batch's own is precise, being one
value in order among thousands, but it moves with training: with 0.01, L0 in use was 8 % below the k
of training after 256 steps of 256 tokens."""


@final
class BatchTopKSae(AbstractSae):
    """Keeps the k n largest latents of n tokens together (Bussmann et al. 2024, arXiv:2412.06410).

    Training looks at its own batch, use at one token: there a latent is active where it exceeds
    `threshold`, the running mean of the smallest latent that training kept in a batch. The mean
    takes batch t with weight max(1 / t, `SLOWEST`), so it follows the last ten batches or so.

    Matryoshka (Bussmann et al. 2025, arXiv:2503.17547) minimises the mean over nested dictionaries
    of the squared error with the latents of that dictionary alone; the paper takes the sum, which
    differs by a factor. BatchTopK is the case of one. Decoder rows have unit norm.
    """

    config: BatchTopKConfig | MatryoshkaConfig
    b_enc: nn.Parameter
    """Encoder's bias, [m]."""
    threshold: Tensor
    """Of a latent in use, []."""
    batches: Tensor
    """Behind the threshold so far, []; before the first one, use selects like training."""

    def __init__(
        self, config: BatchTopKConfig | MatryoshkaConfig, d: int, generator: torch.Generator
    ) -> None:
        super().__init__(config, d, generator)
        self.b_enc = nn.Parameter(torch.zeros(len(self.w_enc)))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents as they are used: those above the threshold."""
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        if self.batches == 0:
            return kernels.batch_top_k(pre, self.config.k).latents
        return F.threshold(pre, self.threshold.item(), 0.0)

    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch, its own largest latents selected."""
        config = self.config
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        latents, threshold = kernels.batch_top_k(pre, config.k)
        errors = kernels.nested_errors(target, latents, self.w_dec, self.b_dec, config.sizes)
        squares = [error.square().sum(dim=1).mean() for error in errors]
        loss_reconstruction = torch.stack(squares).mean()
        loss_sparsity = loss_aux = x.new_zeros(())
        if config.l1_coeff > 0:
            loss_sparsity = config.l1_coeff * sparsity_scale * kernels.l1_penalty(latents)
        if config.aux_coeff > 0:
            loss_aux = config.aux_coeff * kernels.aux_k_loss(-errors[-1], pre, dead, self.w_dec)
        loss_aux = loss_aux + self.always_on_loss(latents)
        active = latents.detach() > 0
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=target + errors[-1],
            l0=active.sum().to(x) / len(x),
            fired=active.any(dim=0),
            threshold=threshold,
        )

    def gradients_by_hand(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        options: cpu.StepOptions,
    ) -> SaeOutput:
        """Do what `forward` and its loss's `backward` do, in the CPU forms and without a graph."""
        config, (n, d) = self.config, x.shape
        centred = x - self.centre
        latents, threshold = cpu.batch_top_k(cpu.linear(centred, self.w_enc, self.b_enc), config.k)
        spans = [slice(*ends) for ends in pairwise([0, *config.sizes])]
        parts = [latents[:, span].contiguous() for span in spans]
        counts = [cpu.count_active(part) for part in parts]
        forms = [
            cpu.compact(part, count, d, options.latents)
            for part, count in zip(parts, counts, strict=True)
        ]
        errors = []
        error = self.b_dec - target
        for form, span in zip(forms, spans, strict=True):
            error = error + cpu.decode(form, self.w_dec[span])
            errors.append(error)
        activity = latents.mean(dim=0)
        weight = torch.full_like(activity, config.l1_coeff * float(sparsity_scale))
        loss_sparsity = weight @ activity
        loss_aux = x.new_zeros(())
        if config.always_on_coeff > 0:
            often = cpu.always_on(latents, len(weight), config.always_on_threshold)
            excess = often.excess * config.always_on_coeff
            weight, loss_aux = weight + excess, excess @ activity
        # a latent is part of its own dictionary and of all longer ones
        upstream = torch.zeros_like(x)
        found = []
        for form, span, part in reversed(list(zip(forms, spans, errors, strict=True))):
            upstream = upstream.add(part, alpha=2 / (n * len(errors)))
            l1_weight = weight[span] / n
            found.append(cpu.gradients(form, upstream, centred, self.w_dec[span], l1_weight))
        gradients = cpu.Gradients(*(torch.cat(rows[::-1]) for rows in zip(*found, strict=True)))
        if config.aux_coeff > 0:
            weights = cpu.Gradients(self.w_enc, self.b_enc, self.w_dec)
            loss_aux = loss_aux + cpu.aux_k_loss(
                -errors[-1], centred, dead, weights, gradients, config.aux_coeff
            )
        self.w_enc.grad, self.b_enc.grad, self.w_dec.grad = gradients
        self.b_dec.grad = self.b_dec_gradient(upstream, gradients)
        loss_reconstruction = torch.stack([one.square().sum(dim=1).mean() for one in errors]).mean()
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=target + errors[-1],
            l0=torch.stack(counts).sum() / n,
            fired=latents.amax(dim=0) > 0,
            threshold=threshold,
        )

    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""
        pre = cpu.linear(x - self.centre, self.w_enc, self.b_enc)
        if self.batches == 0:
            latents = cpu.batch_top_k(pre, self.config.k).latents
        else:
            latents = torch.threshold_(pre, self.threshold.item(), 0.0)
        form = cpu.compact(latents, cpu.count_active(latents), x.shape[1])
        return Reading(latents, cpu.decode(form, self.w_dec, self.b_dec))

    @torch.no_grad()
    def observe(self, out: SaeOutput) -> None:
        """Let the threshold for use follow the smallest latent of each batch."""
        assert out.threshold is not None
        self.batches.add_(1)
        weight = (1 / self.batches).clamp_min(SLOWEST)
        self.threshold.add_(weight * (out.threshold - self.threshold))

    def nested(self, latents: Float[Tensor, "n m"]) -> dict[str, Float[Tensor, "n d"]]:
        """Reconstruct with each prefix of the dictionary but the whole one."""
        return {
            f"fvu_prefix_{i}": kernels.dense_decode(
                latents[:, :size], self.w_dec[:size], self.b_dec
            )
            for i, size in enumerate(self.config.sizes[:-1], start=1)
        }

    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
        threshold = self.threshold.expand(len(self.b_enc))
        tensors = {"b_enc": self.b_enc, "threshold": threshold}
        return SaelensForm({"architecture": "jumprelu"}, tensors)
