"""Steps by products over whole tiles against autograd in float64."""

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

from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.columns import dead_columns, dense_columns
from sae_sweep.kernels.fused.dense import activate, decode_error
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.gradients import RowGradients, empty_gradients
from sae_sweep.kernels.fused.table import DENSE, FREE
from sae_sweep.kernels.fused.update import update_rows

pytestmark = pytest.mark.slow


def poisoned_gradients(r: int, d: int) -> RowGradients:
    into = empty_gradients(r, d, torch.device("cpu"))
    for tensor in into[:4]:
        tensor.fill_(torch.nan)
    return into


def step(trials: list[Trial], pages: int, slots: list[int] | None = None):
    """Step them all; returns each one's state and squared error."""
    slots = list(range(len(trials))) if slots is None else slots
    table, settings = placed(trials, pages, slots), settings_of(trials, slots)
    batch = Batch(trials, table, slots)
    latents, dz = torch.full((2, *batch.pre.shape), torch.nan)
    columns = dense_columns(table, settings)
    activate(table, columns, batch.pre, batch.threshold, batch.last_tie, latents)
    decode_error(table, columns, latents, batch.centred, batch.g, batch.squared_error)
    into = poisoned_gradients(batch.pre.shape[1], batch.g.shape[2])
    vectors = batch.centred, batch.g
    add_gradients(table, columns, (latents, dz), vectors, into, settings)
    assert_counts(trials, into)
    shares = update_rows(table, settings, batch.by_latent, *vectors, into)
    update_biases(table, settings, batch.g, shares.bias)
    states = [taken(table, trial, slot) for trial, slot in zip(trials, slots, strict=True)]
    return states, [batch.squared_error[slot] for slot in slots]


def assert_counts(trials: list[Trial], into: RowGradients) -> None:
    for trial in (one for one in trials if one.form == DENSE):
        expected = (stepped(trial)[1]["f"] > 0).sum(dim=0)
        assert into.active_tokens[rows_of(trial)].tolist() == expected.tolist()


def assert_steps(trials: list[Trial], pages: int, slots: list[int] | None = None) -> None:
    for trial, state, squared in zip(trials, *step(trials, pages, slots), strict=True):
        expected, out = stepped(trial)
        assert_state(state, expected)
        assert_near(squared, out["squared_error"])


@pytest.mark.parametrize(
    ("n", "k", "d", "b"),
    [(20, 7, 13, 9), (16, 1, 5, 4), (7, 7, 8, 6), (50, 20, 40, 16), (33, 0, 7, 40), (18, 5, 70, 5)],
)
@pytest.mark.parametrize("unit", [True, False])
def test_a_step_is_that_of_autograd(n: int, k: int, d: int, b: int, unit: bool) -> None:
    pages = (1, 3, 4, 6)[: -(-n // PAGE)]
    alpha = 0.0 if k else 0.4
    trial = Trial(n, k, pages, DENSE, unit=unit, l1_alpha=alpha, seed=n).with_state(d, b)
    assert_steps([trial], 8)


def test_ties_go_to_the_lowest_latents() -> None:
    trial = Trial(20, 6, (0, 2), DENSE).with_state(7, 12)
    names = ("x", "w_enc", "b_enc", "b_dec")
    # in whole numbers, products are exact and ties are many
    trial = trial.altered(**{name: trial.state[name].round() for name in names})
    f = stepped(trial)[1]
    tied = (f["pre"] == f["pre"].topk(6).values[:, -1:]) & (f["pre"] > 0)
    assert (tied & (f["f"] == 0)).any()
    assert_steps([trial], 4)


def test_tokens_without_a_positive_pre_activation() -> None:
    trial = Trial(20, 6, (0, 2), DENSE).with_state(7, 12)
    assert_steps([trial.altered(b_enc=torch.full((20,), -50.0))], 4)


def test_latents_on_every_token_and_on_none() -> None:
    trial = Trial(20, 6, (0, 2), DENSE).with_state(7, 12)
    b_enc = trial.state["b_enc"].clone()
    b_enc[3], b_enc[[0, 15, 19]] = 50.0, -50.0
    assert_steps([trial.altered(b_enc=b_enc)], 4)


def crowd() -> list[Trial]:
    trials = [
        Trial(40, 9, (2, 5, 7), DENSE, lr=0.03, seed=1),
        Trial(16, 2, (3,), lr=0.2, beta1=0.5, beta2=0.9, step=1, seed=2),
        Trial(33, 0, (0, 4, 8), DENSE, unit=False, l1_alpha=0.3, step=70, seed=3),
    ]
    return [trial.with_state(11, 10) for trial in trials]


def test_members_that_share_a_table_step_as_by_autograd() -> None:
    assert_steps(crowd(), 10, [3, 0, 1])


def test_neighbours_do_not_change_a_bit() -> None:
    states, squared = step(crowd(), 10, [3, 0, 1])
    for which in (0, 2):  # the dense ones
        trial = replace(crowd()[which], pages=(1, 2, 9))
        (alone,), (squared_alone,) = step([trial], 12, [1])
        assert torch.equal(squared_alone, squared[which])
        for name, tensor in alone.items():
            assert torch.equal(tensor, states[which][name]), name


@pytest.mark.parametrize("dead", [True, False])
def test_columns_list_a_members_latents_in_ascending_order(dead: bool) -> None:
    trials = [replace(t, aux_coeff=0.1 * (t.form == DENSE)) for t in crowd()]
    slots = [3, 0, 1]
    table, settings = placed(trials, 10, slots), settings_of(trials, slots)
    columns = (dead_columns if dead else dense_columns)(table, settings)
    tiles = 0
    for slot, trial in zip(slots, trials, strict=True):
        takes_part = trial.state["silent"] >= trial.dead_window if dead else torch.ones(trial.n)
        expected = rows_of(trial)[takes_part.bool()] if trial.form == DENSE else torch.empty(0)
        count, first = int(columns.counts[slot]), int(columns.first[slot])
        assert columns.rows[first : first + count].tolist() == expected.tolist()
        own = columns.tile_member == slot
        tiles += int(own.sum())
        assert own.sum() == -(-count // PAGE)
        assert own[first // PAGE : first // PAGE + int(own.sum())].all()
        assert (columns.rows.view(-1, PAGE)[own].flatten()[count:] == FREE).all()
    assert (columns.tile_member >= 0).sum() == tiles
