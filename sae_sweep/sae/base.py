"""The interface of every sparse autoencoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
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
    """Losses and statistics of one training batch."""

    loss: Float[Tensor, ""]
    """The optimised loss: the sum of the three parts."""
    loss_reconstruction: Float[Tensor, ""]
    """Batch mean of sum over dimensions of (x_hat - x)^2."""
    loss_sparsity: Float[Tensor, ""]
    """The sparsity term, coefficient included; 0 where there is none."""
    loss_aux: Float[Tensor, ""]
    """The auxiliary term, coefficient included; 0 where there is none."""
    x_hat: Float[Tensor, "n d"]
    """The reconstruction."""
    l0: Float[Tensor, ""]
    """Mean count of active latents per token: those that are not 0."""
    fired: Bool[Tensor, " m"]
    """Active latents on some token of the batch."""
    threshold: Float[Tensor, ""] | None = None
    """The smallest latent that was kept, where the batch is selected from as a whole."""

    @classmethod
    def summed(
        cls,
        losses: tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]],
        x_hat: Float[Tensor, "n d"],
        l0: Float[Tensor, ""],
        fired: Bool[Tensor, " m"],
        threshold: Float[Tensor, ""] | None = None,
    ) -> "SaeOutput":
        """Add up the three parts of the loss: reconstruction, sparsity, auxiliary."""
        reconstruction, sparsity, aux = losses
        return cls(reconstruction + sparsity + aux, *losses, x_hat, l0, fired, threshold)

    def detached(self) -> "SaeOutput":
        """The same numbers, detached from the graph."""
        return SaeOutput(*(None if part is None else part.detach() for part in self))  # type: ignore[arg-type]

    def with_penalty(self, penalty: Float[Tensor, ""]) -> "SaeOutput":
        """The output with one more auxiliary term."""
        return self._replace(loss=self.loss + penalty, loss_aux=self.loss_aux + penalty)


class Reading(NamedTuple):
    """Latents and reconstruction of some rows."""

    latents: Float[Tensor, "n m"]
    """Zeros included."""
    x_hat: Float[Tensor, "n d"]
    """The reconstruction."""


class SaelensForm(NamedTuple):
    """The settings and tensors of an architecture in SAELens' format."""

    settings: dict[str, Any]
    """Entries of cfg.json."""
    tensors: Mapping[str, Float[Tensor, " m"]]
    """Beside W_enc, W_dec and b_dec; one number per latent, untouched by normalisation."""


class Normalisation(NamedTuple):
    """How raw activations become the module's input: (x - mean) * scale.

    Example:
        >>> centred = Normalisation(torch.tensor([1.0, 2.0]), 0.5)
        >>> centred.apply(torch.tensor([[3.0, 2.0]]))
        tensor([[1., 0.]])
        >>> centred.invert(torch.tensor([[1.0, 0.0]]))
        tensor([[3., 2.]])
    """

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
    name and shape, which are trained, and buffers: all of them are kept in checkpoints and saved.
    `encode` and `objective` are enough to train anywhere. `gradients_by_hand` is a faster
    form of a step on a CPU, taken for the settings that `config.forms` declares.
    """

    config: Architecture
    """What it was built from."""
    w_enc: nn.Parameter
    """Encoder, [m d]."""
    w_dec: nn.Parameter
    """Decoder, [m d]."""
    b_dec: nn.Parameter
    """Decoder's bias, [d]; subtracted from the input too, but by a transcoder."""
    w_skip: nn.Parameter | None
    """A transcoder's linear path past the latents, [d d]; None without one."""
    normalisation: Normalisation
    """What the inputs have gone through; nothing for a new module."""
    target_normalisation: Normalisation | None
    """What a transcoder's targets have gone through, and its reconstructions with them."""

    def __init__(self, config: Architecture, d: int, generator: torch.Generator) -> None:
        """Make the parameters of every architecture: unit rows, the encoder tied, biases 0."""
        super().__init__()
        assert config.n_latents is not None
        self.config = config
        rows = torch.randn(config.n_latents, d, generator=generator)
        kernels.normalise_rows(rows)
        self.w_enc = nn.Parameter(rows.clone())
        self.w_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.register_parameter("w_skip", None)
        self.normalisation = Normalisation(torch.zeros(d), 1.0)
        self.target_normalisation = None

    @abstractmethod
    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Compute the latents, zeros included."""

    def decode(self, latents: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """Reconstruct from the latents."""
        return kernels.dense_decode(latents, self.w_dec, self.b_dec)

    @abstractmethod
    def objective(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss, but for terms of parameters alone.

        Args:
            x: normalised activations.
            target: what the latents are to reconstruct: x, or a transcoder's normalised target.
            dead: latents that have been silent for too long.
            sparsity_scale: what the weight of the sparsity term is multiplied by at this step.
        """

    def forward(
        self,
        x: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        target: Float[Tensor, "n d"] | None = None,
    ) -> SaeOutput:
        """Reconstruct a training batch and compute its loss; takes what `objective` takes.

        Without `target` the batch itself is reconstructed.
        """
        wanted = x if target is None else target
        if self.w_skip is None:
            out = self.objective(x, wanted, dead, sparsity_scale)
        else:
            skipped = x @ self.w_skip.T
            out = self.objective(x, wanted - skipped, dead, sparsity_scale)
            out = out._replace(x_hat=out.x_hat + skipped)
        penalty = self._parameter_penalty()
        return out if penalty is None else out.with_penalty(penalty)

    @property
    def centre(self) -> Float[Tensor, " d"]:
        """What is subtracted from a row before it is encoded: b_dec; nothing in a transcoder."""
        return torch.zeros_like(self.b_dec) if self.config.transcoder else self.b_dec

    def b_dec_gradient(
        self, upstream: Float[Tensor, "n d"], found: cpu.Gradients
    ) -> Float[Tensor, " d"]:
        """Gradient of b_dec, which is added to x_hat and, but by a transcoder, taken from x."""
        added = upstream.sum(dim=0)
        return added if self.config.transcoder else added - found.b_enc @ self.w_enc

    def _parameter_penalty(self) -> Float[Tensor, ""] | None:
        """Terms of the loss that no batch enters; None where there are none."""
        config = self.config
        terms = []
        if config.encoder_l2_coeff > 0:
            squares = self.w_enc.square().sum(dim=1).mean()
            terms.append(config.encoder_l2_coeff * squares)
        if config.diversity_coeff > 0:
            terms.append(config.diversity_coeff * kernels.diversity_penalty(self.w_dec))
        return torch.stack(terms).sum() if terms else None

    def always_on_loss(self, latents: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
        """The penalty on latents >= 0 of unit-norm rows that fire too often; 0 where it is off."""
        config = self.config
        if config.always_on_coeff == 0:
            return latents.new_zeros(())
        penalty = kernels.always_on_penalty(latents, config.always_on_threshold)
        return config.always_on_coeff * penalty

    def gradients_by_hand(
        self,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        options: cpu.StepOptions,
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
        x_hat = self.decode(latents)
        return Reading(latents, x_hat if self.w_skip is None else x_hat + x @ self.w_skip.T)

    def step_gradients(
        self,
        x: Float[Tensor, "n d"],
        dead: Bool[Tensor, " m"],
        sparsity_scale: Scale,
        options: cpu.StepOptions = cpu.AS_MEASURED,
        target: Float[Tensor, "n d"] | None = None,
    ) -> SaeOutput:
        """Compute what `forward` does, and put the gradients of its loss in place of `.grad`.

        By hand on a CPU where that is declared, in the forms of `options`; else by autograd.
        """
        if x.device.type == "cpu" and self._has_hand_forms:
            with torch.no_grad():
                wanted = x if target is None else target
                out = self.gradients_by_hand(x, wanted, dead, sparsity_scale, options)
            penalty = self._parameter_penalty()
            if penalty is None:
                return out
            penalty.backward()  # type: ignore[no-untyped-call]
            return out.with_penalty(penalty.detach())
        self.zero_grad(set_to_none=True)
        out = self.forward(x, dead, sparsity_scale, target)
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

    def rate(self, name: str) -> float:
        """Learning rate of a parameter, as a multiple of the trial's."""
        del name
        return 1.0

    def observe(self, out: SaeOutput) -> None:
        """Update non-gradient state (thresholds) from a step's output; called after the update."""

    def nested(self, latents: Float[Tensor, "n m"]) -> dict[str, Float[Tensor, "n d"]]:
        """Reconstructions by parts of the dictionary, each by its metric's name."""
        del latents
        return {}

    @abstractmethod
    def saelens(self) -> SaelensForm:
        """Settings and tensors with which SAELens computes the same latents."""
