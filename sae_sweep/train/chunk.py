"""What a pack's next updates are told, computed ahead on the host and read on the device."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from sae_sweep.activations.order import rows_between
from sae_sweep.config import Trial
from sae_sweep.kernels.fused.step import NUMBERS
from sae_sweep.train.schedule import lr_scale, sparsity_scale
from sae_sweep.train.source import ActivationSource


class Stream(NamedTuple):
    """One sequence of batches; members that are equally far in it share it."""

    seed: int
    step: int
    """Updates made before the next one."""


def numbers_at(trial: Trial, step: int) -> list[float]:
    """The values of `NUMBERS` for the update with this number, 1 being the first."""
    train, sae = trial.train, trial.sae.fused
    lr = train.lr * lr_scale(step, trial.steps, train.lr_warmup_fraction, train.lr_decay_fraction)
    acting = sparsity_scale(step, trial.steps, train.l1_warmup_fraction)
    return [
        lr / (1 - train.beta1**step),
        (1 - train.beta2**step) ** 0.5,
        train.beta1,
        train.beta2,
        1 - train.beta1,
        1 - train.beta2,
        sae.penalty * acting / train.batch_size,
        sae.aux_coeff,
    ]


def numbers(
    members: Mapping[int, tuple[Trial, int]], slots: int, count: int
) -> Float32[Tensor, "steps fields slots"]:
    """`NUMBERS` for the next `count` updates of every slot; 0 where a slot takes no part.

    Args:
        members: trial, and updates made so far, by slot.
        slots: of the table.
        count: updates ahead.
    """
    found = torch.zeros(count, len(NUMBERS), slots)
    for slot, (trial, step) in members.items():
        rows = [numbers_at(trial, step + ahead) for ahead in range(1, count + 1)]
        found[:, :, slot] = torch.tensor(rows)
    return found


def streams(members: Mapping[int, tuple[Trial, int]]) -> dict[int, Stream]:
    """Which batches each slot is to see."""
    return {slot: Stream(trial.train.seed_data, step) for slot, (trial, step) in members.items()}


class TrainingRows:
    """Training rows on a device: all of them where they fit, fetched ahead where not."""

    def __init__(
        self, activations: ActivationSource, device: torch.device, resident_bytes: int
    ) -> None:
        """Bring the rows to the device if they take no more than `resident_bytes`."""
        self._activations = activations
        self._device = device
        n = activations.n_train
        self._resident: Tensor | None = None
        if 4 * n * activations.d <= resident_bytes:
            everything = torch.arange(n)
            parts = [
                activations.train_rows(part).to(device) for part in torch.split(everything, 2**16)
            ]
            self._resident = torch.cat(parts)

    def fetch(
        self, wanted: Sequence[Stream], count: int, batch_size: int
    ) -> Float32[Tensor, "steps streams batch d"]:
        """The batches of the next `count` updates of each stream."""
        shape = (count, batch_size, self._activations.d)
        found = [self._rows(self._indices(one, count, batch_size)).view(shape) for one in wanted]
        return torch.stack(found, dim=1)

    def _indices(self, stream: Stream, count: int, batch_size: int) -> Int64[Tensor, " rows"]:
        device = self._device if self._resident is not None else "cpu"
        first, last = stream.step * batch_size, (stream.step + count) * batch_size
        return rows_between(stream.seed, first, last, self._activations.n_train, device)

    def _rows(self, indices: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows d"]:
        if self._resident is not None:
            return self._resident[indices]
        return self._activations.train_rows(indices).to(self._device)
