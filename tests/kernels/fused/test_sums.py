"""What a step reports of members, against plain sums and counts."""

import torch
from packed import SEVERAL, Packed, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.sums import TOKENS, count_active
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE


def chosen_by(packed: Packed, pre: list[Tensor]) -> tuple[Tensor, ...]:
    """Start, pre-activations by row, thresholds, last ties; NaN or noise where not to be read."""
    table = packed.table
    tokens, n_rows = len(pre[0]), len(table.silent_tokens)
    by_row = poisoned(tokens, n_rows)
    threshold = poisoned(len(pre), tokens)
    last_tie = torch.full((len(pre), tokens), -1, dtype=torch.int32)
    counts = torch.randint(5, (n_rows,))
    for slot, trial in enumerate(packed.trials):
        own = packed.rows[slot]
        active = latents(pre[slot], trial.k) > 0
        if trial.form == SPARSE:
            pages = own // table.page
            counts[torch.isin(torch.arange(n_rows) // table.page, pages)] = 0
            counts[own] = active.sum(dim=0)
        else:
            mine = torch.isin(torch.arange(n_rows) // table.page, own // table.page)
            by_row[:, mine] = -float("inf")
            by_row[:, own] = pre[slot]
            threshold[slot] = 0
            if trial.k:
                kth = latents(pre[slot], trial.k).where(active, torch.inf).amin(dim=1)
                threshold[slot] = kth.where(active.sum(dim=1) == trial.k, 0)
                ties = active & (pre[slot] == threshold[slot][:, None])
                last_tie[slot] = own.where(ties, -1).amax(dim=1).int()
    start = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    return start, by_row, threshold, last_tie


def latents(pre: Tensor, k: int) -> Tensor:
    if k == 0:
        return pre.relu()
    chosen = reference.top_k(pre, k)
    return torch.zeros_like(pre).scatter(1, chosen.indices, chosen.values)


def test_active_latents_are_counted_and_their_silence_ends() -> None:
    torch.manual_seed(0)
    tokens = TOKENS + 3
    packed = pack(SEVERAL, 3)
    pre = [torch.randint(-4, 3, (tokens, trial.n)).float() for trial in SEVERAL]
    for found in pre:
        found[:, ::3] = -1  # latents that are silent
    before = torch.arange(len(packed.table.silent_tokens))
    packed.table.silent_tokens.copy_(before)
    active = poisoned(len(SEVERAL)).long()
    count_active(packed.table, packed.settings, *chosen_by(packed, pre), active)
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
