"""The ReLU autoencoder with an L1 penalty."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config.sae import L1Config
from sae_sweep.kernels import cpu
from sae_sweep.sae.base import (
    AbstractSae,
    Reading,
    SaelensForm,
    SaeOutput,
    Scale,
)


@final
class L1Sae(AbstractSae):
    """Penalises the sum of its activations (Bricken et al. 2023; Conerly et al. 2024).

    `l1_norm=decoder`: each activation is weighted by the norm of its decoder row, which is free.
    `l1_norm=unit`: activations count as they are, and decoder rows are kept at unit norm.
    """

    config: L1Config
    b_enc: nn.Parameter
    """Encoder's bias, [m]."""

    def __init__(self, config: L1Config, d: int, generator: torch.Generator) -> None:
        super().__init__(config, d, generator)
        self.b_enc = nn.Parameter(torch.zeros(len(self.w_enc)))

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""
        return kernels.relu_encode(x, self.w_enc, self.b_enc, self.centre)

    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss; dead latents do not enter."""
        del dead
        latents = self.encode(x)
        x_hat = self.decode(latents)
        weights = self.w_dec if self.config.l1_norm == "decoder" else None
        loss_reconstruction = kernels.reconstruction_loss(target, x_hat)
        loss_sparsity = self.config.l1_alpha * sparsity_scale * kernels.l1_penalty(latents, weights)
        loss_aux = x.new_zeros(())
        if self.config.always_on_coeff > 0:
            threshold = self.config.always_on_threshold
            penalty = kernels.always_on_penalty(latents, threshold, weights)
            loss_aux = self.config.always_on_coeff * penalty
        active = latents.detach() > 0
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=active.sum().to(x) / len(x),
            fired=active.any(dim=0),
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
        del dead
        n, d = x.shape
        alpha = self.config.l1_alpha * float(sparsity_scale)
        centred = x - self.centre
        latents = cpu.relu_encode(centred, self.w_enc, self.b_enc)
        counts = cpu.count_active(latents)
        form = cpu.compact(latents, counts, d, options.latents)
        x_hat = cpu.decode(form, self.w_dec, self.b_dec)
        error = x_hat - target
        upstream = error * (2 / n)
        norms = self._l1_weights()
        l1_weight = norms * (alpha / n)
        activity = latents.mean(dim=0)
        extra = None
        if self.config.always_on_coeff > 0:
            threshold = self.config.always_on_threshold
            extra = cpu.always_on(latents, len(norms), threshold).excess
            extra.mul_(self.config.always_on_coeff)
            l1_weight.addcmul_(norms, extra, value=1 / n)
        found = cpu.gradients(form, upstream, centred, self.w_dec, l1_weight)
        if self.config.l1_norm == "decoder":
            # a row of zeros has no direction: its norm's gradient is 0 there
            pull = (activity / norms).masked_fill_(norms == 0, 0)
            found.w_dec.addcmul_(self.w_dec, pull[:, None], value=alpha)
            if extra is not None:
                found.w_dec.addcmul_(self.w_dec, (pull * extra)[:, None])
        self.w_enc.grad, self.b_enc.grad, self.w_dec.grad = found
        self.b_dec.grad = self.b_dec_gradient(upstream, found)
        loss_reconstruction = error.square_().sum(dim=1).mean()
        loss_sparsity = alpha * (activity @ norms)
        loss_aux = x.new_zeros(()) if extra is None else extra @ (activity * norms)
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=counts.sum() / n,
            fired=latents.amax(dim=0) > 0,
        )

    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""
        latents = cpu.relu_encode(x - self.centre, self.w_enc, self.b_enc)
        form = cpu.compact(latents, cpu.count_active(latents), x.shape[1])
        return Reading(latents, cpu.decode(form, self.w_dec, self.b_dec))

    def _l1_weights(self) -> Float[Tensor, " m"]:
        """Weight of each latent's activation in the penalty."""
        if self.config.l1_norm == "decoder":
            return self.w_dec.norm(dim=1)
        return torch.ones_like(self.b_enc)

    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
        return SaelensForm({"architecture": "standard"}, {"b_enc": self.b_enc})
