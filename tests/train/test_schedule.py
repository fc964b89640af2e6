"""Schedules as functions of the step."""

import pytest

from sae_sweep.train.schedule import l0_target, lr_scale, sparsity_scale


def test_lr_rises_stays_and_falls() -> None:
    scales = [lr_scale(step, 10, 0.2, 0.3) for step in range(1, 11)]
    assert scales == pytest.approx([1 / 2, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_without_ramps_lr_is_constant() -> None:
    assert {lr_scale(step, 7, 0.0, 0.0) for step in range(1, 8)} == {1.0}


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_update_moves(steps: int) -> None:
    scales = [lr_scale(step, steps, 0.5, 0.5) for step in range(1, steps + 1)]
    assert all(0 < scale <= 1 for scale in scales)
    assert scales == scales[::-1]


def test_sparsity_rises_and_stays() -> None:
    assert [sparsity_scale(step, 8, 0.5) for step in range(1, 9)] == [
        0.25,
        0.5,
        0.75,
        1,
        1,
        1,
        1,
        1,
    ]
    assert sparsity_scale(1, 8, 0.0) == 1


def test_the_target_moves_evenly_in_its_logarithm_and_then_stays() -> None:
    found = [l0_target(step, 8, 0.16, 0.01, 0.5) for step in range(1, 9)]
    assert found == pytest.approx([0.08, 0.04, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01])
    assert l0_target(1, 8, None, 0.01, 0.5) == 0.01
    assert l0_target(1, 8, 0.16, 0.01, 0.0) == 0.01
