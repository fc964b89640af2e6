"""Replicates, shapes, shares and draws against what is known of them."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.statistics.draws import is_gathered
from analysis.statistics.fits import fit
from analysis.statistics.multiplicity import holm
from analysis.statistics.replicates import least_gap, replicates
from analysis.statistics.shapes import shape
from analysis.statistics.shares import p_of_levels, share

LEVELS = 5


def test_a_shift_that_a_seed_gives_to_all_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    cluster, seeds = np.repeat(np.arange(12), 3), np.tile(np.arange(3), 12)
    noise = 0.01 * rng.normal(size=36)
    plain = replicates(noise, cluster, seeds)
    shifted = replicates(noise + np.array([0.0, 1.0, -2.0])[seeds], cluster, seeds)
    assert plain.df == shifted.df == 36 - 12 - 2
    assert shifted.variance == pytest.approx(plain.variance)
    two_way = noise.reshape(12, 3)
    rest = two_way - two_way.mean(0) - two_way.mean(1, keepdims=True) + two_way.mean()
    assert plain.squares == pytest.approx((rest**2).sum())


def test_a_seed_that_only_some_have_does_not_move_their_means() -> None:
    # configurations 0 to 3 have seeds 0 to 2, the others seed 0 alone; seed 2 adds 10 to all
    cluster = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7])
    seeds = np.array([0, 1, 2] * 4 + [0] * 4)
    seen = replicates(np.where(seeds == 2, 10.0, 0.0), cluster, seeds)
    np.testing.assert_allclose(seen.means, seen.means[0], atol=1e-9)
    assert seen.squares == pytest.approx(0, abs=1e-12)


def test_different_seeds_are_plain_repetitions() -> None:
    y = np.array([1.0, 3.0, 2.0, 6.0])
    seen = replicates(y, np.array([0, 0, 1, 1]), np.arange(4))
    assert (seen.df, seen.squares) == (2, pytest.approx(2 + 8))
    np.testing.assert_allclose(seen.means, [2, 4])


def test_the_least_gap_of_two_is_students_t() -> None:
    assert least_gap(2, 9) == pytest.approx(stats.t.ppf(0.975, 9), rel=1e-4)
    assert least_gap(30, 30) > least_gap(8, 30) > least_gap(2, 30)


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(1).random(20) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("means", "kind", "ends"),
    [
        ([0, 0.1, 0.2, 0.3, 0.4], "monotone", [(0, 4)]),
        ([0.4, 0.1, 0, 0.1, 0.4], "inner low", [(0, 2), (2, 4)]),
        ([0, 0.3, 0.4, 0.3, 0], "inner high", [(0, 2), (2, 4)]),
        ([0, 0, 0, 0.09, 0.26], "flat first", [(2, 4)]),
        ([0.3, 0.1, 0, 0, 0], "flat last", [(0, 2)]),
        ([0.3, 0, 0.3, 0, 0.3], "none", []),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_shapes(means: list[float], kind: str, ends: list[tuple[int, int]], seeds: int) -> None:
    rng = np.random.default_rng(4)
    points = np.array(list(itertools.product(range(LEVELS), range(4))))
    coding = np.vstack([np.eye(LEVELS - 1), -np.ones((1, LEVELS - 1))])
    x = np.hstack([np.ones((len(points), 1)), coding[points[:, 0]]])
    cluster = np.repeat(np.arange(len(points)), seeds)
    y = np.array(means)[points[cluster, 0]] + 0.01 * rng.normal(size=len(cluster))
    seen = replicates(y, cluster, np.tile(np.arange(seeds), len(points)))
    rows = np.hstack([np.ones((LEVELS, 1)), coding])
    found = shape(fit(x, seen, [points[:, 0]], balanced=True), rows, np.arange(LEVELS) * 1.0)
    assert found.kind == kind
    assert [(step.first, step.last) for step in found.steps] == ends


def test_a_share_has_wilsons_interval() -> None:
    one = share(5, 8)
    oracle = stats.binomtest(5, 8).proportion_ci(method="wilson")
    assert one.interval == (pytest.approx(oracle.low), pytest.approx(oracle.high))


def test_failures_at_one_level_are_seen_and_another_settings_are_not() -> None:
    codes = np.array(list(itertools.product(range(4), range(3), range(3))))
    shares = (codes[:, 0] == 3) * 0.5
    assert p_of_levels(shares, codes[:, 0]) < 0.001
    assert p_of_levels(shares, codes[:, 1], codes[:, 0]) > 0.9
    assert np.isnan(p_of_levels(np.zeros(36), codes[:, 0]))


def test_draws_that_crowd_are_gathered_and_blind_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    blind = 10 ** rng.uniform(-4, -2, 100)
    good = -((np.log10(blind) + 3) ** 2)
    assert not is_gathered(blind, good)
    crowd = 10 ** np.append(rng.uniform(-4, -2, 20), rng.normal(-3, 0.05, 80))
    assert is_gathered(crowd, -((np.log10(crowd) + 3) ** 2))
    assert not is_gathered(np.repeat([1e-4, 1e-3, 1e-2], 30), np.zeros(90))
