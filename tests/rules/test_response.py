"""The response curve: what it recovers of curves that are known."""

import math

import numpy as np
import pytest

from sae_sweep.rules.response import Observation, fit, rise

BOUNDS = (0.01, 100.0)


def power(l1_alpha: float, n_latents: int = 64, slope: float = -1.0, width: float = 0.0) -> float:
    """L0 falls as a power, and the l1_alpha of a fixed L0 grows as the width to the power given."""
    return 0.05 * (l1_alpha / (3.0 * (n_latents / 64) ** width)) ** slope


def seen(alphas: list[float], **curve: float) -> list[Observation]:
    return [Observation(a, 64, power(a, **curve)) for a in alphas]


@pytest.mark.parametrize("slope", [-0.5, -1.0, -2.0])
def test_two_trials_around_the_target_place_it_within_a_tenth(slope: float) -> None:
    roots = fit(seen([2.0, 4.0], slope=slope), 64, BOUNDS).roots(0.05)
    assert math.exp(np.median(roots)) == pytest.approx(3.0, rel=0.1)


def test_the_interval_shrinks_with_trials_and_holds_the_answer() -> None:
    before = fit(seen([0.5]), 64, BOUNDS).interval(0.05)
    after = fit(seen([0.5, 2.0, 5.0]), 64, BOUNDS).interval(0.05)
    for low, _, high in (before, after):
        assert low < 3.0 < high
    assert after[2] / after[0] < before[2] / before[0]


def test_without_trials_the_curve_is_the_broad_prior() -> None:
    low, middle, high = fit([], 64, BOUNDS).interval(0.05)
    assert high / low > 50
    assert low < middle < high


def test_every_curve_falls() -> None:
    paths = fit(seen([0.5, 2.0]), 64, BOUNDS).paths
    assert (np.diff(paths, axis=1) <= 0).all()


def test_a_target_that_no_curve_meets_has_infinite_roots() -> None:
    posterior = fit(seen([0.01, 1.0, 100.0]), 64, BOUNDS)
    assert (posterior.roots(1e-9) == math.inf).all()
    assert (posterior.roots(0.999) < math.log(3.0)).all()


def test_oscillation_widens_the_interval() -> None:
    calm = [Observation(a, 64, power(a)) for a in (2.0, 3.0, 4.0)]
    restless = [one._replace(oscillation=0.2) for one in calm]
    narrow, wide = (fit(one, 64, BOUNDS).interval(0.05) for one in (calm, restless))
    assert wide[2] / wide[0] > narrow[2] / narrow[0]
    assert wide[1] == narrow[1]


def test_the_width_power_of_four_widths_is_found_with_its_interval() -> None:
    random = np.random.default_rng(0)
    trials = [
        Observation(a, m, power(a, m, -1.2, -0.167) * math.exp(random.normal(0, 0.02)))
        for a in (1.0, 2.0, 4.0, 8.0)
        for m in (64, 128, 256, 512)
    ]
    low, middle, high = fit(trials, 128, BOUNDS).exponent(0.05)
    assert low < -0.167 < high
    assert middle == pytest.approx(-0.167, abs=0.1)


def test_a_curve_of_another_shape_is_called_a_poor_fit() -> None:
    cliff = [Observation(a, 64, l0) for a, l0 in [(1, 0.5), (1.1, 0.5), (1.2, 0.001), (9, 0.001)]]
    assert fit(cliff, 64, BOUNDS).worst_residual > 3
    assert fit(seen([1.0, 2.0, 4.0]), 64, BOUNDS).worst_residual < 1


def test_a_rise_is_found_and_noise_is_not() -> None:
    trials = [Observation(0.1, 64, 0.38), Observation(0.5, 64, 0.49), Observation(1, 64, 0.05)]
    assert rise(trials) == (trials[0], trials[1])
    assert rise([Observation(0.1, 64, 0.500), Observation(0.5, 64, 0.505)]) is None
    assert rise([Observation(0.1, 64, 0.38), Observation(0.5, 128, 0.49)]) is None
    assert rise([Observation(0.1, 64, 0.38), Observation(0.1, 64, 0.49)]) is None
