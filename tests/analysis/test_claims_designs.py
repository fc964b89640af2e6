"""Sentences on effects that only some designs bring forth, recomputed from data/runs.csv."""

import itertools
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from effect_sentences import SENTENCES, kind
from made_sweeps import Ran, write_store
from pandas.api.types import is_numeric_dtype
from scipy import stats
from scipy.stats import contingency
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.outliers_influence import variance_inflation_factor
from test_claims_effects import bullets, change, shown_q

from analysis import contents, report
from sae_sweep.records.store import Reader

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
    """The page's bullets, and what the runs' table says by itself."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.found = [(kind(line), line) for line in bullets(folder)]
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


def opposed(sweep: Sweep, match: re.Match[str]) -> None:
    name, metric = match[1], match[2]
    rho, means = sweep.spearman(name, metric), sweep.means(name, metric).sort_index()
    move = means.iloc[-1] - means.iloc[0]
    assert rho * move < 0
    assert match[3] == f"{rho:.2f}"
    assert match[4] == change(metric, move)
    assert (float(match[5]), float(match[6])) == (means.index[0], means.index[-1])
    assert match[7] == shown_q(sweep.q[name, metric])
    assert sweep.q[name, metric] < 0.05


def unheld(sweep: Sweep, match: re.Match[str]) -> None:
    name, metric = match[1], match[2]
    assert match[3] == f"{sweep.spearman(name, metric):.2f}"
    # a correlation that none of 9,999 permutations reaches has p = 1e-4
    p = {
        (a, b): max(1e-4, stats.spearmanr(sweep.table[a], sweep.table[b]).pvalue)
        for b in METRICS
        for a in sweep.names
    }
    assert p[name, metric] == 1e-4
    q = dict(zip(p, stats.false_discovery_control(list(p.values()), method="by"), strict=True))
    assert match[4] == shown_q(q[name, metric])
    assert match[5] == shown_q(sweep.q[name, metric])
    assert sweep.q[name, metric] >= 0.05


def differs(sweep: Sweep, match: re.Match[str]) -> None:
    name, metric = match[1], match[2]
    less, full = sweep.fit(metric, without=(name,)).ssr, sweep.fit(metric).ssr
    assert (match[3] is not None) == (len(sweep.names) > 1)
    assert match[4] == f"{(less - full) / less:.2f}"
    assert match[5] == shown_q(sweep.q[name, metric])
    assert not is_numeric_dtype(sweep.table[name])
    assert sweep.q[name, metric] < 0.05


def goes(sweep: Sweep, match: re.Match[str]) -> None:
    name, metric = match[1], match[3]
    means = sweep.means(name, metric).sort_index()
    assert match[4] == f"{sweep.spearman(name, metric):.2f}"
    assert int(match[5]) == len(sweep.table)
    assert (float(match[6]), float(match[7])) == (means.index[0], means.index[-1])
    assert match[8] == change(metric, means.iloc[-1] - means.iloc[0])
    assert match[9] == shown_q(sweep.q[name, metric])


def not_detected(sweep: Sweep, match: re.Match[str]) -> None:
    part = r"(\w+) \((?:Spearman (\S+) \[[^\]]+\], )?n = (\d+), q ([^)]+)\)"
    shown = {name: (rho, int(n), q) for name, rho, n, q in re.findall(part, match[2])}
    unheld = [SENTENCES["Unheld"].fullmatch(line) for _, line in sweep.found]
    apart = {one[1] for one in unheld if one and one[2] == match[1]}
    expected = {}
    for (name, metric), q in sweep.q.items():
        if metric == match[1] and q >= 0.05 and name not in apart:
            is_number = is_numeric_dtype(sweep.table[name])
            rho = f"{round(sweep.spearman(name, metric), 2) + 0.0:.2f}" if is_number else ""
            expected[name] = (rho, len(sweep.table), shown_q(q))
    assert shown == expected


def aliased(sweep: Sweep, match: re.Match[str]) -> None:
    assert tuple(re.split(r", | and ", match[1])) == sweep.aliased
    assert tuple(re.split(r", | and ", match[2])) == METRICS


def too_few(sweep: Sweep, match: re.Match[str]) -> None:
    fit = sweep.fit("fvu")
    assert (int(match[1]), int(match[2])) == (fit.nobs, fit.df_model + 1)
    assert fit.df_resid < 3
    assert tuple(re.split(r", | and ", match[3])) == METRICS


def too_few_for_importance(sweep: Sweep, match: re.Match[str]) -> None:
    fit = sweep.fit("fvu")
    assert (int(match[1]), int(match[2])) == (fit.nobs, fit.df_model + 1)
    assert fit.nobs < 5 * (fit.df_model + 1)


def win_win(sweep: Sweep, match: re.Match[str]) -> None:
    for metric, shown in ((match[3], match[4]), (match[5], match[6])):
        assert (sweep.spearman(match[1], metric) < 0) == (match[2] == "larger")
        assert shown == shown_q(sweep.q[match[1], metric])
        assert sweep.q[match[1], metric] < 0.05


def best_level(sweep: Sweep, match: re.Match[str]) -> None:
    means = sweep.means(match[1], match[2])
    assert [match[3], match[5]] == [
        f"{x:g}" if isinstance(x, float | int) else x for x in means.index[:2]
    ]
    units = 10**means if match[2] == "fvu" else means
    assert [match[4], match[6]] == [f"{value:.4g}" for value in units.iloc[:2]]
    assert match[7] == shown_q(sweep.holm(match[1], match[2]))
    assert sweep.q[match[1], match[2]] < 0.05


def no_best_level(sweep: Sweep, match: re.Match[str]) -> None:
    rest = [name for name in sweep.names if name not in sweep.aliased]
    unclear = [
        name
        for name in rest
        if sweep.q[name, match[1]] >= 0.05 or sweep.holm(name, match[1]) >= 0.05
    ]
    opposed = [SENTENCES["Opposed"].fullmatch(line) for _, line in sweep.found]
    unclear += [one[1] for one in opposed if one and one[2] == match[1]]
    assert set(re.split(r", | and ", match[2])) == set(unclear)


def at_edge(sweep: Sweep, match: re.Match[str]) -> None:
    levels = sweep.table[match[1]]
    assert float(match[3]) == (levels.max() if match[4] == "highest" else levels.min())
    assert float(match[3]) == sweep.means(match[1], match[2]).index[0]
    top = max(int(0.05 * len(sweep.table)), 1)
    best = sweep.table.nsmallest(top, match[2])[match[1]]
    assert int(match[6] or 1) == top
    assert int(match[5] or 1) == (best == float(match[3])).sum()


def no_interaction(sweep: Sweep, match: re.Match[str]) -> None:
    shares = []
    for metric, (a, b) in itertools.product(METRICS, itertools.combinations(sweep.names, 2)):
        cells = pd.crosstab(sweep.table[a], sweep.table[b]).to_numpy()
        if (cells == 0).mean() > 0.2:
            continue
        full = sweep.fit(metric, more=f" + C({a}):C({b})")
        if full.df_resid >= 10:
            shares.append((sweep.fit(metric).ssr - full.ssr) / full.centered_tss)
    assert int(match[1]) == len(shares)
    assert match[2] == f"{100 * max(shares):.2g}"


def associated(sweep: Sweep, match: re.Match[str]) -> None:
    cells = pd.crosstab(sweep.table[match[1]], sweep.table[match[2]]).to_numpy()
    v = contingency.association(cells, method="cramer")
    assert v > 0.3
    assert match[3] == f"{v:.2f}"
    assert (int(match[4]), int(match[5])) == ((cells == 0).sum(), cells.size)


def inflated(sweep: Sweep, match: re.Match[str]) -> None:
    numbers = [name for name in ("l1_alpha", "lr", "batch_size") if name in sweep.table]
    x = np.log10(sweep.table[numbers])
    rest = [name for name in numbers if name != match[1]]
    exact = any(abs(x[match[1]].corr(x[name])) > 1 - 1e-12 for name in rest)
    assert (match[2] is None) == exact
    if not exact:
        factor = variance_inflation_factor(x.assign(one=1.0).to_numpy(), numbers.index(match[1]))
        assert match[2] == f"{factor:.3g}"
        assert factor > 5


def asked(sweep: Sweep, match: re.Match[str]) -> None:
    points = len(sweep.table[sweep.names].drop_duplicates())
    possible = int(np.prod([sweep.table[name].nunique() for name in sweep.names]))
    assert (int(match[1]), int(match[2])) == (points, possible)
    assert match[3] == f"{100 * points / possible:.3g}"


CHECKS: dict[str, Callable[[Sweep, re.Match[str]], None]] = {
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
    "AtEdge": at_edge,
    "NoInteraction": no_interaction,
    "Associated": associated,
    "Inflated": inflated,
    "Asked": asked,
}
ELSEWHERE = {"MattersMore", "Interacts", "Bent"}
"""Recomputed in test_claims_effects.py, from a sweep made for them."""


def test_every_sentence_says_what_the_runs_say(sweep: Sweep) -> None:
    for name, line in sweep.found:
        match = SENTENCES[name].fullmatch(line)
        assert match is not None
        if name not in ELSEWHERE:
            CHECKS[name](sweep, match)


def test_each_sweep_brings_forth_its_sentences(sweep: Sweep) -> None:
    assert WANTED[sweep.name] <= {name for name, _ in sweep.found}
