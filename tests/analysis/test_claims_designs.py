"""Claims on effects that only some designs bring forth, recomputed from data/runs.csv."""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, write_store
from pandas.api.types import is_numeric_dtype
from scipy import stats
from scipy.stats import contingency
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.outliers_influence import variance_inflation_factor
from test_claims_effects import claims, close

from analysis import contents, report
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
    "confounded": {"Opposed", "Unheld", "Associated", "Inflated", "NoInteraction", "WinWin"},
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

    def fit(self, metric: str, *, without: tuple[str, ...] = (), more: str = "") -> object:
        """The additive model; of those that are aliased it has the first."""
        left_out = {*without, *self.aliased[1:]}
        names = [f"C({name})" for name in self.names if name not in left_out]
        return ols(f"{metric} ~ {' + '.join(names)}{more}", self.table).fit()

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
    def q(self) -> dict[tuple[str, str], float]:
        """By type-II tests; of aliased ones there is none."""
        p = {}
        for metric in METRICS:
            tested = anova_lm(self.fit(metric), typ=2)["PR(>F)"]
            p |= {(n, metric): tested[f"C({n})"] for n in self.names if n not in self.aliased}
        return dict(
            zip(p, stats.false_discovery_control(list(p.values()), method="by"), strict=True)
        )

    def means(self, name: str, metric: str) -> pd.Series:
        """Predictions for the full grid of levels, averaged at each level."""
        grid = itertools.product(*(sorted(self.table[one].unique()) for one in self.names))
        points = pd.DataFrame(grid, columns=self.names)
        return self.fit(metric).predict(points).groupby(points[name]).mean().sort_values()

    def holm(self, name: str, metric: str) -> float:
        """Of the best level against the others, by statsmodels' tests of all pairs."""
        pairs = self.fit(metric).t_test_pairwise(f"C({name})", method="holm").result_frame
        best = str(self.means(name, metric).index[0])
        own = [row for row in pairs.index if best in row.split("-")]
        return float(pairs.loc[own, "pvalue-holm"].max())


@pytest.fixture(scope="module", params=SWEEPS, ids=lambda one: one.__name__)
def sweep(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sweep]:
    place = tmp_path_factory.mktemp(request.param.__name__)
    url = write_store(place, request.param())
    with pytest.MonkeyPatch.context() as patch, Reader(url) as reader:
        patch.setattr(contents, "draw", lambda *_: {})
        page = report.render(reader.sweep(), place / "out" / "study", reader.history)
        yield Sweep(request.param.__name__, page.parent)


def moved(sweep: Sweep, one: Claim, field: str) -> float:
    """The adjusted change from the first level to the last, which the claim names."""
    means = sweep.means(one["hyperparameter"], one["metric"]).sort_index()
    move = float(means.iloc[-1] - means.iloc[0])
    assert one[field] == close(move)
    assert (float(one["first"]), float(one["last"])) == (means.index[0], means.index[-1])
    return move


def opposed(sweep: Sweep, one: Claim) -> None:
    rho = sweep.spearman(one["hyperparameter"], one["metric"])
    assert rho * moved(sweep, one, "adjusted") < 0
    assert one["spearman"] == close(rho)
    assert one["q"] == close(sweep.q[one["hyperparameter"], one["metric"]])
    assert one["q"] < 0.05


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
    moved(sweep, one, "change")
    assert one["spearman"] == close(sweep.spearman(name, metric))
    assert one["configurations"] == len(sweep.table)
    assert one["q"] == close(sweep.q[name, metric])


def not_detected(sweep: Sweep, one: Claim) -> None:
    metric = one["metric"]
    apart = {
        other["hyperparameter"]
        for other in sweep.found
        if other["kind"] == "Unheld" and other["metric"] == metric
    }
    names = [n for n, m in sweep.q if m == metric and sweep.q[n, m] >= 0.05 and n not in apart]
    assert sorted(one["hyperparameters"]) == sorted(names)
    told = zip(
        one["hyperparameters"], one["spearman"], one["configurations"], one["q"], strict=True
    )
    for name, rho, n, q in told:
        assert (n, q) == (len(sweep.table), close(sweep.q[name, metric]))
        assert (rho is None) == (not is_numeric_dtype(sweep.table[name]))
        assert rho is None or rho == close(sweep.spearman(name, metric))


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
        assert (sweep.spearman(name, one[side]) < 0) == one["larger"]
        assert one[f"q_{side}"] == close(sweep.q[name, one[side]])
        assert one[f"q_{side}"] < 0.05


def best_level(sweep: Sweep, one: Claim) -> None:
    name, metric = one["hyperparameter"], one["metric"]
    means = sweep.means(name, metric)
    levels = [f"{x:g}" if isinstance(x, float | int) else x for x in means.index[:2]]
    assert [one["level"], one["second"]] == levels
    units = 10**means if metric == "fvu" else means
    assert [one["mean"], one["second_mean"]] == [close(value) for value in units.iloc[:2]]
    assert one["p"] == pytest.approx(sweep.holm(name, metric), rel=1e-3, abs=1e-12)
    assert sweep.q[name, metric] < 0.05


def no_best_level(sweep: Sweep, one: Claim) -> None:
    metric = one["metric"]
    rest = [name for name in sweep.names if name not in sweep.aliased]
    unclear = {
        name for name in rest if sweep.q[name, metric] >= 0.05 or sweep.holm(name, metric) >= 0.05
    }
    unclear |= {
        other["hyperparameter"]
        for other in sweep.found
        if other["kind"] == "Opposed" and other["metric"] == metric
    }
    assert set(one["hyperparameters"]) == unclear


def best_at_edge(sweep: Sweep, one: Claim) -> None:
    levels, level = sweep.table[one["hyperparameter"]], float(one["level"])
    assert level == (levels.max() if one["highest"] else levels.min())
    assert level == sweep.means(one["hyperparameter"], one["metric"]).index[0]
    top = max(int(0.05 * len(sweep.table)), 1)
    best = sweep.table.nsmallest(top, one["metric"])[one["hyperparameter"]]
    assert (one["top"], one["there"]) == (top, (best == level).sum())


def no_interaction(sweep: Sweep, one: Claim) -> None:
    shares = []
    for metric, (a, b) in itertools.product(METRICS, itertools.combinations(sweep.names, 2)):
        cells = pd.crosstab(sweep.table[a], sweep.table[b]).to_numpy()
        if (cells == 0).mean() > 0.2:
            continue
        full = sweep.fit(metric, more=f" + C({a}):C({b})")
        if full.df_resid >= 10:
            shares.append((sweep.fit(metric).ssr - full.ssr) / full.centered_tss)
    assert (one["tests"], one["largest_share"]) == (len(shares), close(max(shares)))


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
    "Opposed": opposed,
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


def test_every_sentence_says_what_the_runs_say(sweep: Sweep) -> None:
    checked = [one for one in sweep.found if one["kind"] in CHECKS]
    for one in checked:
        CHECKS[one["kind"]](sweep, one)
    assert len(checked) > 2


def test_each_sweep_brings_forth_its_sentences(sweep: Sweep) -> None:
    assert WANTED[sweep.name] <= {one["kind"] for one in sweep.found}
