"""Effects, levels, contrasts and noise against independent formulas."""

import math

import numpy as np
import pytest
from made_sweeps import Load, Ran, grid
from scipy import stats

from analysis import contrast, noise, scales
from analysis.effects import effect, spearman_interval
from analysis.levels import levels
from analysis.study import Study
from analysis.study import load as to_study
from sae_sweep.records import METRICS

FVU, DEAD = METRICS["fvu"], METRICS["dead_features"]


def study(load: Load, trials: list[Ran]) -> Study:
    return to_study(load(trials)[0])


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
    found = effect(*(lambda s: (s, s.hyperparameters[0], FVU))(study(load, trials)))
    x = np.log([trial.assignment["train.lr"] for trial in trials])
    y = np.log([trial.final["fvu"] for trial in trials])
    assert found.n == 12
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)


def test_the_interval_is_near_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    found = spearman_interval(x, y, np.arange(60))
    oracle = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found is not None
    np.testing.assert_allclose(found, oracle, atol=0.06)


def test_copies_of_a_configuration_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20))
    single = spearman_interval(x, y, np.arange(20))
    copied = spearman_interval(*(np.repeat(one, 9) for one in (x, y, np.arange(20))))
    assert single is not None
    assert copied is not None
    np.testing.assert_allclose(copied, single, atol=1e-6)


def test_under_four_configurations_there_is_no_interval(load: Load) -> None:
    one = study(load, random_trials(3))
    found = effect(one, one.hyperparameters[0], FVU)
    assert found.interval is None
    assert "n too small" in found.remark


def test_a_constant_metric_has_no_correlation_and_no_best_level(load: Load) -> None:
    trials = [Ran({"sae.k": k}, {"fvu": 0.5}) for k in (4, 8, 16, 32)]
    one = study(load, trials)
    found = effect(one, one.hyperparameters[0], FVU)
    assert found.remark == "metric constant"
    assert found.ends is None


def test_a_conditional_setting_has_levels_but_no_correlation(load: Load) -> None:
    one = study(load, grid())
    target = next(h for h in one.hyperparameters if h.name == "aux_target")
    found = effect(one, target, DEAD)
    assert math.isnan(found.pearson)
    assert found.remark == "not active in every trial"
    assert found.ends is not None
    assert [level.name for level in found.ends] == ["0.02", "(inactive)"]


def test_best_and_worst_follow_the_metrics_direction(load: Load) -> None:
    trials = [Ran({"sae.k": k}, {"fvu": 1 / k, "explained_variance": 1 - 1 / k}) for k in (4, 8)]
    one = study(load, trials)
    for metric in (FVU, METRICS["explained_variance"]):
        ends = effect(one, one.hyperparameters[0], metric).ends
        assert ends is not None
        assert [level.name for level in ends] == ["8", "4"]


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
    found = {one.metric.name: one for one in contrast.auxiliary(study(load, trials))}
    # of the six pairs, one has lost its trial with the loss off (2), one that with it on (5);
    # 8 and 9 lost both
    whole = [(0, 1), (6, 7), (10, 11)]
    changes = [trials[on].final["fvu"] - trials[off].final["fvu"] for off, on in whole]
    assert found["fvu"].pairs == 3
    assert found["fvu"].median_difference == pytest.approx(np.median(changes))
    assert found["fvu"].improved == 0
    assert found["dead_features"].improved == 3
    off = [trials[i].final["fvu"] for i in (0, 4, 6, 10)]
    assert (found["fvu"].n_off, found["fvu"].n_on) == (4, 4)
    assert found["fvu"].mean_off == pytest.approx(stats.gmean(off))


def test_without_both_sides_there_is_no_contrast(load: Load) -> None:
    assert contrast.auxiliary(study(load, random_trials(4))) == []


def test_the_noise_floor_pools_the_variances_within_configurations(load: Load) -> None:
    trials = random_trials(5, seeds=3)
    found = noise.floor(study(load, trials), FVU)
    logs = np.log10([trial.final["fvu"] for trial in trials]).reshape(5, 3)
    assert found is not None
    assert found.degrees_of_freedom == 10
    assert found.sd == pytest.approx(math.sqrt(logs.var(axis=1, ddof=1).mean()))
    assert found.detectable == pytest.approx(stats.t.ppf(0.975, 10) * found.sd * math.sqrt(2))


def test_without_seeds_the_noise_is_unknown(load: Load) -> None:
    assert noise.floor(study(load, random_trials(5)), FVU) is None
