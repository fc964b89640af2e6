"""The JumpReLU autoencoder: a trained threshold for each latent."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config.sae import JumpReluConfig
from sae_sweep.kernels import cpu
from sae_sweep.sae.base import (
    AbstractSae,
    Reading,
    SaelensForm,
    SaeOutput,
    Scale,
)


@final
class JumpReluSae(AbstractSae):
    """Penalises the number of active latents (Rajamanoharan et al. 2024, arXiv:2407.14435).

    Gradients reach the thresholds by straight-through estimates. With `target_l0` the penalty is
    target_coeff d (l0 / target_l0 - 1)^2, l0 the batch's mean count; else l0_coeff l0. Decoder rows
    have unit norm, thresholds are kept at 0 or above (the paper trains their logarithm).
    """

    config: JumpReluConfig
    b_enc: nn.Parameter
    """Encoder's bias, [m]."""
    threshold: nn.Parameter
    """A latent is active above it, [m]."""

    def __init__(self, config: JumpReluConfig, d: int, generator: torch.Generator) -> None:
        super().__init__(config, d, generator)
        self.b_enc = nn.Parameter(torch.zeros(len(self.w_enc)))
        self.threshold = nn.Parameter(torch.full((len(self.w_enc),), config.threshold_init))

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        return kernels.jump_relu(pre, self.threshold, self.config.bandwidth)

    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss."""
        config = self.config
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        latents = kernels.jump_relu(pre, self.threshold, config.bandwidth)
        x_hat = self.decode(latents)
        loss_reconstruction = kernels.reconstruction_loss(target, x_hat)
        l0 = kernels.mean_l0(pre, self.threshold, config.bandwidth)
        loss_sparsity = sparsity_scale * self._penalty(l0)
        loss_aux = self.always_on_loss(latents)
        if config.pre_act_coeff > 0:
            lifted = kernels.pre_activation_loss(pre, self.threshold, dead)
            loss_aux = loss_aux + config.pre_act_coeff * lifted
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=l0.detach(),
            fired=(latents.detach() > 0).any(dim=0),
        )

    def _penalty(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        target = self.config.target_l0
        if target is None:
            assert self.config.l0_coeff is not None
            return self.config.l0_coeff * l0
        return self.config.target_coeff * len(self.b_dec) * (l0 / target - 1).square()

    def _slope(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Derivative of the penalty with respect to the active latents per token."""
        target = self.config.target_l0
        if target is None:
            assert self.config.l0_coeff is not None
            return l0.new_tensor(self.config.l0_coeff)
        return self.config.target_coeff * len(self.b_dec) * 2 * (l0 / target - 1) / target

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
        pre = cpu.linear(centred, self.w_enc, self.b_enc)
        excess = pre - self.threshold
        latents = cpu.where_positive(excess, pre)
        counts = cpu.count_active(latents)
        form = cpu.compact(latents, counts, d, options.latents)
        x_hat = cpu.decode(form, self.w_dec, self.b_dec)
        error = x_hat - target
        upstream = error * (2 / n)
        l0 = counts.sum() / n
        change = cpu.linear(upstream, self.w_dec)
        found = cpu.gradients(form, upstream, centred, self.w_dec, change=change)
        near = torch.empty_like(excess)  # 1 within the window: booleans take twice as long
        torch.lt(excess.abs_(), config.bandwidth / 2, out=near)
        moved = change.mul_(near).sum(dim=0).mul_(self.threshold)
        weight = float(sparsity_scale) * self._slope(l0) / n
        slope = moved.add_(weight * near.sum(dim=0)).div_(-config.bandwidth)
        loss_aux = x.new_zeros(())
        ids = dead.nonzero()[:, 0]
        if config.pre_act_coeff > 0 and len(ids):
            missing = (self.threshold[ids] - pre.index_select(1, ids)).relu_()
            pull = missing.sign() * (config.pre_act_coeff / n)
            found.w_enc.index_add_(0, ids, cpu.linear(pull.T, centred.T), alpha=-1)
            found.b_enc.index_add_(0, ids, pull.sum(dim=0), alpha=-1)
            slope.index_add_(0, ids, pull.sum(dim=0))
            loss_aux = config.pre_act_coeff * missing.sum(dim=1).mean()
        self.w_enc.grad, self.b_enc.grad, self.w_dec.grad = found
        self.threshold.grad = slope
        self.b_dec.grad = self.b_dec_gradient(upstream, found)
        loss_reconstruction = error.square_().sum(dim=1).mean()
        loss_sparsity = float(sparsity_scale) * self._penalty(l0)
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=l0,
            fired=latents.amax(dim=0) > 0,
        )

    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""
        pre = cpu.linear(x - self.centre, self.w_enc, self.b_enc)
        latents = cpu.where_positive(pre - self.threshold, pre)
        form = cpu.compact(latents, cpu.count_active(latents), x.shape[1])
        return Reading(latents, cpu.decode(form, self.w_dec, self.b_dec))

    def rate(self, name: str) -> float:
        """Learning rate of a parameter, as a multiple of the trial's."""
        return self.config.threshold_rate if name == "threshold" else 1.0

    @torch.no_grad()
    def renormalise(self) -> None:
        """Bring decoder rows back to unit norm and thresholds to 0 or above."""
        super().renormalise()
        self.threshold.clamp_min_(0.0)

    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
        tensors = {"b_enc": self.b_enc, "threshold": self.threshold}
        return SaelensForm({"architecture": "jumprelu"}, tensors)
