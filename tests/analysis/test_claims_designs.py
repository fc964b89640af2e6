"""Claims on effects that only some designs bring forth, recomputed from data/runs.csv."""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from effects_oracle import Oracle
from made_sweeps import Ran, write_store
from pandas.api.types import is_numeric_dtype
from scipy import stats
from scipy.stats import contingency
from statsmodels.formula.api import ols
from statsmodels.stats.outliers_influence import variance_inflation_factor
from test_claims_effects import claims, close

from analysis import report
from sae_sweep.records.store import Reader

Claim = dict[str, Any]
METRICS = ("fvu", "dead_features")
KEYS = ("sae.l1_alpha", "train.lr", "train.batch_size", "train.schedule")
ALPHAS = [2.0**i for i in range(1, 9)]
LR = [1e-4 * 2**i for i in range(8)]


def _ran(settings: dict[str, object], u: float, dead: float) -> Ran:
    return Ran(settings, {"fvu": 10**u, "dead_features": dead, "l0": 8.0})


def confounded() -> list[Ran]:
    """lr goes up with l1_alpha, which does all: for dead_features alone, for fvu against it."""
    rng = np.random.default_rng(1)
    near = [(i, j) for i, j in itertools.product(range(8), repeat=2) if abs(i - j) <= 1]
    return [
        _ran(
            {"sae.l1_alpha": ALPHAS[i], "train.lr": LR[j], "train.batch_size": size},
            -0.3 - 0.08 * i + 0.03 * j + 0.005 * rng.normal(),
            0.5 - 0.03 * i + 0.002 * rng.normal(),
        )
        for (i, j), size in itertools.product(near, [64, 128, 256])
    ]


def categories() -> list[Ran]:
    """A schedule of three names that matters for fvu, beside an l1_alpha."""
    rng = np.random.default_rng(2)
    shifts = {"constant": 0.0, "cosine": -0.1, "linear": -0.05}
    return [
        _ran(
            {"train.schedule": name, "sae.l1_alpha": alpha, "train.batch_size": size},
            -0.3 + shift - 0.02 * np.log2(alpha) + 0.004 * rng.normal(),
            0.2 + 0.01 * rng.normal(),
        )
        for (name, shift), alpha, size in itertools.product(
            shifts.items(), ALPHAS[:4], [64, 128, 256, 512]
        )
    ]


def together() -> list[Ran]:
    """l1_alpha and lr are changed together, batch_size by itself."""
    rng = np.random.default_rng(3)
    return [
        _ran(
            {"sae.l1_alpha": ALPHAS[i], "train.lr": LR[i], "train.batch_size": size},
            -0.3 - 0.05 * i + 0.01 * rng.normal(),
            0.2 + 0.01 * rng.normal(),
        )
        for i, size in itertools.product(range(4), [64, 128, 256, 512])
    ]


def few() -> list[Ran]:
    """A cross of l1_alpha and lr: as many parameters as configurations."""
    points = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    return [
        _ran({"sae.l1_alpha": ALPHAS[i], "train.lr": LR[j]}, -0.3 - 0.05 * i, 0.2 + 0.01 * j)
        for i, j in points
    ]


SWEEPS = (confounded, categories, together, few)
WANTED = {
    "confounded": {"Goes", "Unheld", "Associated", "Inflated", "NoInteraction", "WinWin"},
    "categories": {"Differs", "NoBestLevel", "BestLevel"},
    "together": {"Aliased", "Inflated", "Associated", "NoBestLevel"},
    "few": {"TooFew", "TooFewForImportance"},
}


class Sweep:
    """The page's claims, and what the runs' table says by itself."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.found = claims(folder)
        runs = pd.read_csv(folder / "data" / "runs.csv")
        keys = [key for key in KEYS if key in runs and len(set(runs[key])) > 1]
        self.names = [key.rpartition(".")[2] for key in keys]
        runs = runs.rename(columns=lambda name: name.rpartition(".")[2])
        self.table = runs[runs["ranked"]].assign(fvu=lambda t: np.log10(t["fvu"]))

    def fit(self, metric: str, *, without: tuple[str, ...] = ()) -> object:
        """The additive model; of those that are aliased it has the first."""
        left_out = {*without, *self.aliased[1:]}
        names = [f"C({name})" for name in self.names if name not in left_out]
        return ols(f"{metric} ~ {' + '.join(names)}", self.table).fit()

    def spearman(self, name: str, metric: str) -> float:
        return float(stats.spearmanr(self.table[name], self.table[metric]).statistic)

    @cached_property
    def aliased(self) -> tuple[str, ...]:
        """Those whose levels give another's away, and are given away by it."""
        return tuple(
            a
            for a in self.names
            for b in self.names
            if a != b
            and ((pd.crosstab(self.table[a], self.table[b]) > 0).sum(axis=0) == 1).all()
            and ((pd.crosstab(self.table[a], self.table[b]) > 0).sum(axis=1) == 1).all()
        )

    @cached_property
    def oracle(self) -> Oracle:
        """Every test of the page, of effects and pairs."""
        table = self.table.assign(seed=0)
        return Oracle(table, self.names, METRICS, self.aliased)

    @property
    def q(self) -> dict[tuple[str, ...], float]:
        """Of effects and pairs as one family; of aliased ones there is none."""
        return self.oracle.q

    def means(self, name: str, metric: str) -> pd.Series:
        """Predictions for the full grid of levels, averaged at each level."""
        return self.oracle.means(name, metric)


@pytest.fixture(scope="module", params=SWEEPS, ids=lambda one: one.__name__)
def sweep(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sweep]:
    place = tmp_path_factory.mktemp(request.param.__name__)
    url = write_store(place, request.param())
    with Reader(url) as reader:
        page = report.render(reader.sweep(), place / "out" / "study", reader.history)
        yield Sweep(request.param.__name__, page.parent)


def moved(sweep: Sweep, one: Claim, field: str) -> float:
    """The adjusted change from the first level to the last, which the claim names."""
    means = sweep.means(one["hyperparameter"], one["metric"]).sort_index()
    move = float(means.iloc[-1] - means.iloc[0])
    assert one[field] == close(move)
    assert (float(one["first"]), float(one["last"])) == (means.index[0], means.index[-1])
    return move


def unheld(sweep: Sweep, one: Claim) -> None:
    name, metric = one["hyperparameter"], one["metric"]
    assert one["spearman"] == close(sweep.spearman(name, metric))
    # a correlation that none of 9,999 permutations reaches has p = 1e-4
    p = {
        (a, b): max(1e-4, stats.spearmanr(sweep.table[a], sweep.table[b]).pvalue)
        for b in METRICS
        for a in sweep.names
    }
    assert p[name, metric] == 1e-4
    q = dict(zip(p, stats.false_discovery_control(list(p.values()), method="by"), strict=True))
    assert one["raw_q"] == pytest.approx(q[name, metric], rel=0.05)
    assert one["q"] == close(sweep.q[name, metric])
    assert one["q"] >= 0.05


def differs(sweep: Sweep, one: Claim) -> None:
    name, metric = one["hyperparameter"], one["metric"]
    less, full = sweep.fit(metric, without=(name,)).ssr, sweep.fit(metric).ssr
    assert one["held"] == (len(sweep.names) > 1)
    assert one["partial_eta_squared"] == close((less - full) / less)
    assert one["q"] == close(sweep.q[name, metric])
    assert not is_numeric_dtype(sweep.table[name])
    assert one["q"] < 0.05


def goes(sweep: Sweep, one: Claim) -> None:
    name, metric = one["hyperparameter"], one["metric"]
    move = moved(sweep, one, "change")
    ends = sweep.means(name, metric).sort_index().index[[0, -1]]
    interval = sweep.oracle.change(name, metric, *ends)[2]
    assert one["change_interval"] == [close(end) for end in interval]
    assert np.sign(move) == one["sign"]
    rho = sweep.spearman(name, metric)
    assert one["raw"] == close(rho)
    # the adjusted effect is the claim, whatever the plain correlation says
    assert one["raw_disagrees"] == (rho * one["sign"] < 0.1)
    assert one["configurations"] == len(sweep.table)
    assert one["q"] == close(sweep.q[name, metric])
    assert one["q"] < 0.05
    pairs = [pair for pair in sweep.oracle.pairs if pair[2] == metric and sweep.q[pair] < 0.05]
    depends = [{a, b} - {name} for a, b, _ in pairs if name in (a, b)]
    assert sorted(one["depends_on"]) == sorted(other for (other,) in depends)


def not_detected(sweep: Sweep, one: Claim) -> None:
    metric = one["metric"]
    apart = {
        other["hyperparameter"]
        for other in sweep.found
        if other["kind"] == "Unheld" and other["metric"] == metric
    }
    names = [n for n in sweep.oracle.free if sweep.q[n, metric] >= 0.05 and n not in apart]
    assert sorted(one["hyperparameters"]) == sorted(names)
    keys = ("hyperparameters", "levels", "changes", "intervals", "q")
    for name, ends, change, interval, q in zip(*(one[key] for key in keys), strict=True):
        assert (one["configurations"], q) == (len(sweep.table), close(sweep.q[name, metric]))
        assert (ends is None) == (not is_numeric_dtype(sweep.table[name]))
        if ends is not None:
            levels = sorted(set(sweep.table[name]))
            expected, _, reach = sweep.oracle.change(name, metric, levels[0], levels[-1])
            assert list(map(float, ends)) == [levels[0], levels[-1]]
            assert change == close(expected)
            assert interval == [close(end) for end in reach]


def aliased(sweep: Sweep, one: Claim) -> None:
    assert tuple(one["hyperparameters"]) == sweep.aliased
    assert tuple(one["metrics"]) == METRICS


def too_few(sweep: Sweep, one: Claim) -> None:
    fit = sweep.fit("fvu")
    assert (one["configurations"], one["parameters"]) == (fit.nobs, fit.df_model + 1)
    assert fit.df_resid < 3
    assert tuple(one["metrics"]) == METRICS


def too_few_for_importance(sweep: Sweep, one: Claim) -> None:
    fit = sweep.fit("fvu")
    assert (one["configurations"], one["parameters"]) == (fit.nobs, fit.df_model + 1)
    assert fit.nobs < 5 * (fit.df_model + 1)


def win_win(sweep: Sweep, one: Claim) -> None:
    name = one["hyperparameter"]
    for side in ("first", "second"):
        means = sweep.means(name, one[side]).sort_index()
        assert (means.iloc[-1] < means.iloc[0]) == one["larger"]
        assert one[f"q_{side}"] == close(sweep.q[name, one[side]])
        assert one[f"q_{side}"] < 0.05


def best_level(sweep: Sweep, one: Claim) -> None:
    name, metric = one["hyperparameter"], one["metric"]
    means = sweep.means(name, metric)
    levels = [f"{x:g}" if isinstance(x, float | int) else x for x in means.index[:2]]
    assert [one["level"], one["second"]] == levels
    units = 10**means if metric == "fvu" else means
    assert [one["mean"], one["second_mean"]] == [close(value) for value in units.iloc[:2]]
    assert one["p"] == pytest.approx(sweep.oracle.best_p(name, metric), rel=1e-3, abs=1e-12)
    assert sweep.q[name, metric] < 0.05


def no_best_level(sweep: Sweep, one: Claim) -> None:
    metric = one["metric"]
    rest = [name for name in sweep.names if name not in sweep.aliased]
    p = {name: max(sweep.q[name, metric], sweep.oracle.best_p(name, metric)) for name in rest}
    unclear = {name for name in rest if p[name] >= 0.05}
    assert set(one["hyperparameters"]) == unclear


def best_at_edge(sweep: Sweep, one: Claim) -> None:
    levels, level = sweep.table[one["hyperparameter"]], float(one["level"])
    assert level == (levels.max() if one["highest"] else levels.min())
    assert level == sweep.means(one["hyperparameter"], one["metric"]).index[0]
    top = max(int(0.05 * len(sweep.table)), 1)
    best = sweep.table.nsmallest(top, one["metric"])[one["hyperparameter"]]
    assert (one["top"], one["there"]) == (top, (best == level).sum())


def no_interaction(sweep: Sweep, one: Claim) -> None:
    shares = [share for _, share in sweep.oracle.pairs.values()]
    assert (one["tests"], one["largest_share"]) == (len(shares), close(max(shares)))
    assert all(sweep.q[pair] >= 0.05 for pair in sweep.oracle.pairs)


def associated(sweep: Sweep, one: Claim) -> None:
    cells = pd.crosstab(sweep.table[one["first"]], sweep.table[one["second"]]).to_numpy()
    v = contingency.association(cells, method="cramer")
    assert v > 0.3
    assert one["cramers_v"] == close(v)
    assert (one["empty"], one["cells"]) == ((cells == 0).sum(), cells.size)


def inflated(sweep: Sweep, one: Claim) -> None:
    name = one["hyperparameter"]
    numbers = [name for name in ("l1_alpha", "lr", "batch_size") if name in sweep.table]
    x = np.log10(sweep.table[numbers])
    exact = any(abs(x[name].corr(x[other])) > 1 - 1e-12 for other in numbers if other != name)
    assert (one["factor"] is None) == exact
    if not exact:
        factor = variance_inflation_factor(x.assign(one=1.0).to_numpy(), numbers.index(name))
        assert one["factor"] == close(factor)
        assert factor > 5


def asked(sweep: Sweep, one: Claim) -> None:
    points = len(sweep.table[sweep.names].drop_duplicates())
    possible = int(np.prod([sweep.table[name].nunique() for name in sweep.names]))
    assert (one["combinations"], one["possible"]) == (points, possible)


CHECKS: dict[str, Callable[[Sweep, Claim], None]] = {
    "Unheld": unheld,
    "Differs": differs,
    "Goes": goes,
    "NotDetected": not_detected,
    "Aliased": aliased,
    "TooFew": too_few,
    "TooFewForImportance": too_few_for_importance,
    "WinWin": win_win,
    "BestLevel": best_level,
    "NoBestLevel": no_best_level,
    "BestAtEdge": best_at_edge,
    "NoInteraction": no_interaction,
    "Associated": associated,
    "Inflated": inflated,
    "Asked": asked,
}


@pytest.mark.slow
def test_every_sentence_says_what_the_runs_say(sweep: Sweep) -> None:
    checked = [one for one in sweep.found if one["kind"] in CHECKS]
    for one in checked:
        CHECKS[one["kind"]](sweep, one)
    assert len(checked) > 2


def test_each_sweep_brings_forth_its_sentences(sweep: Sweep) -> None:
    assert WANTED[sweep.name] <= {one["kind"] for one in sweep.found}


def test_an_effect_that_the_plain_correlation_hides_is_claimed_with_a_warning(sweep: Sweep) -> None:
    against = [
        (one["hyperparameter"], one["metric"], one["sign"])
        for one in sweep.found
        if one["kind"] == "Goes" and one["raw_disagrees"]
    ]
    assert against == ([("lr", "fvu", 1)] if sweep.name == "confounded" else [])
