"""Gradients by active latents, Adam and unit norm against autograd in float64."""

from dataclasses import replace

import pytest
import torch
from made_trials import (
    PAGE,
    Batch,
    Trial,
    assert_near,
    assert_state,
    placed,
    rows_of,
    settings_of,
    stepped,
    taken,
)

from sae_sweep.kernels.fused import update
from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.sums import member_penalties
from sae_sweep.kernels.fused.update import update_rows

pytestmark = pytest.mark.slow


def step(trials: list[Trial], pages: int, slots: list[int] | None = None):
    slots = list(range(len(trials))) if slots is None else slots
    table, settings = placed(trials, pages, slots), settings_of(trials, slots)
    batch = Batch(trials, table, slots)
    shares = update_rows(table, settings, batch.by_latent, batch.centred, batch.g)
    update_biases(table, settings, batch.g, shares.bias)
    return [taken(table, trial, slot) for trial, slot in zip(trials, slots, strict=True)]


@pytest.mark.parametrize(
    ("n", "k", "d", "b"), [(20, 4, 13, 9), (16, 1, 5, 4), (7, 7, 8, 6), (50, 3, 40, 16)]
)
@pytest.mark.parametrize("unit", [True, False])
def test_a_step_is_that_of_autograd(n: int, k: int, d: int, b: int, unit: bool) -> None:
    trial = Trial(n, k, (1, 3, 4, 6), unit=unit, seed=n).with_state(d, b)
    (found,) = step([replace(trial, pages=trial.pages[: -(-n // PAGE)])], 8)
    assert_state(found, stepped(trial)[0])


@pytest.mark.parametrize("unit", [True, False])
def test_a_price_of_activations_is_that_of_autograd(unit: bool) -> None:
    trial = Trial(20, 0, (0, 2), unit=unit, l1_alpha=0.7).with_state(7, 12)
    (found,) = step([trial], 4)
    assert_state(found, stepped(trial)[0])


@pytest.mark.parametrize("unit", [True, False])
def test_the_penalty_is_that_of_the_reference(unit: bool) -> None:
    trials = [
        Trial(20, 0, (0, 3), unit=unit, l1_alpha=0.7).with_state(7, 12),
        Trial(9, 0, (1,), unit=not unit, l1_alpha=0.2, seed=1).with_state(7, 12),
    ]
    table, settings = placed(trials, 4, [1, 0]), settings_of(trials, [1, 0])
    batch = Batch(trials, table, [1, 0])
    shares = update_rows(table, settings, batch.by_latent, batch.centred, batch.g)
    found = torch.full((2,), torch.nan)
    member_penalties(table, settings, shares.penalty, found)
    for trial, slot in zip(trials, (1, 0), strict=True):
        expected = stepped(trial)[1]["penalty"].item()
        assert found[slot].item() == pytest.approx(expected, rel=1e-5)


def test_a_free_row_of_zeros_is_pulled_nowhere() -> None:
    trial = Trial(20, 0, (0, 2), unit=False, l1_alpha=0.7).with_state(7, 12)
    w_dec = trial.state["w_dec"].clone()
    w_dec[[3, 17]] = 0.0
    trial = trial.altered(w_dec=w_dec)
    (found,) = step([trial], 4)
    assert_state(found, stepped(trial)[0])


def test_latents_on_every_token_and_on_none() -> None:
    trial = Trial(20, 4, (0, 2)).with_state(7, 12)
    b_enc = trial.state["b_enc"].clone()
    b_enc[3], b_enc[[0, 15, 19]] = 50.0, -50.0
    trial = trial.altered(b_enc=b_enc)
    (found,) = step([trial], 4)
    assert_state(found, stepped(trial)[0])


def test_tokens_without_a_positive_pre_activation() -> None:
    trial = Trial(20, 4, (0, 2)).with_state(7, 12)
    trial = trial.altered(b_enc=torch.full((20,), -50.0))
    (found,) = step([trial], 4)
    assert_state(found, stepped(trial)[0])


@pytest.mark.parametrize("chunk", [2, 3, 5])
def test_latents_active_on_many_tokens_are_summed_in_parts(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "CHUNK", chunk)
    trials = [Trial(20, 6, (0, 2)).with_state(7, 16), Trial(30, 0, (1, 4)).with_state(7, 16)]
    b_enc = trials[0].state["b_enc"].clone()
    b_enc[[3, 4, 19]] = 50.0
    trials[0] = trials[0].altered(b_enc=b_enc)
    for found, trial in zip(step(trials, 6), trials, strict=True):
        assert_state(found, stepped(trial)[0])


@pytest.mark.parametrize("unit", [True, False])
def test_rows_that_registers_do_not_hold_are_updated_by_blocks(
    unit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "NARROW", {torch.float32: 8})
    monkeypatch.setattr(update, "BLOCK", 8)
    monkeypatch.setattr(update, "CHUNK", 3)
    alpha = {"k": 4} if unit else {"k": 0, "l1_alpha": 0.7}
    trial = Trial(20, pages=(0, 2), unit=unit, **alpha).with_state(19, 12)
    other = Trial(9, 2, (1,), lr=0.2, step=9, seed=2).with_state(19, 12)
    for found, one in zip(step([trial, other], 4), (trial, other), strict=True):
        assert_state(found, stepped(one)[0])


def crowd() -> list[Trial]:
    trials = [
        Trial(40, 3, (2, 5, 7), lr=0.03, seed=1),
        Trial(16, 1, (3,), lr=0.2, beta1=0.5, beta2=0.9, step=1, seed=2),
        Trial(33, 0, (0, 4, 8), unit=False, l1_alpha=0.3, step=70, seed=3),
    ]
    return [trial.with_state(11, 10) for trial in trials]


def test_members_that_share_a_table_step_as_by_autograd() -> None:
    trials = crowd()
    for found, trial in zip(step(trials, 10, [3, 0, 1]), trials, strict=True):
        assert_state(found, stepped(trial)[0])


@pytest.mark.parametrize("chunk", [3, update.CHUNK])
def test_neighbours_do_not_change_a_bit(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "CHUNK", chunk)
    for trial, together in zip(crowd(), step(crowd(), 10, [3, 0, 1]), strict=True):
        elsewhere = (1, 2, 6, 8)[: len(trial.pages)]
        (alone,) = step([replace(trial, pages=elsewhere)], 12, [1])
        for name, tensor in alone.items():
            assert torch.equal(tensor, together[name]), name


def test_a_step_writes_nothing_but_its_members_rows() -> None:
    trials = crowd()
    table, settings = placed(trials, 10, [3, 0, 1]), settings_of(trials, [3, 0, 1])
    batch = Batch(trials, table, [3, 0, 1])
    settings.form[0] = 0
    before = taken(table, trials[1], 0)
    shares = update_rows(table, settings, batch.by_latent, batch.centred, batch.g)
    update_biases(table, settings, batch.g, shares.bias)
    for name, tensor in taken(table, trials[1], 0).items():
        assert torch.equal(tensor, before[name]), name
    free = torch.ones(len(table.silent_tokens), dtype=torch.bool)
    for trial in trials:
        pages = torch.tensor(trial.pages)
        free[(pages[:, None] * PAGE + torch.arange(PAGE)).flatten()[: trial.n]] = False
    for rows in (table.weights, table.first, table.second):
        for tensor in rows:
            assert tensor[free].isnan().all()


def test_bfloat16_operands_are_read_exactly_and_written_beside_the_weights() -> None:
    trials, slots = crowd(), [3, 0, 1]
    settings = settings_of(trials, slots)
    tables = [placed(trials, 10, slots, kind) for kind in (torch.float32, torch.bfloat16)]
    batch = Batch(trials, tables[0], slots)
    rounded = batch.centred.bfloat16(), batch.g.bfloat16()
    found = update_rows(tables[1], settings, batch.by_latent, *rounded)
    exact = (tensor.float() for tensor in rounded)
    expected = update_rows(tables[0], settings, batch.by_latent, *exact)
    for trial, slot in zip(trials, slots, strict=True):
        states = [taken(table, trial, slot) for table in tables]
        for name, tensor in states[1].items():
            assert_near(tensor, states[0][name].double())
        rows = rows_of(trial)
        for copy, weight in zip(tables[1].operands, tables[1].weights[::2], strict=True):
            # the interpreter cuts off what a GPU rounds
            torch.testing.assert_close(copy[rows].float(), weight[rows], rtol=2**-7, atol=0)
        groups = [group for page in trial.pages for group in (2 * page, 2 * page + 1)]
        for share, wanted in zip(found, expected, strict=True):
            assert_near(share[groups], wanted[groups].double())
