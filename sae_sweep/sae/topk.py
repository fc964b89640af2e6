"""The k-sparse autoencoder."""

from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config.sae import TopKConfig
from sae_sweep.kernels import cpu
from sae_sweep.sae.base import (
    AbstractSae,
    Reading,
    SaelensForm,
    SaeOutput,
    Scale,
)


@final
class TopKSae(AbstractSae):
    """Keeps the k largest latents of each token (Gao et al. 2024, arXiv:2406.04093).

    Decoder rows have unit norm: the gradient's part along the row is removed before an update and
    the row is normalised after it.
    """

    config: TopKConfig
    b_enc: nn.Parameter
    """Encoder's bias, [m]."""

    def __init__(self, config: TopKConfig, d: int, generator: torch.Generator) -> None:
        super().__init__(config, d, generator)
        self.b_enc = nn.Parameter(torch.zeros(len(self.w_enc)))

    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        latents = self._select(pre)
        return torch.zeros_like(pre).scatter(1, latents.indices, latents.values)

    def _select(self, pre: Float[Tensor, "n m"]) -> kernels.SparseLatents:
        if self.config.signed:
            return kernels.top_k_by_magnitude(pre, self.config.k)
        return kernels.top_k(pre, self.config.k)

    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss.

        Dead latents enter AuxK by their positive pre-activations, however latents are selected.
        """
        pre = kernels.pre_activations(x, self.w_enc, self.b_enc, self.centre)
        latents = self._select(pre)
        x_hat = kernels.sparse_decode(latents, self.w_dec, self.b_dec)
        loss_reconstruction = kernels.reconstruction_loss(target, x_hat)
        loss_sparsity = x.new_zeros(())
        if self.config.l1_coeff > 0:
            penalty = latents.values.abs().sum(dim=1).mean()
            loss_sparsity = self.config.l1_coeff * sparsity_scale * penalty
        loss_aux = self._aux(target - x_hat, pre, dead)
        if self.config.always_on_coeff > 0:
            written = torch.zeros_like(pre).scatter(1, latents.indices, latents.values.abs())
            loss_aux = loss_aux + self.always_on_loss(written)
        active = latents.values.detach() != 0
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=active.sum().to(x) / len(x),
            fired=torch.zeros_like(dead).index_fill(0, latents.indices[active], value=True),
        )

    def _aux(
        self, residual: Float[Tensor, "n d"], pre: Float[Tensor, "n m"], dead: Bool[Tensor, " m"]
    ) -> Float[Tensor, ""]:
        coeff = self.config.aux_coeff
        match self._aux_kind:
            case None:
                return pre.new_zeros(())
            case "auxk":
                return coeff * kernels.aux_k_loss(residual, pre, dead, self.w_dec)
            case "usage":
                assert self.config.aux_target is not None
                return coeff * kernels.usage_loss(pre, self.config.k, self.config.aux_target)

    def gradients_by_hand(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        options: cpu.StepOptions,
    ) -> SaeOutput:
        """Do what `forward` and its loss's `backward` do, in the CPU forms and without a graph."""
        centred = x - self.centre
        pre = None
        if self._aux_kind == "usage":
            pre = cpu.linear(centred, self.w_enc, self.b_enc)
            chosen = cpu.top_k(pre, self.config.k)
        else:
            weights = self.w_enc, self.b_enc
            chosen = cpu.encode(centred, *weights, self.config.k, bf16_select=options.bf16_select)
        latents = cpu.in_form(chosen, self.w_dec, options.latents)
        x_hat = cpu.decode(latents, self.w_dec, self.b_dec)
        error = x_hat - target
        upstream = error * (2 / len(x))
        l1_weight, penalty, loss_sparsity = None, None, x.new_zeros(())
        if self.config.always_on_coeff > 0:
            threshold = self.config.always_on_threshold
            often = cpu.always_on(chosen, len(self.b_enc), threshold)
            extra = often.excess * self.config.always_on_coeff
            l1_weight, penalty = extra / len(x), extra @ often.activity
        if self.config.l1_coeff > 0:
            weight = self.config.l1_coeff * float(sparsity_scale)
            loss_sparsity = weight * chosen.values.sum(dim=1).mean()
            l1_weight = torch.zeros_like(self.b_enc) if l1_weight is None else l1_weight
            l1_weight = l1_weight + weight / len(x)
        found = cpu.gradients(latents, upstream, centred, self.w_dec, l1_weight)
        loss_aux = self._aux_by_hand(error, centred, pre, dead, found)
        if penalty is not None:
            loss_aux = loss_aux + penalty
        self.w_enc.grad, self.b_enc.grad, self.w_dec.grad = found
        self.b_dec.grad = self.b_dec_gradient(upstream, found)
        loss_reconstruction = error.square_().sum(dim=1).mean()
        active = chosen.values > 0
        return SaeOutput.summed(
            (loss_reconstruction, loss_sparsity, loss_aux),
            x_hat=x_hat,
            l0=active.sum().to(x) / len(x),
            fired=torch.zeros_like(dead).index_fill_(0, chosen.indices[active], value=True),
        )

    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""
        chosen = cpu.encode(x - self.centre, self.w_enc, self.b_enc, self.config.k)
        latents = x.new_zeros(len(x), len(self.b_enc))
        latents.scatter_(1, chosen.indices, chosen.values)
        return Reading(latents, cpu.decode(cpu.in_form(chosen, self.w_dec), self.w_dec, self.b_dec))

    def _aux_by_hand(
        self,
        error: Float[Tensor, "n d"],
        centred: Float[Tensor, "n d"],
        pre: Float[Tensor, "n m"] | None,
        dead: Bool[Tensor, " m"],
        into: cpu.Gradients,
    ) -> Float[Tensor, ""]:
        """Add the auxiliary loss's gradients; `pre` is there where that loss needs all of it."""
        coeff = self.config.aux_coeff
        match self._aux_kind:
            case None:
                return centred.new_zeros(())
            case "auxk":
                weights = cpu.Gradients(self.w_enc, self.b_enc, self.w_dec)
                return cpu.aux_k_loss(-error, centred, dead, weights, into, coeff)
            case "usage":
                assert pre is not None
                assert self.config.aux_target is not None
                target = self.config.aux_target
                return cpu.usage_loss(pre, centred, self.config.k, target, into, coeff)

    @property
    def _aux_kind(self) -> Literal["auxk", "usage"] | None:
        return self.config.aux_kind if self.config.aux_coeff > 0 else None

    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
        # all decoder rows have one norm, 1 / scale: ranking needs no rescaling by it
        settings = {
            "architecture": "abstopk" if self.config.signed else "topk",
            "k": self.config.k,
            "rescale_acts_by_decoder_norm": False,
        }
        return SaelensForm(settings, {"b_enc": self.b_enc})
