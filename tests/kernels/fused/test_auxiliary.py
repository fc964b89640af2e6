"""AuxK by products over the dead latents' tiles against autograd in float64."""

from dataclasses import replace

import pytest
import torch
from made_trials import Batch, Trial, assert_near, assert_state, placed, settings_of, stepped, taken

from sae_sweep.kernels.fused import auxiliary
from sae_sweep.kernels.fused.auxiliary import add_aux_k
from sae_sweep.kernels.fused.bias import update_biases
from sae_sweep.kernels.fused.columns import dense_columns
from sae_sweep.kernels.fused.dense import activate, decode_error
from sae_sweep.kernels.fused.dense_gradients import add_gradients
from sae_sweep.kernels.fused.gradients import empty_gradients
from sae_sweep.kernels.fused.table import DENSE, SPARSE
from sae_sweep.kernels.fused.update import update_rows

pytestmark = pytest.mark.slow


def step(trials: list[Trial], pages: int, slots: list[int] | None = None):
    """Step them all; returns each one's state and auxiliary loss."""
    slots = list(range(len(trials))) if slots is None else slots
    table, settings = placed(trials, pages, slots), settings_of(trials, slots)
    batch = Batch(trials, table, slots)
    room = tuple(torch.full((2, *batch.pre.shape), torch.nan))
    columns = dense_columns(table, settings)
    activate(table, columns, batch.pre, batch.threshold, batch.last_tie, room[0])
    decode_error(table, columns, room[0], batch.centred, batch.g, batch.squared_error)
    into = empty_gradients(batch.pre.shape[1], batch.g.shape[2], torch.device("cpu"))
    for tensor in into[:4]:
        tensor.fill_(torch.nan)
    vectors = batch.centred, batch.g
    add_gradients(table, columns, room, vectors, into, settings)
    room[0].fill_(torch.nan)
    room[1].fill_(torch.nan)
    loss = add_aux_k(table, settings, batch.pre, vectors, room, into)
    shares = update_rows(table, settings, batch.by_latent, *vectors, into)
    update_biases(table, settings, batch.g, shares.bias)
    return [taken(table, trial, slot) for trial, slot in zip(trials, slots, strict=True)], loss[
        slots
    ]


def assert_steps(trials: list[Trial], pages: int, slots: list[int] | None = None) -> None:
    for trial, state, loss in zip(trials, *step(trials, pages, slots), strict=True):
        expected, out = stepped(trial)
        assert_state(state, expected)
        assert_near(loss, out["aux"])


@pytest.mark.parametrize("form", [SPARSE, DENSE])
@pytest.mark.parametrize(("n", "k", "d", "b"), [(40, 4, 6, 9), (50, 1, 5, 4), (20, 5, 40, 6)])
def test_a_step_with_dead_latents_is_that_of_autograd(
    n: int, k: int, d: int, b: int, form: int
) -> None:
    pages = (1, 3, 4, 6)[: -(-n // 16)]
    trial = Trial(n, k, pages, form, aux_coeff=0.5, seed=n).with_state(d, b)
    dead = int((trial.state["silent"] >= trial.dead_window).sum())
    assert (dead > d // 2) == (d < 40)
    assert_steps([trial], 8)


def test_more_candidates_than_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "CANDIDATES", 16)
    monkeypatch.setattr(auxiliary, "PROGRAMS", 2)
    trial = Trial(100, 4, (0, 1, 2, 5, 6, 7, 8), aux_coeff=0.5).with_state(9, 7)
    trial = trial.altered(silent=torch.full((100,), 100))
    assert_steps([trial], 9)


def test_ties_of_dead_latents_go_to_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "CANDIDATES", 16)
    trial = Trial(60, 4, (0, 1, 2, 5), aux_coeff=0.5).with_state(9, 7)
    names = ("x", "w_enc", "b_enc", "b_dec")
    trial = trial.altered(**{name: trial.state[name].round() for name in names})
    trial = trial.altered(silent=torch.full((60,), 100))
    pre = stepped(trial)[1]["pre"]
    assert ((pre >= pre.topk(4).values[:, -1:]).sum(dim=1) > 4).any()
    assert_steps([trial], 7)


def test_dead_latents_that_none_would_choose() -> None:
    trial = Trial(40, 4, (0, 1, 2), aux_coeff=0.5).with_state(6, 9)
    b_enc = torch.where(trial.state["silent"] >= 100, -50.0, trial.state["b_enc"])
    assert_steps([trial.altered(b_enc=b_enc)], 4)


@pytest.mark.parametrize("form", [SPARSE, DENSE])
@pytest.mark.parametrize("case", ["none dead", "no coefficient", "no residual"])
def test_nothing_is_added_where_there_is_nothing_to_explain(case: str, form: int) -> None:
    trial = Trial(20, 4, (0, 2), form, aux_coeff=0.5).with_state(6, 9)
    if case == "none dead":
        trial = trial.altered(silent=torch.full((20,), 99))
    elif case == "no coefficient":
        trial = replace(trial, aux_coeff=0.0)
    else:
        trial = trial.altered(x=torch.zeros(9, 6), b_dec=torch.zeros(6), b_enc=torch.zeros(20))
    (found,), loss = step([trial], 4)
    assert loss.item() == 0
    assert_state(found, stepped(replace(trial, aux_coeff=0.0))[0])


def crowd() -> list[Trial]:
    trials = [
        Trial(40, 9, (2, 5, 7), DENSE, lr=0.03, aux_coeff=0.2, seed=1),
        Trial(16, 2, (3,), lr=0.2, beta1=0.5, beta2=0.9, step=1, seed=2),
        Trial(33, 3, (0, 4, 8), aux_coeff=0.03, dead_window=5, step=70, seed=3),
        Trial(18, 0, (6, 9), unit=False, l1_alpha=0.3, aux_coeff=0.6, seed=4),
    ]
    return [trial.with_state(11, 10) for trial in trials]


def test_members_that_share_a_table_step_as_by_autograd() -> None:
    assert_steps(crowd(), 10, [3, 0, 1, 5])


def test_neighbours_do_not_change_a_bit() -> None:
    states, losses = step(crowd(), 10, [3, 0, 1, 5])
    for trial, state, loss in zip(crowd(), states, losses, strict=True):
        elsewhere = (1, 2, 10)[: len(trial.pages)]
        (alone,), loss_alone = step([replace(trial, pages=elsewhere)], 12, [1])
        assert torch.equal(loss_alone[0], loss)
        for name, tensor in alone.items():
            assert torch.equal(tensor, state[name]), name
