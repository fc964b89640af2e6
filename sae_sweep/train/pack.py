"""Many trials trained as one program: their latents share a table, their updates are one step."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from sae_sweep.config import Trial
from sae_sweep.kernels import Moments
from sae_sweep.kernels.fused import pages
from sae_sweep.kernels.fused.table import DENSE, PAGE, SPARSE, SPARSE_UP_TO, Table, empty_table
from sae_sweep.sae import AbstractSae
from sae_sweep.train.checkpoint import State
from sae_sweep.train.pack_steps import PackSteps, Part
from sae_sweep.train.resample import is_due, resample_silent
from sae_sweep.train.solo import initial_sae
from sae_sweep.train.source import ActivationSource
from sae_sweep.train.training import LOSSES

FORM_STEPS = 256
"""Updates after which an l1 trial's form is chosen anew, by its l0: its own steps and batches
decide, so that the bits depend on nothing else."""

ROOM = 4
"""sparse l1: room for so many times the mean count of active latents in a token."""


class PackKey(NamedTuple):
    """Trials with equal keys can share a pack."""

    batch_size: int
    precision: str
    reproducible: bool


def pack_key(trial: Trial) -> PackKey:
    """The key of a trial."""
    train = trial.train
    return PackKey(train.batch_size, train.precision, train.reproducible)


class Packed:
    """The training of one trial in a pack."""

    def __init__(self, pack: "Pack", slot: int, trial: Trial, sae: AbstractSae) -> None:
        self.pack = pack
        self.slot = slot
        self.trial = trial
        self.form, self.room = _first_form(trial)
        self._sae = sae

    @torch.no_grad()
    def module(self) -> AbstractSae:
        """The autoencoder as it is now: a copy out of the table."""
        found = pages.parameters(self.pack.table, self.slot)
        for name, parameter in self._sae.named_parameters():
            parameter.copy_(found[name])
        return self._sae

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
        """Nothing: no controller is in a pack."""
        return {}

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        """All of it by name, copied out of the table."""
        return {
            **pages.take(self.pack.table, self.slot),
            "last_half": self.last_half().clone(),
            "diverged_at": self.pack.steps.counters.diverged_at[self.slot].clone(),
            "form": torch.tensor([self.form, self.room]),
        }

    def load(self, state: State) -> None:
        """Take over a checkpoint's tensors."""
        counters, tensors = self.pack.steps.counters, state.tensors
        pages.put(self.pack.table, self.slot, tensors)
        counters.last_half[self.slot] = tensors["last_half"].to(self.pack.device)
        counters.diverged_at[self.slot] = tensors["diverged_at"].to(self.pack.device)
        self.form, self.room = tensors["form"].tolist()

    def steps_together(self, step: int) -> int:
        """Updates from a step until something has to be done in between."""
        every = [self.trial.train.resample_every or FORM_STEPS, FORM_STEPS]
        return min(each - step % each for each in every)

    def between(self, step: int, activations: ActivationSource) -> None:
        """Do what is due after this update: choose the form anew, restart silent latents."""
        if self.trial.sae.fused.k == 0 and step % FORM_STEPS == 0:
            l0 = float(self.pack.steps.counters.l0[self.slot])
            sparse = l0 > 0 and _goes_by_active(self.trial, l0)
            self.form = SPARSE if sparse else DENSE
            self.room = math.ceil(ROOM * l0) if sparse else 1
        if is_due(self.trial, step):
            self._resample(step, activations)

    @torch.no_grad()
    def _resample(self, step: int, activations: ActivationSource) -> None:
        tensors = pages.take(self.pack.table, self.slot)
        names = ("w_enc", "b_enc", "w_dec", "b_dec")
        moments = {
            name: Moments(tensors[f"first.{name}"], tensors[f"second.{name}"]) for name in names
        }
        sae, silent = self.module(), tensors["silent_tokens"]
        resample_silent(self.trial, step, sae, moments, silent, activations)
        pages.put(self.pack.table, self.slot, {**tensors, **dict(sae.named_parameters())})


class Pack:
    """Trials that advance together. A trial's bits do not depend on who else is in it."""

    def __init__(self, activations: ActivationSource, key: PackKey, device: torch.device) -> None:
        self.device = device
        self._activations = activations
        self._operand = torch.bfloat16 if key.precision == "bf16" else torch.float32
        self._page = PAGE
        self.table = self._empty(1, 1)
        self.steps = PackSteps(self.table, activations, key.batch_size, exact=key.reproducible)
        self._members: dict[int, Packed] = {}

    def _empty(self, count: int, slots: int) -> Table:
        return empty_table(
            *(count, slots, self._activations.d),
            page=self._page,
            device=self.device,
            operand=self._operand,
        )

    def reserve(self, trials: Sequence[Trial]) -> None:
        """Make room for trials that are about to join."""
        wanted = sum(pages.pages_needed(trial.n_latents, self._page) for trial in trials)
        more = max(0, wanted - len(pages.free_pages(self.table)))
        slots = max(0, len(trials) - len(pages.free_slots(self.table)))
        if more or slots:
            count, members = len(self.table.page_member), len(self.table.member_pages)
            self.table = pages.grown(self.table, count + more, members + slots)
            self.steps.move(self.table)

    def join(self, trial: Trial) -> Packed:
        """Let a trial in, at its beginning."""
        self.reserve([trial])
        slot = pages.free_slots(self.table)[0]
        sae = initial_sae(trial, self._activations).to(self.device)
        pages.occupy(self.table, slot, trial.n_latents)
        self.steps.company_changed()
        packed = Packed(self, slot, trial, sae)
        fresh = {name: parameter.detach() for name, parameter in sae.named_parameters()}
        state = {
            **fresh,
            **{f"first.{name}": torch.zeros_like(tensor) for name, tensor in fresh.items()},
            **{f"second.{name}": torch.zeros_like(tensor) for name, tensor in fresh.items()},
            "silent_tokens": torch.zeros(trial.n_latents, dtype=torch.int64),
            "last_half": torch.zeros(3, dtype=torch.float64),
            "diverged_at": torch.zeros((), dtype=torch.int64),
            "form": torch.tensor(_first_form(trial)),
        }
        packed.load(State(state, {"step": 0}))
        self._members[slot] = packed
        return packed

    def leave(self, packed: Packed) -> None:
        """Let a trial go; its pages are free for another."""
        pages.vacate(self.table, packed.slot)
        self.steps.company_changed()
        del self._members[packed.slot]

    def update(self, made: Mapping[Packed, int], count: int) -> None:
        """Make `count` more updates of every member.

        Args:
            made: updates made so far, by member.
            count: how many more; none may lie beyond the end of a trial.
        """
        at = {packed.slot: step for packed, step in made.items()}
        goal = {slot: step + count for slot, step in at.items()}
        while behind := [slot for slot, step in at.items() if step < goal[slot]]:
            parts = {slot: self._part(slot, at[slot]) for slot in behind}
            apart = [self._members[slot].steps_together(at[slot]) for slot in behind]
            left = [goal[slot] - at[slot] for slot in behind]
            ahead = min(*apart, *left, self.steps.most(parts))
            for slot, done in self.steps.run(parts, ahead).items():
                at[slot] += done
                packed = self._members[slot]
                if done < ahead:  # more latents were active than there was room for
                    packed.form, packed.room = DENSE, 1
                else:
                    packed.between(at[slot], self._activations)

    def _part(self, slot: int, step: int) -> Part:
        packed = self._members[slot]
        return Part(packed.trial, step, packed.form, packed.room)


def _first_form(trial: Trial) -> tuple[int, int]:
    """The form that a trial begins in, and the active latents there is room for."""
    k = trial.sae.fused.k
    if k and _goes_by_active(trial, float(k)):
        return SPARSE, k
    return DENSE, 1


def _goes_by_active(trial: Trial, active: float) -> bool:
    """Whether to go by active latents where there are so many a token."""
    asked = trial.train.latents
    return asked == "sparse" or (asked == "auto" and active <= SPARSE_UP_TO * trial.n_latents)
