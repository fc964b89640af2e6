"""What the report claims of sweeps whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.multiplicity import CLAIMED
from analysis.topics.effects.claims import Differs, Goes
from analysis.topics.interactions import Interacts
from benchmarks.planted import Planted, any_noise, claimed, sweep

SWEEPS = 200
GRID = ("train.lr", "sae.expansion_factor", "sae.aux_coeff")


def not_above(count: int, n: int, rate: float) -> bool:
    """Whether a count is one that a true rate of at most `rate` gives in 999 of 1,000 cases."""
    return bool(stats.binom.sf(count - 1, n, rate) > 0.001)


@pytest.mark.slow
def test_pure_noise_is_claimed_to_be_an_effect_at_most_at_the_declared_rate() -> None:
    wrong = 0
    for i in range(SWEEPS):
        rng = np.random.default_rng(i)
        wrong += bool(claimed(sweep(any_noise(rng), rng)))
    assert not_above(wrong, SWEEPS, CLAIMED), wrong


def test_the_bound_above_would_notice_unadjusted_tests() -> None:
    # 8 tests at .05 each find something in a third of all sweeps
    assert not not_above(round(SWEEPS * (1 - 0.95**8)), SWEEPS, CLAIMED)


@pytest.mark.parametrize("effect", [3.0, -3.0, 6.0])
def test_a_planted_effect_is_found_with_its_sign_and_the_others_are_not(effect: float) -> None:
    found, wrong = 0, 0
    for i in range(12):
        planted = Planted(effect=effect, seeds=2, settings=GRID)
        for one in claimed(sweep(planted, np.random.default_rng(i))):
            if isinstance(one, Goes) and (one.hyperparameter, one.metric) == ("lr", "fvu"):
                found += 1
                assert (one.sign < 0) == (effect > 0)
                assert one.change is not None
                assert (one.change < 0) == (effect > 0)
            elif getattr(one, "hyperparameter", "") != "lr" or one.metric != "fvu":
                wrong += 1
    assert found >= 10
    # a false effect may be told in several sentences
    assert not_above(wrong, 3 * 12, CLAIMED), wrong


@pytest.mark.slow
def test_a_confounded_setting_is_not_claimed() -> None:
    found, wrong, misled = 0, 0, 0
    for i in range(20):
        planted = Planted(effect=5.0, confounding=0.8, seeds=2, settings=GRID)
        study = sweep(planted, np.random.default_rng(i))
        told = [one for one in claimed(study) if isinstance(one, Goes | Differs)]
        found += any(one.hyperparameter == "lr" and one.metric == "fvu" for one in told)
        wrong += any(one.hyperparameter == "expansion_factor" for one in told)
        wide = next(one for one in study.hyperparameters if one.name == "expansion_factor")
        fvu = study.scaled["fvu"].to_numpy()
        misled += bool(stats.spearmanr(wide.numbers, fvu).pvalue < CLAIMED)
    assert misled >= 10, "these sweeps do not confound"
    assert found >= 15
    assert not_above(wrong, 20, CLAIMED), wrong


@pytest.mark.slow
def test_a_planted_interaction_is_found_and_none_without_it() -> None:
    found = {0.0: 0, 4.0: 0}
    for size in found:
        for i in range(10):
            planted = Planted(effect=4.0, interaction=size, seeds=2, settings=GRID)
            told = claimed(sweep(planted, np.random.default_rng(i)))
            found[size] += any(
                isinstance(one, Interacts) and {one.first, one.second} == {"lr", "expansion_factor"}
                for one in told
            )
    assert found[4.0] >= 8
    assert not_above(found[0.0], 10, CLAIMED)
