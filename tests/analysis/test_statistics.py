"""Effects, levels, contrasts and noise against independent formulas."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from made_sweeps import Load, Ran, grid
from scipy import stats

from analysis.findings import effect_tests, noise
from analysis.findings.effect_tests import Effect
from analysis.statistics.correlations import correlation_interval
from analysis.statistics.replicates import least_gap
from analysis.statistics.resampling import permutation_gap
from analysis.study import samples, scales
from analysis.study.table import Study
from analysis.study.table import load as to_study
from analysis.topics import switches
from analysis.topics.levels import expected_least, levels
from sae_sweep.records import METRICS, Metric

FVU, DEAD = METRICS["fvu"], METRICS["dead_features"]


def study(load: Load, trials: list[Ran]) -> Study:
    return to_study(load(trials)[0])


def effect(one: Study, name: str, metric: Metric) -> Effect:
    """What is found of a hyperparameter by name."""
    found = effect_tests.estimate(one)
    return next(e for e in found.of(metric) if e.hyperparameter.name == name)


def random_trials(n: int, seeds: int = 1) -> list[Ran]:
    rng = np.random.default_rng(0)
    trials = []
    for i in range(n):
        for seed in range(seeds):
            assignment = {
                "train.lr": 1e-4 * 1.5**i,
                "train.seed_init": seed,
                "train.seed_data": seed,
            }
            fvu = 0.1 * (1 + i) ** -0.3 * math.exp(0.3 * rng.normal())
            trials.append(Ran(assignment, {"fvu": fvu, "dead_features": rng.random()}))
    return trials


def test_correlations_are_scipys_on_the_declared_scales(load: Load) -> None:
    trials = random_trials(12)
    found = effect(study(load, trials), "lr", FVU).correlation
    x = np.log([trial.assignment["train.lr"] for trial in trials])
    y = np.log([trial.final["fvu"] for trial in trials])
    oracle = stats.spearmanr(x, y)
    assert found.n == 12
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(oracle.statistic)
    assert found.p == pytest.approx(oracle.pvalue, abs=0.005)


@pytest.mark.parametrize("of", ["pearson", "spearman"])
def test_the_interval_is_near_scipys_bootstrap(of: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    a, b = (x, y) if of == "pearson" else (stats.rankdata(x), stats.rankdata(y))
    oracle = stats.bootstrap(
        (x, y),
        lambda a, b: getattr(stats, f"{of}r")(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = correlation_interval(a, b)
    assert found is not None
    np.testing.assert_allclose(found, oracle, atol=0.06)


def test_seeds_are_averaged_on_the_metrics_scale(load: Load) -> None:
    trials = random_trials(6, seeds=3)
    found = samples.sample(study(load, trials), FVU)
    logs = np.log10([trial.final["fvu"] for trial in trials]).reshape(6, 3)
    np.testing.assert_allclose(found.y, logs.mean(axis=1))
    assert found.trials == 18


def test_under_four_configurations_there_is_no_interval(load: Load) -> None:
    found = effect(study(load, random_trials(3)), "lr", FVU)
    assert found.correlation.spearman_interval is None


def test_a_constant_metric_has_no_correlation_and_no_best_level(load: Load) -> None:
    trials = [Ran({"sae.k": k}, {"fvu": 0.1}) for k in (4, 8, 16, 32)]
    found = effect(study(load, trials), "k", FVU)
    assert (found.finding, found.reason) == ("untested", "metric constant")
    assert found.best is None


def test_a_conditional_setting_is_judged_where_it_is_active(load: Load) -> None:
    trials = []
    rng = np.random.default_rng(0)
    for i, (on, target) in enumerate([(0, None), *((1, t) for t in (0.01, 0.02, 0.05))] * 6):
        keys = {"sae.k": 2 ** (2 + i // 8), "sae.aux_coeff": on, "sae.aux_target": target}
        keys |= {"train.lr": 1e-4 * (1 + i % 8 // 4)}
        dead = 0.5 - 5 * (target or 0.1) + 0.001 * rng.normal()
        trials.append(Ran(keys, {"fvu": 0.5, "dead_features": dead}))
    found = effect(study(load, trials), "aux_target", DEAD)
    assert found.correlation.n == 18
    assert found.correlation.spearman < -0.9
    assert found.adjusted is not None
    assert found.adjusted.df == 2
    assert found.finding == "monotone"


def test_best_follows_the_metrics_direction(load: Load) -> None:
    rng = np.random.default_rng(0)
    trials = []
    for i in range(24):
        fvu = 0.5 / (1 + i % 4) * 10 ** (0.01 * rng.normal())
        keys = {"sae.k": 4 * 2 ** (i % 4), "train.lr": 1e-4 * 2 ** (i // 4)}
        trials.append(Ran(keys, {"fvu": fvu, "dead_features": 1 - fvu}))
    one = study(load, trials)
    levels_found = [effect(one, "k", metric).best for metric in (FVU, DEAD)]
    assert [best and best.level for best in levels_found] == ["32", "4"]
    assert all(best is not None and best.is_apart for best in levels_found)


def test_the_expected_least_is_the_mean_over_all_draws() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    for m in (1, 2, 3, 5):
        draws = [min(chosen) for chosen in itertools.combinations(values, m)]
        assert expected_least(values, m) == pytest.approx(np.mean(draws))


def test_levels_hold_every_trial_once_and_their_means_make_the_grand_mean(load: Load) -> None:
    one = study(load, grid())
    for hyperparameter in one.hyperparameters:
        found = levels(one, hyperparameter, FVU)
        assert sum(level.trials for level in found) == len(one.trials)
        assert sum(level.n for level in found) == len(one.ranked)
        total = sum(level.n * math.log(level.mean) for level in found)
        assert total == pytest.approx(np.log(one.ranked["fvu"]).sum())


def test_a_level_counts_what_diverged_there(load: Load) -> None:
    one = study(load, grid())
    k = next(h for h in one.hyperparameters if h.name == "k")
    assert [level.diverged for level in levels(one, k, FVU)] == [1, 0, 0]


@pytest.mark.parametrize("metric", [FVU, DEAD])
def test_a_mean_on_the_scale_lies_between_the_extremes(metric) -> None:
    values = np.array([0.001, 0.5, 0.99])
    mean = scales.back(metric, float(scales.onto(metric, values).mean()))
    assert values.min() < mean < values.max()


def test_what_a_logarithm_cannot_take_is_missing() -> None:
    assert np.isnan(scales.onto(FVU, np.array([0.0, -1.0]))).all()


def test_the_contrast_pairs_trials_that_are_otherwise_equal(load: Load) -> None:
    trials = grid()
    found = {one.metric.name: one for one in switches.contrasts(study(load, trials))}
    # of the six pairs, one has lost its trial with the loss off (2), one that with it on (5);
    # 8 and 9 lost both
    whole = [(0, 1), (6, 7), (10, 11)]
    changes = [math.log10(trials[on].final["fvu"] / trials[off].final["fvu"]) for off, on in whole]
    assert found["fvu"].pairs == found["fvu"].blocks == 3
    assert found["fvu"].median == pytest.approx(np.median(changes))
    assert found["fvu"].improved == 0
    assert found["dead_features"].improved == 3


def test_seeds_and_degrees_of_on_make_one_block(load: Load) -> None:
    trials = [
        Ran(
            {"sae.k": k, "sae.aux_coeff": on, "train.seed_init": s, "train.seed_data": s},
            {"fvu": 0.1 * 10**on, "dead_features": 0.1},
        )
        for k in (4, 8)
        for on in (0, 0.1, 0.3)
        for s in (0, 1)
    ]
    (fvu, _) = switches.contrasts(study(load, trials))
    assert (fvu.pairs, fvu.blocks) == (8, 2)
    assert fvu.median == pytest.approx(0.2)


def test_a_setting_that_is_none_in_some_trials_is_a_switch(load: Load) -> None:
    trials = [
        Ran({"sae.k": k, "train.resample_every": every}, {"fvu": 1 / k + (every or 0) / 1e4})
        for k in (4, 8, 16)
        for every in (None, 100)
    ]
    (found,) = switches.contrasts(study(load, trials))
    assert (found.hyperparameter.name, found.pairs) == ("resample_every", 3)


@pytest.mark.parametrize("n", [1, 5, 6, 9, 30])
@pytest.mark.parametrize("tied", [False, True])
def test_the_signed_rank_test_is_scipys(n: int, tied: bool) -> None:
    changes = np.random.default_rng(n).normal(0.5, 1, size=n)
    if tied:
        changes = np.round(changes) + 0.5
        if n > 9:
            return  # there scipy falls back on the normal distribution
    assert switches.signed_rank_p(changes) == pytest.approx(
        stats.wilcoxon(changes).pvalue, abs=0.02
    )


@pytest.mark.parametrize("n", [6, 12, 60])
def test_the_interval_of_a_change_is_what_the_signed_rank_test_does_not_refuse(n: int) -> None:
    changes = np.random.default_rng(n).normal(0.3, 1, size=n)
    found = switches.hodges_lehmann(changes)
    assert found is not None
    for bound, inside in ((found[0], 1e-6), (found[1], -1e-6)):
        assert switches.signed_rank_p(changes - bound - inside) > 0.05
        assert switches.signed_rank_p(changes - bound + inside) <= 0.05


def test_below_six_blocks_there_is_no_interval() -> None:
    assert switches.hodges_lehmann(np.arange(1.0, 6.0)) is None


def test_without_both_sides_there_is_no_contrast(load: Load) -> None:
    assert switches.contrasts(study(load, random_trials(4))) == []


def test_the_noise_floor_pools_the_variances_within_configurations(load: Load) -> None:
    trials = random_trials(5, seeds=3)
    found = noise.floor(study(load, trials), FVU)
    logs = np.log10([trial.final["fvu"] for trial in trials]).reshape(5, 3)
    # all share the seeds, which are blocks
    left = logs - logs.mean(0) - logs.mean(1, keepdims=True) + logs.mean()
    assert found is not None
    assert found.degrees_of_freedom == 5 * 2 - 2
    assert found.sd == pytest.approx(math.sqrt((left**2).sum() / 8))
    # Tukey's range over the five, half of the 5 % for each of the two metrics
    range_ = stats.studentized_range.ppf(0.975, 5, 8)
    assert found.detectable == pytest.approx(range_ * found.sd, rel=1e-6)


def _largest_gap(values: np.ndarray, counts: np.ndarray) -> float:
    """The farthest a configuration with a single trial is from another, pair by pair."""
    parts = np.split(values, np.cumsum(counts)[:-1])
    variance = sum(len(one) * one.var() for one in parts) / (len(values) - len(counts))
    pairs = [
        abs(one.mean() - other.mean()) / np.sqrt(variance * (1 / len(one) + 1 / len(other)))
        for one, other in itertools.combinations(parts, 2)
        if min(len(one), len(other)) == 1
    ]
    return float(max(pairs))


def test_a_single_trial_is_rarely_told_apart_whatever_the_tails_of_the_noise() -> None:
    counts = np.repeat([1, 2], 12)
    noises: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "normal": lambda rng: rng.normal(size=counts.sum()),
        "heavy": lambda rng: rng.standard_t(2, size=counts.sum()),
        "mostly 0": lambda rng: np.maximum(rng.exponential(size=counts.sum()) - 0.9, 0),
    }
    for name, noise_of in noises.items():
        passed = tukey = 0
        for i in range(100):
            values = noise_of(np.random.default_rng(i))
            apart = _largest_gap(values, counts)
            passed += apart > permutation_gap(values, counts, 0.05)
            tukey += apart > least_gap(24, 12)
        assert passed <= 11, name  # of 100 three standard errors above 5
        assert (tukey > 11) == (name != "normal"), name


def test_effects_larger_than_the_noise_do_not_move_the_permutations_gap() -> None:
    counts = np.repeat([1, 2], 12)
    of = np.repeat(np.arange(24), counts)
    values = 10.0 * (of % 4) + np.random.default_rng(0).normal(size=len(of))
    assert permutation_gap(values, counts, 0.05) < 1.1 * least_gap(24, 12)


def test_without_seeds_the_noise_is_unknown(load: Load) -> None:
    assert noise.floor(study(load, random_trials(5)), FVU) is None
