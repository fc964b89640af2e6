"""Cohorts: spread first, then bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.config import Source, TopKConfig, TrainConfig, Trial
from sae_sweep.tune.plan import cohort_size, shape_key

TRIAL = Trial(
    "a" * 12, "a", Source("f", 64, 1000, {}), TopKConfig(n_latents=128, k=4), TrainConfig(steps=1)
)


@given(st.integers(1, 50), st.integers(1, 8), st.none() | st.integers(1, 9))
def test_no_slot_is_left_idle_while_trials_last(n, slots, limit) -> None:
    left, used = n, 0
    while left and used < slots:
        left -= cohort_size(left, slots - used, limit)
        used += 1
    assert left >= 0
    assert used == min(n, slots)


def test_on_a_cpu_trials_come_one_at_a_time() -> None:
    assert cohort_size(16, 2, None) == 1
    assert cohort_size(16, 2, 4) == 4


@pytest.mark.parametrize("change", [{"lr": 1e-2}, {"seed_init": 5}, {"beta1": 0.5}, {"steps": 7}])
def test_what_is_free_a_member_does_not_split_cohorts(change) -> None:
    other = Trial(
        "b" * 12,
        "b",
        TRIAL.source,
        TopKConfig(n_latents=32, k=9),
        TrainConfig(**{"steps": 1, **change}),
    )
    assert shape_key(other) == shape_key(TRIAL)


def test_batch_size_splits_cohorts() -> None:
    other = Trial("b" * 12, "b", TRIAL.source, TRIAL.sae, TrainConfig(steps=1, batch_size=8))
    assert shape_key(other) != shape_key(TRIAL)
