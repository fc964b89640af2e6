"""The usage loss and the penalty on latents that are always on, against autograd in float64."""

from dataclasses import replace

import pytest
import torch
from made_trials import (
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
from torch import Tensor

from sae_sweep.kernels.fused.always_on import add_always_on
from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.columns import dense_columns
from sae_sweep.kernels.fused.dense import activate, decode_error
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.gradients import empty_gradients
from sae_sweep.kernels.fused.table import DENSE, SPARSE
from sae_sweep.kernels.fused.update import update_rows
from sae_sweep.kernels.fused.usage import add_usage

pytestmark = pytest.mark.slow


def step(
    trials: list[Trial], pages: int, slots: list[int]
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Step them all; returns each one's state and auxiliary loss."""
    table, settings = placed(trials, pages, slots), settings_of(trials, slots)
    batch = Batch(trials, table, slots)
    room = tuple(torch.full((2, *batch.pre.shape), torch.nan))
    columns = dense_columns(table, settings)
    activate(table, columns, batch.pre, batch.threshold, batch.last_tie, room[0])
    decode_error(table, columns, room[0], batch.centred, batch.g, batch.squared_error)
    into = empty_gradients(batch.pre.shape[1], batch.g.shape[2], torch.device("cpu"))
    for tensor in into[:4]:
        tensor.fill_(torch.nan)
    add_gradients(table, columns, room, (batch.centred, batch.g), into, settings)
    room[1].fill_(torch.nan)
    loss = torch.zeros(max(slots) + 1)
    chosen = batch.pre, batch.threshold
    add_usage(table, settings, chosen, batch.centred, room[1], into, loss)
    known = *chosen, batch.last_tie
    add_always_on(table, settings, batch.by_latent, known, batch.centred, into, loss)
    shares = update_rows(table, settings, batch.by_latent, batch.centred, batch.g, into)
    update_biases(table, settings, batch.g, shares.bias)
    return [
        (taken(table, trial, slot), loss[slot]) for trial, slot in zip(trials, slots, strict=True)
    ]


def crowd(d: int, b: int) -> list[Trial]:
    trials = [
        Trial(40, 3, (2, 5, 7), usage_coeff=4.0, usage_target=0.3, seed=1),
        Trial(20, 5, (3, 9), DENSE, usage_coeff=2.0, usage_target=0.4, often_coeff=0.7, seed=2),
        Trial(33, 0, (0, 4, 8), unit=False, l1_alpha=0.3, often_coeff=0.5, seed=3),
        Trial(18, 0, (1, 10), DENSE, unit=False, l1_alpha=0.2, often_coeff=0.9, seed=4),
        Trial(16, 2, (6,), often_coeff=0.4, often_limit=0.2, seed=5),
        Trial(9, 0, (11,), l1_alpha=0.0, often_coeff=0.4, seed=6),
    ]
    return [trial.with_state(d, b) for trial in trials]


SLOTS = [3, 0, 1, 5, 2, 4]


@pytest.mark.parametrize(("d", "b"), [(7, 9), (40, 5)])
def test_steps_are_those_of_autograd(d: int, b: int) -> None:
    trials = crowd(d, b)
    for trial, (state, loss) in zip(trials, step(trials, 13, SLOTS), strict=True):
        expected, out = stepped(trial)
        assert out["aux"] > 0
        assert_state(state, expected)
        assert_near(loss, out["aux"])


def test_neighbours_do_not_change_a_bit() -> None:
    trials = crowd(7, 9)
    for trial, (together, loss) in zip(trials, step(trials, 13, SLOTS), strict=True):
        pages = (1, 2, 6)[: len(trial.pages)]
        ((alone, loss_alone),) = step([replace(trial, pages=pages)], 9, [1])
        assert torch.equal(loss, loss_alone)
        for name, tensor in alone.items():
            assert torch.equal(tensor, together[name]), name


@pytest.mark.parametrize("form", [SPARSE, DENSE])
def test_a_token_may_have_fewer_positive_pre_activations_than_it_selects(form: int) -> None:
    """The selection's threshold is 0 there; the loss goes by the k-th largest, whatever it is."""
    trial = Trial(20, 6, (0, 2), form, usage_coeff=4.0, usage_target=0.4).with_state(7, 9)
    trial = trial.altered(b_enc=trial.state["b_enc"] - 3.0)
    pre = stepped(trial)[1]["pre"]
    assert ((pre > 0).sum(dim=1) < 6).any()
    ((state, loss),) = step([trial], 4, [0])
    expected, out = stepped(trial)
    assert_state(state, expected)
    assert_near(loss, out["aux"])


def test_latents_that_are_used_enough_are_left_and_so_are_free_rows_of_zeros() -> None:
    trials = [
        Trial(20, 9, (0, 2), usage_coeff=4.0, usage_target=0.01).with_state(7, 9),
        Trial(20, 0, (1, 3), unit=False, often_coeff=0.7, seed=1).with_state(7, 9),
    ]
    w_dec = trials[1].state["w_dec"].clone()
    w_dec[[3, 17]] = 0.0
    trials[1] = trials[1].altered(w_dec=w_dec)
    for trial, (state, loss) in zip(trials, step(trials, 5, [0, 1]), strict=True):
        expected, out = stepped(trial)
        assert_state(state, expected)
        assert_near(loss, out["aux"])
    assert len(rows_of(trials[0])) == 20
