"""What training needs of activations: protocols of their sources."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Int16, Int64
from torch import Generator, Tensor

from sae_sweep.activations.order import batch_indices, visits
from sae_sweep.config import TrainConfig


@runtime_checkable  # so that signatures can be checked in tests
class ActivationSource(Protocol):
    """Rows of activations, split by document; rows come normalised."""

    @property
    def d(self) -> int:
        """Width."""

    @property
    def n_train(self) -> int:
        """Rows for training."""

    @property
    def window_rows(self) -> int:
        """Training rows that are shuffled among each other; `n_train` where all are."""

    @property
    def n_validation(self) -> int:
        """Rows for validation."""

    @property
    def mean(self) -> Float32[Tensor, " d"]:
        """Mean of the raw training rows."""

    @property
    def scale(self) -> float:
        """What centred rows are multiplied by, so that the mean norm is sqrt(d)."""

    @property
    def group_names(self) -> Sequence[str]:
        """Names of the groups that rows belong to; empty without groups."""

    def train_rows(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Rows of the training split, normalised."""

    def validation_rows(self, start: int, stop: int) -> Float32[Tensor, "n d"]:
        """Consecutive rows of the validation split, normalised."""

    def validation_groups(self, start: int, stop: int) -> Int16[Tensor, " n"]:
        """Each of these rows' group, as an index into `group_names`."""


@runtime_checkable
class TargetSource(ActivationSource, Protocol):
    """Rows that come with another, which a transcoder reconstructs; targets come normalised."""

    @property
    def target_mean(self) -> Float32[Tensor, " d"] | None:
        """Mean of the raw training targets."""

    @property
    def target_scale(self) -> float | None:
        """What centred targets are multiplied by, so that their mean norm is sqrt(d)."""

    def train_targets(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Targets of training rows."""

    def validation_targets(self, start: int, stop: int) -> Float32[Tensor, "n d"]:
        """Targets of consecutive validation rows."""


@runtime_checkable
class TruthSource(ActivationSource, Protocol):
    """Rows that are sums of known features, where `true_features` says so."""

    @property
    def true_features(self) -> Float[Tensor, "features d"] | None:
        """Directions of the features; None where they are not known."""

    def validation_truth(self, start: int, stop: int) -> Bool[Tensor, "n features"]:
        """Which of them each of consecutive validation rows sums."""


def batch(activations: ActivationSource, train: TrainConfig, step: int) -> Float32[Tensor, "n d"]:
    """Rows that the update after `step` others is made with; they depend on nothing else."""
    indices = batch_indices(
        train.seed_data, step, train.batch_size, activations.n_train, activations.window_rows
    )
    return activations.train_rows(indices)


def targets(activations: ActivationSource, train: TrainConfig, step: int) -> Float32[Tensor, "n d"]:
    """Targets of the rows that `batch` gives for this step."""
    assert isinstance(activations, TargetSource)
    indices = batch_indices(
        train.seed_data, step, train.batch_size, activations.n_train, activations.window_rows
    )
    return activations.train_targets(indices)


def drawn(
    activations: ActivationSource, train: TrainConfig, step: int, most: int, generator: Generator
) -> Float32[Tensor, "n d"]:
    """Random rows, of the window that the update with this number, 1 being the first, ends in."""
    n, window_rows = activations.n_train, activations.window_rows
    position = step * train.batch_size - 1
    (visit,) = visits(position, position + 1, n, window_rows)
    indices = torch.randint(visit.rows, (min(visit.rows, most),), generator=generator)
    return activations.train_rows(visit.first_row + indices)
