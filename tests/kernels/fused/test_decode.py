"""Reconstruction errors against the reference in float64."""

import pytest
import torch
from packed import SEVERAL, SOLO, Packed, Trial, batches, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import SparseLatents, reference
from sae_sweep.kernels.fused.decode import AT_ONCE, decode_error
from sae_sweep.kernels.fused.table import SPARSE


def choices(packed: Packed, tokens: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Rows and values as `select` leaves them, some tokens with fewer than k."""
    no_row = len(packed.table.silent_tokens)
    shape = (len(packed.trials), tokens, capacity)
    rows = torch.full(shape, no_row, dtype=torch.int32)
    values = torch.zeros(shape)
    for slot, trial in enumerate(packed.trials):
        generator = torch.Generator().manual_seed(trial.seed)
        most = min(trial.k or trial.n, capacity)
        for token in range(tokens):
            active = most if token else most // 2
            chosen = torch.randperm(trial.n, generator=generator)[:active].sort().values
            rows[slot, token, :active] = packed.rows[slot][chosen].int()
            values[slot, token, :active] = torch.rand(active, generator=generator) + 0.1
    return rows, values


def run(packed: Packed, tokens: int, d: int, capacity: int) -> tuple[Tensor, ...]:
    """Input, rows, values, gradient by x_hat, squared errors."""
    x = batches(packed.trials, tokens, d)
    rows, values = choices(packed, tokens, capacity)
    g, squared_error = poisoned(*x.shape), poisoned(*x.shape[:2])
    centred = x - packed.table.biases.b_dec[:, None]
    decode_error(packed.table, packed.settings, rows, values, centred, g, squared_error)
    return x, rows, values, g, squared_error


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert (found.double() - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("tokens", "d"), [(1, 1), (4, 5), (3, 64), (5, 600)])
def test_the_error_and_its_gradient_are_the_references(tokens: int, d: int) -> None:
    trials = [*SEVERAL, Trial(30, 0, seed=7), Trial(30, 2 * AT_ONCE + 1, seed=8)]
    packed = pack(trials, d)
    x, rows, values, g, squared_error = run(packed, tokens, d, capacity=20)
    for slot, trial in enumerate(trials):
        if trial.form != SPARSE:
            assert g[slot].isnan().all()
            assert squared_error[slot].isnan().all()
            continue
        latents = packed.selected(slot, rows, values)
        chosen = SparseLatents(latents.values.double(), latents.indices)
        w_dec = packed.table.weights.w_dec[packed.rows[slot]].double()
        x_hat = reference.sparse_decode(chosen, w_dec, packed.table.biases.b_dec[slot].double())
        x_hat.requires_grad_()
        loss = reference.reconstruction_loss(x[slot].double(), x_hat)
        (expected,) = torch.autograd.grad(loss, x_hat)
        assert_near(g[slot], expected)
        assert_near(squared_error[slot], (x_hat - x[slot]).square().sum(dim=1).detach())


def test_a_member_has_the_same_bits_alone_and_whatever_room_lists_have() -> None:
    packed, alone = pack(SEVERAL, 24), pack(SOLO, 24, seed=3)
    assert not torch.equal(packed.rows[0], alone.rows[0])
    *_, g, squared_error = run(packed, 4, 24, capacity=16)
    *_, g_alone, error_alone = run(alone, 4, 24, capacity=3)
    assert torch.equal(g[0], g_alone[0])
    assert torch.equal(squared_error[0], error_alone[0])


def test_active_latents_are_counted_where_lists_are_long(monkeypatch) -> None:
    monkeypatch.setattr("sae_sweep.kernels.fused.decode.LISTED", 4)
    test_the_error_and_its_gradient_are_the_references(4, 5)


def test_a_token_without_active_latents_has_its_input_as_error() -> None:
    packed = pack(SOLO, 6)
    x = batches(SOLO, 2, 6)
    rows = torch.full((1, 2, 3), len(packed.table.silent_tokens), dtype=torch.int32)
    g, squared_error = poisoned(1, 2, 6), poisoned(1, 2)
    decode_error(packed.table, packed.settings, rows, torch.zeros(1, 2, 3), x, g, squared_error)
    assert torch.equal(g, -x)  # 2 / n is 1
    torch.testing.assert_close(squared_error, x.square().sum(dim=2))
