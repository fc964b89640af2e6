"""Many trials trained as one program: their latents share a table, their updates are one step."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.kernels import Moments
from sae_sweep.kernels.fused import pages
from sae_sweep.kernels.fused.memory import ROOM
from sae_sweep.kernels.fused.table import (
    DENSE,
    MOST_STEPS,
    PAGE,
    SPARSE,
    Table,
    empty_table,
    sparse_up_to,
)
from sae_sweep.sae import AbstractSae
from sae_sweep.train.checkpoint import State
from sae_sweep.train.controller import L0Controller
from sae_sweep.train.device import is_out_of_memory, with_room, without_frames
from sae_sweep.train.pack_steps import PackSteps, Part
from sae_sweep.train.resample import is_due, resample_silent
from sae_sweep.train.solo import initial_sae
from sae_sweep.train.source import ActivationSource
from sae_sweep.train.training import LOSSES

Made = TypeVar("Made")

logger = logging.getLogger(__name__)

FORM_STEPS = 1024
"""Updates after which a trial's form is chosen anew where the count of a token's active latents
varies, by its l0: its own steps and batches decide, so that the bits depend on nothing else.
Members at different steps interrupt each other here, 12 of them every 85 steps; a trial that could
go by active latents earlier goes by whole rows until then, 1 % of a training of 100,000 steps."""


class PackKey(NamedTuple):
    """Trials with equal keys can share a pack."""

    batch_size: int
    precision: str
    reproducible: bool
    spans: int
    """Nested dictionaries."""


def pack_key(trial: Trial) -> PackKey:
    """The key of a trial."""
    train, spans = trial.train, len(trial.sae.spans)
    return PackKey(train.batch_size, train.precision, train.reproducible, spans)


class Packed:
    """The training of one trial in a pack."""

    def __init__(self, pack: "Pack", slot: int, trial: Trial, sae: AbstractSae) -> None:
        self.pack = pack
        self.slot = slot
        self.trial = trial
        self.step = 0
        """Updates made, as of the last call of `Pack.update`."""
        self.form, self.room = _first_form(trial)
        self._sae = sae

    @torch.no_grad()
    def module(self) -> AbstractSae:
        """The autoencoder as it is now: a copy out of the table."""
        found = pages.parameters(self.pack.table, self.slot)
        for name, parameter in self._sae.named_parameters():
            parameter.copy_(found[name])
        for name, buffer in self._buffers().items():
            self._sae.get_buffer(name).copy_(buffer)
        return self._sae

    def _buffers(self) -> dict[str, Tensor]:
        """Threshold and batch count of the batch selection, views; empty without it."""
        if not self.trial.sae.fused.batch_k:
            return {}
        threshold, batches = self.pack.steps.counters.in_use[self.slot]
        return {"threshold": threshold, "batches": batches}

    def losses(self) -> dict[str, float]:
        """The last update's loss and its parts."""
        values = self.pack.steps.counters.losses[self.slot].tolist()
        return dict(zip(LOSSES, values, strict=True))

    def dead(self) -> Bool[Tensor, " m"]:
        """Latents that have been silent for the trial's window."""
        table, window = self.pack.table, self.trial.train.dead_window_tokens
        assert window is not None
        return table.silent_tokens[pages.row_ids(table, self.slot)] >= window

    def diverged_at(self) -> int:
        """The first update whose loss was not finite; 0 while there is none."""
        return int(self.pack.steps.counters.diverged_at[self.slot])

    def last_half(self) -> Float64[Tensor, "3"]:
        """Mean of the batch's fvu and l0_fraction, and summed squared deviation of the latter."""
        return self.pack.steps.counters.last_half[self.slot]

    def controlled(self) -> dict[str, float]:
        """The controller's final state, by metric name; empty without one."""
        if not self.trial.controlled:
            return {}
        state = self.pack.steps.counters.control[self.slot]
        return L0Controller(self.trial, self.pack.device, state).found()

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """All tensors by name, copied out of the table."""
        counters, controlled = self.pack.steps.counters, self.trial.controlled
        taken = self.pack.with_room(lambda: pages.take(self.pack.table, self.slot, "cpu"))
        if not self.trial.sae.fused.bandwidth:
            taken = {name: each for name, each in taken.items() if name not in pages.THRESHOLD}
        return {
            **taken,
            **{name: each.cpu().clone() for name, each in self._buffers().items()},
            "last_half": self.last_half().clone(),
            "diverged_at": counters.diverged_at[self.slot].clone(),
            "form": torch.tensor([self.form, self.room]),
            **({"l0_controller": counters.control[self.slot].clone()} if controlled else {}),
        }

    def load(self, state: State) -> None:
        """Load a checkpoint's tensors."""
        counters, tensors, buffers = self.pack.steps.counters, state.tensors, self._buffers()
        # a threshold of all latents is no parameter of each
        rows = {name: each for name, each in tensors.items() if name not in buffers}
        pages.put(self.pack.table, self.slot, rows)
        counters.last_half[self.slot] = tensors["last_half"].to(self.pack.device)
        counters.diverged_at[self.slot] = tensors["diverged_at"].to(self.pack.device)
        for name, buffer in buffers.items():
            buffer.copy_(tensors[name])
        if self.trial.controlled:
            counters.control[self.slot] = tensors["l0_controller"].to(self.pack.device)
        self.form, self.room = tensors["form"].tolist()

    def steps_together(self) -> int:
        """Updates until the host has to act."""
        if self.trial.sae.fused.one_form:
            return MOST_STEPS
        every = self.trial.train.resample_every or FORM_STEPS, FORM_STEPS
        return min(each - self.step % each for each in every)

    def between(self, activations: ActivationSource) -> None:
        """Act where due after this update: choose the form anew, resample silent latents.

        Where it raises, nothing of the autoencoder has changed.
        """
        if not self.trial.sae.fused.one_form and self.step % FORM_STEPS == 0:
            l0 = float(self.pack.steps.counters.l0[self.slot])
            sparse = l0 > 0 and _goes_by_active(self.trial, l0)
            self.form = SPARSE if sparse else DENSE
            self.room = math.ceil(ROOM * l0) if sparse else 1
        if is_due(self.trial, self.step):
            resampled = self.pack.with_room(partial(self._resampled, activations))
            self.pack.with_room(lambda: pages.put(self.pack.table, self.slot, resampled))

    @torch.no_grad()
    def _resampled(self, activations: ActivationSource) -> dict[str, Tensor]:
        tensors = pages.take(self.pack.table, self.slot)
        names = ("w_enc", "b_enc", "w_dec", "b_dec")
        moments = {
            name: Moments(tensors[f"first.{name}"], tensors[f"second.{name}"]) for name in names
        }
        sae, silent = self.module(), tensors["silent_tokens"]
        resample_silent(self.trial, self.step, sae, moments, silent, activations)
        return {**tensors, **dict(sae.named_parameters())}


class Pack:
    """Trials that advance together. A trial's bits do not depend on who else is in it."""

    def __init__(self, activations: ActivationSource, key: PackKey, device: torch.device) -> None:
        self.device = device
        self._activations = activations
        self._operand = torch.bfloat16 if key.precision == "bf16" else torch.float32
        self._page = PAGE
        self.table = self._empty(1, 1)
        self.steps = PackSteps(
            *(self.table, activations, key.batch_size), exact=key.reproducible, spans=key.spans
        )
        self._members: dict[int, Packed] = {}

    def _empty(self, count: int, slots: int) -> Table:
        return empty_table(
            *(count, slots, self._activations.d),
            page=self._page,
            device=self.device,
            operand=self._operand,
        )

    def reserve(self, trials: Sequence[Trial]) -> None:
        """Make room for trials about to join; if memory runs out, nothing has changed."""
        wanted = sum(pages.pages_needed(trial.sae.spans, self._page) for trial in trials)
        more = max(0, wanted - len(pages.free_pages(self.table)))
        slots = max(0, len(trials) - len(pages.free_slots(self.table)))
        if more or slots:
            count, members = len(self.table.page_member), len(self.table.member_pages)
            self.steps.release()  # the old table and the new one at once are enough
            self.table = pages.grown(self.table, count + more, members + slots)
            self.steps.move(self.table)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # the old table's: later tables do not fit into it

    def compact(self) -> None:
        """Free the memory that no member needs; each keeps its slot and its bits."""
        slots = {slot: packed.trial.sae.spans for slot, packed in self._members.items()}
        wanted = sum(pages.pages_needed(spans, self._page) for spans in slots.values())
        size = max(slots, default=0) + 1  # slots behind the last member's go
        if (wanted, size) == (len(self.table.page_member), len(self.table.member_pages)):
            return
        self.steps.release()

        def copied(take: Callable[[int], dict[str, Tensor]]) -> Table:
            small = self._empty(max(1, wanted), size)
            for slot, spans in slots.items():
                pages.occupy(small, slot, spans)
                pages.put(small, slot, take(slot))
            return small

        small: Table | None = None
        try:
            small = copied(partial(pages.take, self.table))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if small is None:  # there is no memory for both: by way of the host
            kept = {slot: pages.take(self.table, slot, "cpu") for slot in slots}
            self.table = self._empty(1, size)
            self.steps.move(self.table)
            small = copied(kept.__getitem__)
        self.table = small
        self.steps.move(small)

    def join(self, trial: Trial, *, resumes: bool = False) -> Packed:
        """Add a trial, at its start or, where it `resumes`, to be loaded from a state.

        Where that fails the others are as they were.
        """
        self.reserve([trial])
        slot = pages.free_slots(self.table)[0]
        sae = initial_sae(trial, self._activations, self.device, resumes=resumes)
        pages.occupy(self.table, slot, trial.sae.spans)
        try:
            pages.put(self.table, slot, dict(sae.named_parameters()))
        except Exception:
            pages.vacate(self.table, slot)
            raise
        self.steps.company_changed()
        self.steps.forget(slot)
        packed = self._members[slot] = Packed(self, slot, trial, sae)
        return packed

    def leave(self, packed: Packed) -> None:
        """Remove a trial and free its pages."""
        pages.vacate(self.table, packed.slot)
        self.steps.company_changed()
        del self._members[packed.slot]

    def with_room(self, work: Callable[[], Made]) -> Made:
        """Do some work; where memory runs out, once more in what the next step would take."""
        return with_room(work, self.steps.release)

    def update(self, made: Mapping[Packed, int], count: int) -> dict[Packed, Exception]:
        """Make up to `count` more updates of every member; `Packed.step` tells how many.

        Args:
            made: updates made so far, by member.
            count: how many more; none may lie beyond the end of a trial.

        Returns:
            Members whose work between two updates failed, and why: they cannot go on, and the
            others may have made fewer updates.
        """
        failures: dict[Packed, Exception] = {}
        for packed, step in made.items():
            packed.step = step
        while not failures and (
            behind := [packed for packed in made if packed.step < made[packed] + count]
        ):
            parts = {one.slot: Part(one.trial, one.step, one.form, one.room) for one in behind}
            apart = [one.steps_together() for one in behind]
            left = [made[one] + count - one.step for one in behind]
            ahead = min(*apart, *left, self.steps.most(parts))
            made_now = self.steps.run(parts, ahead)
            for packed in behind:  # all of them, before one of them can fail
                packed.step += made_now[packed.slot]
            for packed in behind:
                if made_now[packed.slot] < ahead:  # more latents were active than there is room for
                    packed.form, packed.room = DENSE, 1
                    continue
                try:
                    packed.between(self._activations)
                except Exception as error:  # the member's boundary: the others go on
                    logger.debug("trial %s failed", packed.trial.uid, exc_info=True)
                    failures[packed] = without_frames(error)
        return failures


def _first_form(trial: Trial) -> tuple[int, int]:
    """The form that a trial begins in, and the active latents there is room for."""
    told = trial.sae.fused
    active = told.k or told.batch_k
    if active and _goes_by_active(trial, float(active)):
        return SPARSE, active * (ROOM if told.batch_k else 1)
    return DENSE, 1


def _goes_by_active(trial: Trial, active: float) -> bool:
    """Whether to go by active latents where there are so many per token."""
    asked = trial.train.latents
    share = sparse_up_to(trial.train.batch_size, trial.source.d, trial.n_latents)
    return asked == "sparse" or (asked == "auto" and active <= share * trial.n_latents)
