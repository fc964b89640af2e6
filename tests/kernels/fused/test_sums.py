"""What a step reports of members, against plain sums and counts."""

import torch
from packed import SEVERAL, SOLO, Packed, Trial, batches, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.sums import CHUNK, count_active, member_sums
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE


def sums(packed: Packed, tokens: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = batches(packed.trials, tokens, d)
    squared_error = x.abs().sum(dim=2)
    shape = (len(packed.trials),)
    error, energy = poisoned(*shape).double(), poisoned(*shape).double()
    centred = x - packed.table.biases.b_dec[:, None]
    member_sums(packed.table, packed.settings, centred, squared_error, error, energy)
    return x, squared_error, error, energy


def test_errors_and_energies_are_summed_by_member() -> None:
    packed = pack(SEVERAL, 7)
    x, squared_error, error, energy = sums(packed, 9, 7)
    acting = torch.tensor([trial.form != IDLE for trial in SEVERAL])
    expected = squared_error.double().sum(dim=1)
    torch.testing.assert_close(error[acting], expected[acting], rtol=1e-14, atol=0)
    expected = x.double().square().sum(dim=(1, 2))
    torch.testing.assert_close(energy[acting], expected[acting], rtol=1e-6, atol=0)
    assert error[~acting].isnan().all()
    assert energy[~acting].isnan().all()


def test_more_tokens_than_are_added_at_a_time_all_count() -> None:
    packed = pack([Trial(3, 1)], 2)
    _, squared_error, error, _ = sums(packed, CHUNK + 5, 2)
    torch.testing.assert_close(error, squared_error.double().sum(dim=1), rtol=1e-14, atol=0)


def test_a_members_sums_have_the_same_bits_alone() -> None:
    _, _, error, energy = sums(pack(SEVERAL, 24), 9, 24)
    _, _, error_alone, energy_alone = sums(pack(SOLO, 24, seed=3), 9, 24)
    assert torch.equal(error[0], error_alone[0])
    assert torch.equal(energy[0], energy_alone[0])


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
