"""The updates of a pack, one after another without a word to the host in between."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.kernels.fused.step import NUMBERS, Kernels, Step
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE, Table
from sae_sweep.train.chunk import TrainingRows, numbers, streams
from sae_sweep.train.source import ActivationSource
from sae_sweep.train.training import LOSSES

MOST_STEPS = 256
"""Updates that are told to the device at once."""

AHEAD_BYTES = 2**28
"""Batches that are fetched at once."""

RESIDENT_SHARE = 0.4
"""Share of a device's memory that training rows may take to stay there."""


class Part(NamedTuple):
    """How one member takes part in the next updates."""

    trial: Trial
    step: int
    """Updates made so far."""
    form: int
    """`SPARSE` or `DENSE`."""
    room: int
    """sparse: the most latents that may be active in a token."""


class Counters(NamedTuple):
    """What is known of each slot's training besides its parameters."""

    losses: Float32[Tensor, "slots parts"]
    """`LOSSES` of the last update."""
    l0: Float32[Tensor, " slots"]
    """Of the last update's batch."""
    diverged_at: Int64[Tensor, " slots"]
    """The first update whose loss was not finite."""
    last_half: Float64[Tensor, "slots 3"]
    """Mean of fvu and of l0_fraction, summed squared deviation of the latter."""


class _Ahead(NamedTuple):
    """What the next updates read; on the device, at fixed addresses."""

    at: Int64[Tensor, "1"]
    """Which of them is next."""
    numbers: Float32[Tensor, "steps fields slots"]
    x: Float32[Tensor, "steps streams batch d"]
    first: Int64[Tensor, " slots"]
    """Number of each slot's first update of them."""
    half: Int64[Tensor, " slots"]
    """Updates before the last half of each slot's training."""
    n_latents: Float64[Tensor, " slots"]
    done: Int64[Tensor, " slots"]
    """Updates made of them."""


class PackSteps:
    """Fetches what the next updates need, then launches them; on a GPU as a recorded graph."""

    def __init__(
        self, table: Table, activations: ActivationSource, batch_size: int, *, exact: bool
    ) -> None:
        self._device = table.silent_tokens.device
        self._batch_size = batch_size
        self._exact = exact
        self._d = activations.d
        room = 0
        if self._device.type == "cuda":
            room = int(RESIDENT_SHARE * torch.cuda.get_device_properties(self._device).total_memory)
        self._rows = TrainingRows(activations, self._device, room)
        self.counters = _no_counters(0, self._device)
        self.move(table)

    def move(self, table: Table) -> None:
        """Go on with a table that has more room; every slot keeps its counters."""
        before, self.counters = self.counters, _no_counters(len(table.member_pages), self._device)
        for new, old in zip(self.counters, before, strict=True):
            new[: len(old)] = old
        self._table = table
        self._ahead: _Ahead | None = None
        self._forget_step()

    def company_changed(self) -> None:
        """A member has joined or left: the library's products were of others."""
        if not self._exact:
            self._forget_step()

    def _forget_step(self) -> None:
        self._step: Step | None = None
        self._graphs: dict[Kernels, torch.cuda.CUDAGraph] = {}

    def most(self, parts: Mapping[int, Part]) -> int:
        """Updates that can be fetched at once."""
        bytes_a_step = 4 * self._batch_size * self._d * len(set(streams(_places(parts)).values()))
        return max(1, min(MOST_STEPS, AHEAD_BYTES // bytes_a_step))

    def run(self, parts: Mapping[int, Part], count: int) -> dict[int, int]:
        """Make up to `count` <= `most(parts)` more updates of each member.

        Returns:
            The updates made, by slot: fewer where a token had more active latents than there is
            room for.
        """
        room = max((part.room for part in parts.values()), default=1)
        if self._step is None or room > self._step.room:
            self._forget_step()  # first: there may not be memory for both
            self._step = Step(self._table, self._batch_size, room, exact=self._exact)
        step = self._step
        ahead = self._load(step, parts, count)
        kernels = _kernels(parts)
        for _ in range(count):
            self._launch(step, ahead, kernels)
        bounded = [
            part for part in parts.values() if part.form == SPARSE and part.trial.sae.fused.k == 0
        ]
        if not bounded:  # none can have stopped short: no need to wait for the device
            return dict.fromkeys(parts, count)
        done = ahead.done.tolist()
        return {slot: done[slot] for slot in parts}

    def _load(self, step: Step, parts: Mapping[int, Part], count: int) -> _Ahead:
        """Tell the device what the next `count` updates are."""
        places = _places(parts)
        wanted = streams(places)
        distinct = list(dict.fromkeys(wanted.values()))
        ahead = self._ahead
        if ahead is None or ahead.x.shape[1] < len(distinct) or len(ahead.x) < count:
            ahead = self._ahead = self._room_ahead(len(distinct), self.most(parts))
            self._graphs = {}
        slots = len(self._table.member_pages)
        ahead.numbers[:count] = numbers(places, slots, count).to(self._device)
        ahead.x[:count, : len(distinct)] = self._rows.fetch(distinct, count, self._batch_size)
        ahead.at.zero_()
        ahead.done.zero_()
        for slot, part in parts.items():
            ahead.first[slot] = part.step + 1
            ahead.half[slot] = part.trial.steps // 2
            ahead.n_latents[slot] = part.trial.n_latents
        step.settings.form.fill_(IDLE)
        for slot, part in parts.items():
            train, sae = part.trial.train, part.trial.sae.fused
            step.stream[slot] = distinct.index(wanted[slot])
            step.settings.form[slot] = part.form
            step.settings.k[slot] = sae.k
            step.settings.room[slot] = part.room
            step.settings.unit_rows[slot] = int(part.trial.sae.unit_rows)
            assert train.dead_window_tokens is not None
            step.settings.dead_window[slot] = train.dead_window_tokens
        return ahead

    def _room_ahead(self, distinct: int, steps: int) -> _Ahead:
        slots, device = len(self._table.member_pages), self._device
        whole = torch.zeros(slots, dtype=torch.int64, device=device)
        return _Ahead(
            at=torch.zeros(1, dtype=torch.int64, device=device),
            numbers=torch.zeros(steps, len(NUMBERS), slots, device=device),
            x=torch.zeros(steps, distinct, self._batch_size, self._d, device=device),
            first=whole.clone(),
            half=whole.clone(),
            n_latents=whole.double(),
            done=whole,
        )

    def _launch(self, step: Step, ahead: _Ahead, kernels: Kernels) -> None:
        """Make one update; on a GPU the second of its kind is recorded, and replayed from then."""
        if self._device.type != "cuda":
            self._update(step, ahead, kernels)
        elif kernels in self._graphs:
            self._graphs[kernels].replay()
        else:
            self._update(step, ahead, kernels)  # compiles what a recording could not
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._update(step, ahead, kernels)
            self._graphs[kernels] = graph

    @torch.no_grad()
    def _update(self, step: Step, ahead: _Ahead, kernels: Kernels) -> None:
        torch.index_select(ahead.numbers, 0, ahead.at, out=step.numbers)
        sums = step.run(ahead.x, ahead.at, kernels)
        active = step.settings.form != IDLE
        reconstruction = sums.squared_error / self._batch_size
        loss = reconstruction + sums.penalty + sums.aux
        losses = torch.stack([loss, reconstruction, sums.penalty, sums.aux], dim=1)
        l0 = sums.active / self._batch_size
        counters = self.counters
        counters.losses.copy_(torch.where(active[:, None], losses, counters.losses))
        counters.l0.copy_(torch.where(active, l0, counters.l0))
        number = ahead.first + ahead.at
        bad = active & ~loss.isfinite() & (counters.diverged_at == 0)
        counters.diverged_at.copy_(torch.where(bad, number, counters.diverged_at))
        late = (number - ahead.half).double()
        fvu = sums.squared_error.double() / sums.x_square.double()
        density = l0.double() / ahead.n_latents
        fvu_mean, density_mean, deviation = counters.last_half.unbind(dim=1)
        step_away = density - density_mean  # Welford's update: exactly 0 where l0 is constant
        moved = density_mean + step_away / late
        later = torch.stack(
            [
                fvu_mean + (fvu - fvu_mean) / late,
                moved,
                deviation + step_away * (density - moved),
            ],
            dim=1,
        )
        counts = (active & (late > 0))[:, None]
        counters.last_half.copy_(torch.where(counts, later, counters.last_half))
        ahead.done.add_(active)
        ahead.at.add_(1)


def _kernels(parts: Mapping[int, Part]) -> Kernels:
    forms = {part.form for part in parts.values()}
    aux = any(part.trial.sae.fused.aux_coeff > 0 for part in parts.values())
    return Kernels(sparse=SPARSE in forms, dense=DENSE in forms, aux=aux)


def _places(parts: Mapping[int, Part]) -> dict[int, tuple[Trial, int]]:
    return {slot: (part.trial, part.step) for slot, part in parts.items()}


def _no_counters(slots: int, device: torch.device) -> Counters:
    return Counters(
        losses=torch.zeros(slots, len(LOSSES), device=device),
        l0=torch.zeros(slots, device=device),
        diverged_at=torch.zeros(slots, dtype=torch.int64, device=device),
        last_half=torch.zeros(slots, 3, dtype=torch.float64, device=device),
    )
