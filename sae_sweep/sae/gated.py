"""The gated autoencoder: one path says which latents are active, another how strongly."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config.sae import GatedConfig
from sae_sweep.sae.base import AbstractSae, SaelensForm, SaeOutput, Scale


@final
class GatedSae(AbstractSae):
    """Two paths through one encoder matrix (Rajamanoharan et al. 2024, arXiv:2404.16014).

    With p = (x - b_dec) w_enc^T the gate is p + b_gate, the magnitude exp(r_mag) p + b_mag; a
    latent is relu(magnitude) where the gate is positive. The sparsity term is l1_alpha times the
    sum of relu(gate); the auxiliary loss is the squared error of the gate's own reconstruction
    relu(gate) w_dec + b_dec, decoder and bias frozen there (eq. 8). Decoder rows have unit norm.
    """

    config: GatedConfig
    b_gate: nn.Parameter
    """Gate's bias, [m]."""
    b_mag: nn.Parameter
    """Magnitude's bias, [m]."""
    r_mag: nn.Parameter
    """Logarithm of the magnitude's scale, [m]."""

    def __init__(self, config: GatedConfig, d: int, generator: torch.Generator) -> None:
        super().__init__(config, d, generator)
        self.b_gate = nn.Parameter(torch.zeros(len(self.w_enc)))
        self.b_mag = nn.Parameter(torch.zeros(len(self.w_enc)))
        self.r_mag = nn.Parameter(torch.zeros(len(self.w_enc)))

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""
        return self._paths(x)[1]

    def _paths(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """The gate's positive part, and the latents."""
        shared = (x - self.centre) @ self.w_enc.T
        gate = shared + self.b_gate
        magnitude = (shared * self.r_mag.exp() + self.b_mag).relu()
        return gate.relu(), torch.where(gate <= 0, 0.0, magnitude)

    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss; dead latents do not enter."""
        del dead
        gate, latents = self._paths(x)
        x_hat = self.decode(latents)
        loss_reconstruction = kernels.reconstruction_loss(target, x_hat)
        loss_sparsity = self.config.l1_alpha * sparsity_scale * kernels.l1_penalty(gate)
        by_gate = kernels.dense_decode(gate, self.w_dec.detach(), self.b_dec.detach())
        loss_aux = kernels.reconstruction_loss(target, by_gate) + self.always_on_loss(latents)
        active = latents.detach() > 0
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=active.sum().to(x) / len(x),
            fired=active.any(dim=0),
        )

    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
        tensors = {"b_gate": self.b_gate, "b_mag": self.b_mag, "r_mag": self.r_mag}
        return SaelensForm({"architecture": "gated"}, tensors)
