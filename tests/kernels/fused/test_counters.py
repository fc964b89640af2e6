"""What a step counts, against the same in plain PyTorch."""

import torch

from sae_sweep.kernels.fused import ahead as staging
from sae_sweep.kernels.fused.ahead import begin, empty_ahead, stage
from sae_sweep.kernels.fused.counters import CHUNK, Batch, Control, count, empty_counters, retire
from sae_sweep.kernels.fused.table import DENSE, IDLE, SPARSE

CONTROL = Control(1.0, 1.0, 1.0)
CPU = torch.device("cpu")


def counted(tokens: int, *, steps: int = 1, spoil: float | None = None):
    """Two members and an idle one between them, after so many steps of the same batch."""
    ahead, counters = empty_ahead(4, 3, 1, CPU), empty_counters(3, CPU)
    told = {"form": {0: SPARSE, 2: DENSE}, "first": {0: 7, 2: 3}, "half": {0: 6, 2: 90}}
    stage(ahead, told | {"n_latents": {0: 50, 2: 10}}, {})
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        *torch.rand(2, 3, tokens, generator=generator),
        torch.tensor([7 * tokens, 1, tokens]),
        torch.tensor([0.5, 9.0, 0.0]),
        torch.tensor([0.0, 9.0, 0.25]),
        torch.full((3,), torch.nan),  # of members that select over their batch, which none does
    )
    if spoil is not None:
        batch.squares[0, -1] = spoil
    for _ in range(steps):
        ahead.at.add_(1)
        count(ahead, ahead.settings(3), batch, counters, CONTROL)
    return ahead, batch, counters


def test_losses_and_l0_are_those_of_the_batch_and_the_idle_are_left() -> None:
    tokens = CHUNK + 5
    ahead, batch, counters = counted(tokens)
    error = batch.squared_error.double().sum(dim=1) / tokens
    expected = torch.stack([error + batch.penalty + batch.aux, error, batch.penalty, batch.aux])
    acting = torch.tensor([True, False, True])
    torch.testing.assert_close(counters.losses[acting], expected.T[acting].float())
    assert counters.l0.tolist() == [7.0, 0.0, 1.0]
    assert (counters.losses[1] == 0).all()
    assert ahead.views(3)["done"].tolist() == [1, 0, 1]


def test_means_are_of_the_last_half_and_a_constant_l0_deviates_by_nothing() -> None:
    _, batch, counters = counted(6, steps=3)
    fvu = batch.squared_error[0].double().sum() / batch.squares[0].double().sum()
    expected = torch.tensor([fvu.item(), 7 / 50], dtype=torch.float64)
    torch.testing.assert_close(counters.last_half[0, :2], expected)
    assert counters.last_half[0, 2] == 0
    assert (counters.last_half[1:] == 0).all()  # idle; not in its last half


def test_an_input_that_is_not_finite_is_noted_at_its_first_step() -> None:
    for spoil in (torch.nan, torch.inf):
        _, _, counters = counted(6, steps=2, spoil=spoil)
        assert counters.diverged_at.tolist() == [7, 0, 0]


def test_a_step_begins_with_its_own_numbers_and_the_price_as_it_was_moved() -> None:
    ahead, aux = empty_ahead(4, 2, 1, CPU), torch.ones(2)
    rows = torch.arange(2.0 * len(staging.NUMBERS)).view(2, -1).numpy() + 1
    off = rows.copy()
    off[:, staging.NUMBERS.index("l0_target")] = 0
    stage(ahead, {}, {0: rows, 1: off})
    control = torch.zeros(2, 5, dtype=torch.float64)
    control[:, 3] = 0.5
    for step in range(2):
        begin(ahead, control, aux)
        found = {name: tensor.tolist() for name, tensor in ahead.views(2).items()}
        for number, name in enumerate(staging.NUMBERS):
            expected = [rows[step, number], off[step, number]]
            if name in {"l1_weight", "l0_weight"}:
                expected[0] *= torch.tensor(0.5).exp().item()
            assert found[name] == torch.tensor(expected).tolist(), name
    assert (aux == 0).all()


def test_a_member_without_room_sits_the_step_out() -> None:
    ahead = empty_ahead(1, 3, 1, CPU)
    stage(ahead, {"form": {0: SPARSE, 1: SPARSE, 2: DENSE}}, {})
    rows, values = torch.ones(3, 2, 5, dtype=torch.int32), torch.ones(3, 2, 5)
    overflow = torch.tensor([0, 1, 0], dtype=torch.int32)
    retire(overflow, ahead.settings(3), rows, values, 99)
    assert ahead.settings(3).form.tolist() == [SPARSE, IDLE, DENSE]
    assert (rows[1] == 99).all()
    assert (values[1] == 0).all()
    assert (rows[[0, 2]] == 1).all()
