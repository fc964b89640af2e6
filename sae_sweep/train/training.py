"""What a trial's training consists of, wherever its tensors live."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from sae_sweep.sae import AbstractSae
from sae_sweep.train.checkpoint import State

LOSSES = ("loss", "loss_reconstruction", "loss_sparsity", "loss_aux")


@runtime_checkable  # so that signatures can be checked in tests
class Training(Protocol):
    """Parameters, optimiser state and counters of one trial, between two updates."""

    def module(self) -> AbstractSae:
        """The autoencoder as it is now; only to be looked at."""

    def losses(self) -> dict[str, float]:
        """The last update's loss and its parts, by the names in `LOSSES`."""

    def dead(self) -> Bool[Tensor, " m"]:
        """Latents that have been silent for the trial's window."""

    def diverged_at(self) -> int:
        """The first update whose loss was not finite; 0 while there is none."""

    def last_half(self) -> Float64[Tensor, "3"]:
        """Mean of the batch's fvu and l0_fraction, and summed squared deviation of the latter."""

    def controlled(self) -> dict[str, float]:
        """The controller's final state, by metric name; empty without one."""

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """All tensors by name, as in a checkpoint."""

    def load(self, state: State) -> None:
        """Load all tensors."""
