"""Members in one table: their pages interleaved, out of the order of slots, with gaps."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae_sweep.kernels import SparseLatents
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE, Settings, Table, empty_table

PAGE = 16
NAN = float("nan")


class Trial(NamedTuple):
    """What a member brings along; all of it follows from these."""

    n: int
    k: int
    form: int = SPARSE
    seed: int = 0
    given_room: int | None = None

    @property
    def room(self) -> int:
        """For what a token may choose: by default all that it can."""
        return self.given_room or self.k or self.n


class Packed(NamedTuple):
    table: Table
    settings: Settings
    trials: list[Trial]
    rows: list[Tensor]
    """Each member's rows, by latent."""

    def selected(self, slot: int, rows: Tensor, values: Tensor) -> SparseLatents:
        """A `SPARSE` member's choice, by its own latents; padding becomes zeros of latent 0."""
        here = rows[slot].long()
        latents = torch.full((self.table.page * len(self.table.page_member) + 1,), -1)
        latents[self.rows[slot]] = torch.arange(self.trials[slot].n)
        indices = latents[here]
        padded = here == len(latents) - 1
        assert ((indices >= 0) | padded).all()
        return SparseLatents(values[slot], indices.where(~padded, 0))


SOLO = [Trial(37, 3, seed=1)]
SEVERAL = [
    Trial(37, 3, seed=1),
    Trial(5, 2, IDLE, seed=2),
    Trial(16, 16, seed=3),
    Trial(70, 9, DENSE, seed=4),
    Trial(21, 0, DENSE, seed=5),
    Trial(33, 1, seed=6),
]


def pack(trials: list[Trial], d: int, seed: int = 0) -> Packed:
    """Put members into a table with two free pages; what is nobody's is NaN."""
    pages_of = [-(-trial.n // PAGE) for trial in trials]
    pages = sum(pages_of) + 2
    shuffled = torch.randperm(pages, generator=torch.Generator().manual_seed(seed)).tolist()
    table = empty_table(pages, len(trials), d, page=PAGE, device="cpu")
    for tensor in (*table.weights, *table.biases):
        tensor.fill_(NAN)
    rows = []
    for slot, trial in enumerate(trials):
        mine = sorted(shuffled.pop() for _ in range(pages_of[slot]))
        for i, page in enumerate(mine):
            table.page_member[page] = slot
            table.page_latents[page] = min(PAGE, trial.n - i * PAGE)
            table.member_pages[slot, i] = page
        own = torch.cat([torch.arange(page * PAGE, (page + 1) * PAGE) for page in mine])[: trial.n]
        generator = torch.Generator().manual_seed(trial.seed)
        table.weights.w_enc[own] = torch.randn(trial.n, d, generator=generator)
        table.weights.b_enc[own] = torch.randn(trial.n, generator=generator)
        table.weights.w_dec[own] = torch.randn(trial.n, d, generator=generator)
        table.biases.b_dec[slot] = torch.randn(d, generator=generator)
        rows.append(own)
    return Packed(table, settings_of(trials), trials, rows)


def settings_of(trials: list[Trial]) -> Settings:
    made = {name: torch.full((len(trials),), NAN) for name in Settings._fields}
    for name in ("form", "k", "room"):
        made[name] = torch.tensor([getattr(trial, name) for trial in trials], dtype=torch.int32)
    return Settings(**made)


def batches(trials: list[Trial], tokens: int, d: int) -> Tensor:
    """Each member's own batch: it does not depend on who else is there."""
    generators = [torch.Generator().manual_seed(100 + trial.seed) for trial in trials]
    return torch.stack([torch.randn(tokens, d, generator=generator) for generator in generators])


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An output before it is set: what is left as it was shows."""
    return torch.full(shape, NAN if dtype.is_floating_point else -77, dtype=dtype)
