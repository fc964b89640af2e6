"""What a step reports of members, against plain sums and counts."""

import torch
from packed import SEVERAL, Packed, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.sums import count_active
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE


def counted_by(packed: Packed, pre: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Starts of sparse rows and counts of dense ones; noise where not to be read."""
    n_rows = len(packed.table.silent_tokens)
    sparse, dense = torch.randint(5, (2, n_rows))
    for slot, trial in enumerate(packed.trials):
        own = packed.rows[slot]
        count = (latents(pre[slot], trial.k) > 0).sum(dim=0)
        if trial.form == SPARSE:
            pages = own // packed.table.page
            sparse[torch.isin(torch.arange(n_rows) // packed.table.page, pages)] = 0
            sparse[own] = count
        else:
            dense[own] = count
    return torch.cat([torch.zeros(1), sparse.cumsum(0)]).int(), dense.int()


def latents(pre: Tensor, k: int) -> Tensor:
    if k == 0:
        return pre.relu()
    chosen = reference.top_k(pre, k)
    return torch.zeros_like(pre).scatter(1, chosen.indices, chosen.values)


def test_active_latents_are_counted_and_their_silence_ends() -> None:
    torch.manual_seed(0)
    tokens = 35
    packed = pack(SEVERAL, 3)
    pre = [torch.randint(-4, 3, (tokens, trial.n)).float() for trial in SEVERAL]
    for found in pre:
        found[:, ::3] = -1  # latents that are silent
    before = torch.arange(len(packed.table.silent_tokens))
    packed.table.silent_tokens.copy_(before)
    active = poisoned(len(SEVERAL)).long()
    count_active(packed.table, packed.settings, tokens, *counted_by(packed, pre), active)
    expected = before.clone()
    for slot, trial in enumerate(SEVERAL):
        if trial.form == IDLE:
            assert active[slot] == 0
            continue
        own = packed.rows[slot]
        fired = latents(pre[slot], trial.k) > 0
        assert active[slot] == fired.sum()
        expected[own] = torch.where(fired.any(dim=0), 0, before[own] + tokens)
    assert torch.equal(packed.table.silent_tokens, expected)
    assert {trial.form for trial in SEVERAL} == {SPARSE, DENSE, IDLE}
