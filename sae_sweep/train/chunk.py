"""Per-step hyperparameters and batches of a pack, staged on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from sae_sweep.activations.order import rows_between
from sae_sweep.config import Trial
from sae_sweep.kernels.fused.ahead import NUMBERS, Ahead
from sae_sweep.kernels.fused.memory import FETCHED_BYTES
from sae_sweep.kernels.fused.order import find_order
from sae_sweep.train.controller import control_at
from sae_sweep.train.schedule import lr_scale, sparsity_scale
from sae_sweep.train.source import ActivationSource


class Stream(NamedTuple):
    """One sequence of batches, shared by members at the same step of it."""

    seed: int
    step: int
    """Updates made so far."""


def numbers_at(trial: Trial, step: int) -> tuple[float, ...]:
    """The values of `NUMBERS` for the update with this number, 1 being the first."""
    train, sae = trial.train, trial.sae.fused
    lr = train.lr * lr_scale(step, trial.steps, train.lr_warmup_fraction, train.lr_decay_fraction)
    acting = sparsity_scale(step, trial.steps, train.l1_warmup_fraction)
    return (
        lr / (1 - train.beta1**step),
        (1 - train.beta2**step) ** 0.5,
        train.beta1,
        train.beta2,
        1 - train.beta1,
        1 - train.beta2,
        sae.penalty * acting / train.batch_size,
        *(sae.aux_coeff, sae.usage_coeff, sae.usage_target, sae.often_coeff, sae.often_limit),
        lr * sae.threshold_rate / (1 - train.beta1**step),
        *(sae.bandwidth, sae.pre_act_coeff / train.batch_size),
        sae.l0_coeff * (trial.source.d if sae.l0_goal else 1) * acting,
        sae.l0_goal,
        *(control_at(trial, step) if trial.controlled else (0.0,) * 5),
    )


def numbers(trial: Trial, step: int, count: int) -> np.ndarray:
    """`NUMBERS` of the next `count` updates after `step`, [steps, fields]."""
    rows = [numbers_at(trial, step + ahead) for ahead in range(1, count + 1)]
    return np.array(rows, dtype=np.float32).reshape(count, len(NUMBERS))


class TrainingRows:
    """Training rows on a device: all of them where they fit, fetched ahead where not."""

    def __init__(
        self,
        activations: ActivationSource,
        device: torch.device,
        batch_size: int,
        resident_bytes: int,
    ) -> None:
        """Bring the rows to the device if they take no more than `resident_bytes`."""
        self._activations = activations
        self._device = device
        self._batch_size = batch_size
        n, d = activations.n_train, activations.d
        # rows that come in windows are not all there
        self.resident = activations.window_rows >= n and 4 * n * d <= resident_bytes
        if self.resident:
            self._everything = torch.empty(n, d, device=device)
            for part in torch.split(torch.arange(n), 2**16):
                self._everything[part[0] : part[-1] + 1] = activations.train_rows(part).to(device)
        self._fetched: Fetched | None = None
        self._capacity = max(batch_size, FETCHED_BYTES // (4 * d))
        """Rows of a buffer where they are fetched."""

    def reserve(self, n_streams: int) -> None:
        """Make room for a batch of each of so many streams; `rows` may be another tensor then.

        If memory runs out, `rows` is there again after the next call that has room.
        """
        capacity = max(self._capacity, n_streams * self._batch_size)
        if self.resident or (self._fetched is not None and self._capacity == capacity):
            return
        self._fetched = None  # first: there may not be memory for both
        self._fetched = Fetched(self._activations, self._device, capacity)
        self._capacity = capacity

    @property
    def rows(self) -> Float32[Tensor, "rows d"]:
        """Training rows, all of them or those that are being trained on."""
        return self._everything if self.resident else self._buffers.rows

    @property
    def _buffers(self) -> "Fetched":
        assert self._fetched is not None, "reserved before"
        return self._fetched

    def most(self, n_streams: int) -> int:
        """Updates whose batches can be there at once."""
        if self.resident:
            return 2**31
        return max(1, self._capacity // (n_streams * self._batch_size))

    def stage(self, streams: Sequence[Stream], count: int, ahead: Ahead) -> None:
        """Stage where in `rows` the batches of the next `count` updates of each stream lie."""
        if self.resident:
            named = ahead.views(len(streams))
            extent = count, len(streams), self._activations.n_train
            find_order(named["seed"], named["begins"], ahead.order, extent)
            return
        batch = self._batch_size
        wanted = [self._rows_of(one, count).view(count, batch) for one in streams]
        first = self._buffers.bring(torch.stack(wanted, dim=1).flatten())
        places = torch.arange(first, first + count * len(streams) * batch, device=self._device)
        ahead.order[:count, : len(streams)] = places.view(count, len(streams), batch)

    def _rows_of(self, stream: Stream, count: int) -> Int64[Tensor, " rows"]:
        first, last = stream.step * self._batch_size, (stream.step + count) * self._batch_size
        n, window_rows = self._activations.n_train, self._activations.window_rows
        return rows_between(stream.seed, first, last, n, window_rows=window_rows)

    def launched(self) -> None:
        """Record that all updates that read what was staged last are launched."""
        if not self.resident:
            self._buffers.launched()


class Fetched:
    """Two buffers of rows: training reads one while the other is filled."""

    def __init__(self, activations: ActivationSource, device: torch.device, capacity: int) -> None:
        self._activations = activations
        self._half = 0
        self._cuda = device.type == "cuda"
        self.capacity = capacity
        self.rows = torch.empty(2 * self.capacity, activations.d, device=device)
        if self._cuda:
            self._pinned = torch.empty(2, self.capacity, activations.d, pin_memory=True)
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # `rows` may lie where something stood that launched work still reads
            self._copies.wait_stream(torch.cuda.current_stream(device))
            self._sent, self._read = events(), events()

    def bring(self, indices: Int64[Tensor, " n"]) -> int:
        """Copy rows into the free buffer; returns where in `rows` they begin."""
        self._half = 1 - self._half
        first = self._half * self.capacity
        into = self.rows[first : first + len(indices)]
        if not self._cuda:
            into.copy_(self._activations.train_rows(indices))
            return first
        sent, read = self._sent[self._half], self._read[self._half]
        sent.synchronize()  # what was sent from here before has arrived
        pinned = self._pinned[self._half][: len(indices)]
        pinned.copy_(self._activations.train_rows(indices))
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(read)
            into.copy_(pinned, non_blocking=True)
            sent.record()
        torch.cuda.current_stream().wait_event(sent)
        return first

    def launched(self) -> None:
        """Record that all updates that read the rows copied last are launched."""
        if self._cuda:
            self._read[self._half].record()


def events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """One per buffer."""
    return torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]
