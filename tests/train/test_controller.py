"""The controller of L0: its formula, its bounds, and that it gets there."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sae_sweep.config import Trial
from sae_sweep.train import controller
from sae_sweep.train.controller import L0Controller
from sae_sweep.train.schedule import lr_scale

CPU = torch.device("cpu")


def held(make_trial: Callable[..., Trial], **train: float) -> Trial:
    return make_trial({"kind": "l1"}, **{"l0_controller": True, "l0_target": 0.1, **train})


def within(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def test_the_factor_is_its_formula(make_trial: Callable[..., Trial]) -> None:
    trial = held(make_trial, steps=60, lr=3e-3, l0_target_start=0.4, l0_bound=3)
    found = L0Controller(trial, CPU)
    began = round(controller.HOLD_FRACTION * 60)
    fast = slow = integral = log_factor = 0.0
    l0s = 32 * np.exp(np.random.default_rng(0).normal(-1.5, 0.8, 60))
    for step, l0 in enumerate(l0s, 1):
        assert found.factor().item() == pytest.approx(math.exp(log_factor), rel=1e-6)
        found.observe(step, torch.tensor(l0, dtype=torch.float32))
        if step <= began:
            continue
        target = 0.1 * 4 ** max(0.0, 1 - step / 30)
        error = within(math.log(l0 / 32 / target), controller.LARGEST_ERROR)
        n = step - began
        fast += (error - fast) * max(1 / controller.FAST, 1 / n)
        slow += (error - slow) * max(1 / controller.SLOW, 1 / n)
        ahead = within(fast + controller.LEAD * (fast - slow), controller.LARGEST_ERROR)
        lr = 3e-3 * lr_scale(step, 60, 0.05, 0.2)
        gain = min(controller.INTEGRAL * lr, controller.LARGEST_GAIN)
        integral = within(integral + gain * ahead, math.log(3))
        log_factor = within(controller.PROPORTIONAL * ahead + integral, math.log(3))
    assert abs(log_factor) > 0.01


@pytest.mark.parametrize("l1_warmup_fraction", [0.0, 0.5])
def test_nothing_moves_while_l1_alpha_warms_up_or_l0_first_falls(
    make_trial: Callable[..., Trial], l1_warmup_fraction: float
) -> None:
    trial = held(make_trial, l1_warmup_fraction=l1_warmup_fraction)
    found = L0Controller(trial, CPU)
    began = round(40 * max(l1_warmup_fraction, controller.HOLD_FRACTION))
    for step in range(1, began + 1):
        found.observe(step, torch.tensor(32.0))
        assert found.factor() == 1
    found.observe(began + 1, torch.tensor(32.0))
    assert found.factor() > 1


@pytest.mark.parametrize(("l0", "factor"), [(32.0, 4.0), (0.0, 0.25)])
def test_a_target_out_of_reach_stops_at_the_bound_and_says_so(
    make_trial: Callable[..., Trial], l0: float, factor: float
) -> None:
    trial = held(make_trial, steps=2000, l0_bound=4)
    found = L0Controller(trial, CPU)
    for step in range(1, trial.steps + 1):
        found.observe(step, torch.tensor(l0))
    assert found.found() == pytest.approx(
        {"l1_alpha_final": 0.5 * factor, "l1_alpha_saturated": 1.0}
    )


def test_a_bound_that_is_left_again_is_left_at_once(make_trial: Callable[..., Trial]) -> None:
    trial = held(make_trial, steps=2000, l0_bound=4)
    found = L0Controller(trial, CPU)
    for step in range(1, 1500):
        found.observe(step, torch.tensor(32.0))
    for step in range(1500, 1500 + controller.FAST):
        found.observe(step, torch.tensor(0.32))
    assert found.factor() < 4


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.06, 0.12])
def test_a_controlled_trial_ends_nearer_its_target_than_one_without(
    alone, make_trial: Callable[..., Trial], target: float
) -> None:
    length = {"steps": 600, "lr": 3e-3}
    trial = held(make_trial, l0_target=target, **length)
    plain = make_trial({"kind": "l1"}, **length)
    final = alone(trial).outcomes[trial.uid].final
    free = alone(plain, "plain").outcomes[plain.uid].final
    assert final["l0_target_error"] == abs(final["l0_fraction"] / target - 1)
    assert final["l0_target_error"] < abs(free["l0_fraction"] / target - 1)
    assert final["l0_target_error"] < 0.1
    assert final["l1_alpha_saturated"] == 0
