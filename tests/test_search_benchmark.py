"""The benchmark of target search: its control, its noise, its table."""

import itertools
import math

import pytest

from benchmarks import search, search_table
from benchmarks.search import BUDGET, CASES, METHODS, Case

CASE = Case(3, 768, 0.05)


def power(l1_alpha: float) -> float:
    return 0.05 * (l1_alpha / 3) ** -0.5


def test_the_published_rule_moves_away_when_it_is_near() -> None:
    near = []
    for seed in range(20):
        rule = search.published_rule(CASE, power, seed)
        errors = [abs(math.log(one.l0_fraction / CASE.target)) for one in rule]
        near += [pair for pair in itertools.pairwise(errors) if pair[0] < math.log(1.9)]
    assert len(near) > 20
    assert all(later > now for now, later in near)


def test_a_search_is_counted_to_its_first_hit() -> None:
    trained = search.until_hit(CASE, search.searched({"kind": "target"}, [], CASE, power, 0))
    *before, last = [abs(one.l0_fraction / CASE.target - 1) <= 0.1 for one in trained]
    assert last
    assert not any(before)


def test_random_draws_stop_at_the_budget() -> None:
    optuna = {"kind": "optuna", "sampler": "random"}
    trained = search.until_hit(CASE, search.searched(optuna, [], CASE, lambda _: 0.5, 0))
    assert len(trained) == BUDGET


def test_a_simulated_training_repeats_itself_within_the_noise() -> None:
    curves = search.read_curves()
    told = search.simulated(curves, CASE, 0)
    assert told(3.0) == told(3.0)
    assert told(3.0) != search.simulated(curves, CASE, 1)(3.0)
    clean = math.exp(curves[3, 768](math.log(3.0)))
    assert told(3.0) == pytest.approx(clean, rel=5 * search.SEED_NOISE)


def test_every_case_has_its_curve_and_can_be_met() -> None:
    curves = search.read_curves()
    for case in CASES:
        ends = [curves[case.layer, case.n_latents](math.log(end)) for end in search.AXIS]
        assert ends[0] > math.log(case.target) > ends[1]


def test_the_table_counts_a_miss_as_more_than_the_budget() -> None:
    runs = [
        {"method": "random", "case": [*case], "seed": 0, "trials": trials, "hit": hit}
        for case, trials, hit in [(CASES[0], 2, True), (CASES[1], 60, False), (CASES[2], 4, True)]
    ]
    runs.append(
        {"method": "trained", "case": [3, 768, 0.05], "trials": 3, "hit": True, "l0": 0.052}
    )
    text = search_table.text(runs, list(METHODS), BUDGET)
    assert "| random | 3 | 4 | 2 to 60 | over 60 | 1 |" in text
    assert "1 of 1 cases within 10 %, after 3 trials in the median and 3 at most" in text
    assert "4.0 % in the median" in text
