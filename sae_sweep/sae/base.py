"""What every sparse autoencoder promises."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep import kernels
from sae_sweep.config import Architecture
from sae_sweep.kernels import cpu

Scale = float | Tensor
"""A number, or one that is known on the device alone, [] and of the parameters' precision."""


class SaeOutput(NamedTuple):
    """One training batch, seen through the autoencoder."""

    loss: Float[Tensor, ""]
    """What is optimised: the sum of the three parts."""
    loss_reconstruction: Float[Tensor, ""]
    """Batch mean of sum over dimensions of (x_hat - x)^2."""
    loss_sparsity: Float[Tensor, ""]
    """The sparsity term, coefficient included; 0 where there is none."""
    loss_aux: Float[Tensor, ""]
    """The auxiliary term, coefficient included; 0 where there is none."""
    x_hat: Float[Tensor, "n d"]
    """The reconstruction."""
    l0: Float[Tensor, ""]
    """Mean count of latents > 0 a token."""
    fired: Bool[Tensor, " m"]
    """Latents > 0 on some token of the batch."""

    def detached(self) -> "SaeOutput":
        """The same numbers without the graph that led to them."""
        return SaeOutput(*(part.detach() for part in self))


class Reading(NamedTuple):
    """What an autoencoder makes of some rows."""

    latents: Float[Tensor, "n m"]
    """Zeros included."""
    x_hat: Float[Tensor, "n d"]
    """The reconstruction."""


class SaelensForm(NamedTuple):
    """What is particular to an architecture where SAELens reads it."""

    settings: dict[str, Any]
    """Entries of cfg.json."""
    tensors: dict[str, Float[Tensor, " m"]]
    """Beside W_enc, W_dec and b_dec; one number per latent, untouched by normalisation."""


class Normalisation(NamedTuple):
    """How raw activations become the module's input: (x - mean) * scale."""

    mean: Float[Tensor, " d"]
    scale: float

    def apply(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normalise raw activations."""
        return (x - self.mean.to(x)) * self.scale

    def invert(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Bring normalised activations, or their reconstruction, back to the raw scale."""
        return x / self.scale + self.mean.to(x)


class AbstractSae(nn.Module, ABC):
    """Maps a batch of normalised activations to sparse latents and back.

    Row j of `w_enc` and `w_dec` belongs to latent j. A class may have further parameters of any
    name and shape, and buffers: all of them are trained, kept in checkpoints and saved.
    `encode`, `decode` and `forward` are enough to train anywhere. `gradients_by_hand` is a faster
    form of a step on a CPU, taken for the settings that `config.forms` declares.
    """

    config: Architecture
    """What it was built from."""
    w_enc: nn.Parameter
    """Encoder, [m d]."""
    w_dec: nn.Parameter
    """Decoder, [m d]."""
    b_dec: nn.Parameter
    """Decoder's bias, [d]; subtracted from the input too."""
    normalisation: Normalisation
    """What the inputs have gone through; nothing for a new module."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """Reconstruct from the latents."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "n d"], dead: Bool[Tensor, " m"], sparsity_scale: Scale
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss.

        Args:
            x: normalised activations.
            dead: latents that have been silent for too long.
            sparsity_scale: what the weight of the sparsity term is multiplied by at this step.
        """

    def gradients_by_hand(
        self,
        x: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        ways: cpu.Ways,
    ) -> SaeOutput:
        """Do what `forward` and its loss's `backward` do, in the CPU forms and without a graph."""
        raise NotImplementedError

    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""
        raise NotImplementedError

    @cached_property
    def _has_hand_forms(self) -> bool:
        return self.config.lacks("by_hand") is None

    @torch.no_grad()
    def read(self, x: Float[Tensor, "n d"]) -> Reading:
        """Encode and decode without a graph; on a CPU by hand where that is declared."""
        if x.device.type == "cpu" and self._has_hand_forms:
            return self.read_by_hand(x)
        latents = self.encode(x)
        return Reading(latents, self.decode(latents))

    def step_gradients(
        self,
        x: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        ways: cpu.Ways = cpu.AS_MEASURED,
    ) -> SaeOutput:
        """Compute what `forward` does, and put the gradients of its loss in place of `.grad`.

        By hand on a CPU where that is declared, in the forms that `ways` names; else by autograd.
        """
        if x.device.type == "cpu" and self._has_hand_forms:
            with torch.no_grad():
                return self.gradients_by_hand(x, dead, sparsity_scale, ways)
        self.zero_grad(set_to_none=True)
        out: SaeOutput = self(x, dead, sparsity_scale)
        out.loss.backward()  # type: ignore[no-untyped-call]
        return out.detached()

    def project_gradient(self) -> None:
        """Keep the gradient of unit-norm decoder rows tangential; called before the update."""
        if self.config.unit_rows:
            assert self.w_dec.grad is not None
            kernels.remove_parallel(self.w_dec.grad, self.w_dec)

    def renormalise(self) -> None:
        """Bring decoder rows back to unit norm, where they have it; called after the update."""
        if self.config.unit_rows:
            kernels.normalise_rows(self.w_dec)

    @abstractmethod
    def saelens(self) -> SaelensForm:
        """What SAELens has to know to compute the same latents from the same pre-activations."""
