"""What every sparse autoencoder promises."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_sweep.config import L1Config, TopKConfig
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


class Reading(NamedTuple):
    """What an autoencoder makes of some rows."""

    latents: Float[Tensor, "n m"]
    """Zeros included."""
    x_hat: Float[Tensor, "n d"]
    """The reconstruction."""


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

    Row j of `w_enc` and `w_dec` belongs to latent j.
    """

    config: TopKConfig | L1Config
    """What it was built from."""
    w_enc: nn.Parameter
    """Encoder, [m d]."""
    b_enc: nn.Parameter
    """Encoder's bias, [m]."""
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
        self, x: Float[Tensor, "n d"], dead: Bool[Tensor, " m"], l1_scale: Scale
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss.

        Args:
            x: normalised activations.
            dead: latents that have been silent for too long.
            l1_scale: what `l1_alpha` is multiplied by at this step.
        """

    @abstractmethod
    def gradients_by_hand(
        self, x: Float[Tensor, "n d"], dead: Bool[Tensor, " m"], l1_scale: Scale, ways: cpu.Ways
    ) -> SaeOutput:
        """Do what `forward` and its loss's `backward` do, in the CPU forms and without a graph."""

    @abstractmethod
    def read_by_hand(self, x: Float[Tensor, "n d"]) -> Reading:
        """Do what `encode` and `decode` do, in the CPU forms."""

    @torch.no_grad()
    def read(self, x: Float[Tensor, "n d"]) -> Reading:
        """Encode and decode where no gradient is wanted: by hand on a CPU."""
        if x.device.type == "cpu":
            return self.read_by_hand(x)
        latents = self.encode(x)
        return Reading(latents, self.decode(latents))

    def step_gradients(
        self,
        x: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        l1_scale: Scale,
        ways: cpu.Ways = cpu.AS_MEASURED,
    ) -> SaeOutput:
        """Compute what `forward` does, and put the gradients of its loss in place of `.grad`.

        By hand on a CPU, where `ways` says how, by autograd elsewhere. Takes what `forward` takes.
        """
        if x.device.type == "cpu":
            with torch.no_grad():
                return self.gradients_by_hand(x, dead, l1_scale, ways)
        self.zero_grad(set_to_none=True)
        out = self(x, dead, l1_scale)
        out.loss.backward()
        return out

    def _take(self, found: cpu.Gradients, upstream: Float[Tensor, "n d"]) -> None:
        """Put gradients in place, and b_dec's with them: it is added to x_hat, taken from x."""
        self.w_enc.grad, self.b_enc.grad, self.w_dec.grad = found
        self.b_dec.grad = upstream.sum(dim=0) - found.b_enc @ self.w_enc

    @abstractmethod
    def project_gradient(self) -> None:
        """Take from the gradient what the constraint would undo; called before the update."""

    @abstractmethod
    def renormalise(self) -> None:
        """Bring the parameters back to the constraint; called after the update."""
