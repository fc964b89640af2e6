"""The additive model, its interactions and shares against statsmodels and published numbers."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from made_sweeps import Load, Ran
from statsmodels.formula.api import ols

from analysis.findings import effect_tests, pairs
from analysis.statistics import adjusted
from analysis.statistics.design import Design, design
from analysis.statistics.replicates import replicates
from analysis.study.hyperparameters import Hyperparameter
from analysis.study.table import Study
from analysis.study.table import load as to_study
from analysis.topics import importance
from sae_sweep.records import METRICS

DATA = Path(__file__).parents[1] / "data"
KEYS = ("sae.k", "train.lr", "sae.aux_coeff")


def hyperparameter(name: str, values: list[float]) -> Hyperparameter:
    order = [f"{value:g}" for value in sorted(set(values))]
    return Hyperparameter(
        f"sae.{name}", name, "numeric", list(values), [f"{v:g}" for v in values], order
    )


@pytest.fixture
def unbalanced(load: Load) -> Study:
    """27 of 36 configurations; k matters, lr bends, aux_coeff does nothing; k and lr interact."""
    rng = np.random.default_rng(3)
    points = list(itertools.product([4, 8, 16], [1e-4, 3e-4, 1e-3, 3e-3], [0, 0.1, 1.0]))
    kept = rng.permutation(len(points))[:27]
    trials = []
    for i in sorted(kept):
        k, lr, aux = points[i]
        u = -0.3 * np.log10(k) + 0.1 * abs(np.log10(lr) + 3.2) + 0.02 * rng.normal()
        assignment = dict(zip(KEYS, (k, lr, aux), strict=True))
        trials.append(Ran(assignment, {"fvu": 10**u * 0.5, "dead_features": rng.random()}))
    return to_study(load(trials)[0])


def frame(study: Study) -> pd.DataFrame:
    """The trials as statsmodels reads them."""
    table = pd.DataFrame({one.name: one.levels for one in study.hyperparameters})
    return table.assign(u=study.scaled["fvu"].to_numpy())


def test_the_tests_are_statsmodels_type_ii_and_hc3(unbalanced: Study) -> None:
    fitted = ols("u ~ C(k) + C(lr) + C(aux_coeff)", frame(unbalanced)).fit()
    oracle = sm.stats.anova_lm(fitted, typ=2)
    robust = fitted.get_robustcov_results("HC3", use_t=True)
    names = list(fitted.params.index)
    for one in effect_tests.estimate(unbalanced).of(METRICS["fvu"]):
        row = oracle.loc[f"C({one.hyperparameter.name})"]
        assert one.adjusted is not None
        own = [i for i, name in enumerate(names) if f"C({one.hyperparameter.name})" in name]
        hc3 = robust.f_test(np.eye(len(names))[own])
        # the less favourable of the two
        expected = max([(row["PR(>F)"], row["F"]), (float(hc3.pvalue), float(hc3.fvalue))])
        assert one.adjusted.p == pytest.approx(expected[0])
        assert one.adjusted.f == pytest.approx(expected[1])
        rest = oracle.loc["Residual", "sum_sq"]
        share = row["sum_sq"] / (row["sum_sq"] + rest)
        assert one.adjusted.partial_eta_squared == pytest.approx(share)


def test_the_adjusted_change_is_the_models_prediction(unbalanced: Study) -> None:
    fit = ols("u ~ C(k) + C(lr) + C(aux_coeff)", frame(unbalanced)).fit()
    found = effect_tests.estimate(unbalanced).of(METRICS["fvu"])[0].adjusted
    assert found is not None
    grid = pd.DataFrame(
        itertools.product(["4", "16"], ["0.0001", "0.0003", "0.001", "0.003"], ["0", "0.1", "1"]),
        columns=["k", "lr", "aux_coeff"],
    )
    means = grid.assign(u=fit.predict(grid)).groupby("k")["u"].mean()
    assert found.change is not None
    assert found.change.adjusted == pytest.approx(means["16"] - means["4"])
    assert found.means[found.factor.levels.index("4")] == pytest.approx(means["4"])
    low, high = found.change.adjusted_interval or (np.nan, np.nan)
    assert low < found.change.adjusted < high


def test_shapes_are_told(unbalanced: Study) -> None:
    findings = {
        one.hyperparameter.name: one.finding
        for one in effect_tests.estimate(unbalanced).of(METRICS["fvu"])
    }
    assert findings == {"k": "monotone", "lr": "bent", "aux_coeff": "none"}


def test_settings_that_change_together_are_named_and_not_judged(load: Load) -> None:
    rng = np.random.default_rng(0)
    trials = [
        Ran(
            {"sae.k": k, "train.lr": 1e-3 / k, "sae.expansion_factor": wide},
            {"fvu": 0.5 / k * 1.01 ** rng.normal()},
        )
        for k in (4, 8, 16)
        for wide in (2, 4, 8)
    ]
    found = effect_tests.estimate(to_study(load(trials)[0])).of(METRICS["fvu"])
    assert [one.finding for one in found] == ["untested", "untested", "none"]
    assert found[0].reason == "changes together with lr"
    assert found[2].adjusted is not None


def topk() -> tuple[Design, np.ndarray]:
    """The published grid of 12 SAEs and their explained variance."""
    table = pd.read_csv(DATA / "topk_grid.csv")
    settings = [hyperparameter(name, table[name].tolist()) for name in ("k", "d_sae")]
    return design(settings, np.arange(len(table))), table["explained_variance"].to_numpy()


def test_the_published_grids_sums_of_squares_come_out() -> None:
    columns, y = topk()
    additive = adjusted.residual_squares(columns.x, y)
    total = ((y - y.mean()) ** 2).sum()
    shares = [
        (adjusted.residual_squares(columns.without(one), y) - additive) / total
        for one in columns.factors
    ]
    np.testing.assert_allclose([*shares, additive / total], [0.994, 0.004, 0.002], atol=5e-4)
    whole = np.hstack([columns.x, pairs.products(columns, *columns.factors)])
    assert adjusted.residual_squares(whole, y) / total < 1e-12


def test_an_interactions_share_is_statsmodels_and_its_test_no_more_favourable(
    unbalanced: Study,
) -> None:
    base = ols("u ~ C(k) + C(lr) + C(aux_coeff)", frame(unbalanced)).fit()
    tested = [one for one in effect_tests.estimate(unbalanced).pairs if one.metric.name == "fvu"]
    forms = set()
    for one in tested:
        a, b = one.first.name, one.second.name
        table = frame(unbalanced)
        # of cells with fewer than three configurations only the product of the places is tested
        whole = pd.crosstab(table[a], table[b]).to_numpy().min() >= pairs.FEWEST_PER_CELL
        forms.add(whole)
        table["bend"] = np.array(one.first.numbers) * np.array(one.second.numbers)
        form = f"C({a}):C({b})" if whole else "bend"
        fit = ols(f"u ~ C(k) + C(lr) + C(aux_coeff) + {form}", table).fit()
        assert one.gain == pytest.approx((base.ssr - fit.ssr) / base.centered_tss)
        if whole == (one.df > 1):
            assert one.p >= fit.compare_f_test(base)[1]
    assert False in forms


def test_importance_over_all_is_the_models_and_ranks_the_dominant_first() -> None:
    columns, y = topk()
    found = importance.importances(columns, y)
    seen = replicates(y, np.arange(len(y)), np.zeros(len(y), dtype=int))
    fitted = adjusted.additive(columns, seen)
    oracle = adjusted.adjust(columns, columns.factors[0], y, fitted)
    assert oracle is not None
    first = found.found[0]
    assert first.factor.hyperparameter.name == "k"
    assert first.share == pytest.approx(oracle.partial_eta_squared)
    # 12 configurations for 6 parameters
    assert not importance.enough(columns)
