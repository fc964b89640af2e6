"""Every claim on effects, field by field, recomputed from data/runs.csv."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, write_store
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis import contents, report
from sae_sweep.records.store import Reader

FIRST_SCREEN = "study"
NAMES = {"k": "sae.k", "lr": "train.lr", "aux_coeff": "sae.aux_coeff"}


def trials() -> list[Ran]:
    """Two seeds of a grid of k, lr and aux_coeff, of which three trials diverged."""
    rng = np.random.default_rng(5)
    made = []
    points = itertools.product([4, 8, 16, 32], [1e-4, 3e-4, 1e-3, 3e-3], [0, 0.1, 0.5], [0, 1])
    for i, (k, lr, aux, seed) in enumerate(points):
        u = -0.2 * np.log10(k) + (0.1 if lr == 3e-4 else 0.0) * (1 if k >= 16 else 0.4)
        final = {
            "fvu": 0.5 * 10 ** (u + 0.01 * rng.normal()),
            "dead_features": float(0.3 - 0.2 * aux + 0.003 * k + 0.01 * rng.random()),
            "l0": float(k),
        }
        keys = {"sae.k": k, "train.lr": lr, "sae.aux_coeff": aux}
        keys |= {"train.seed_init": seed, "train.seed_data": seed}
        made.append(Ran(keys, final))
        if i in (3, 17, 30):
            made[-1].status, made[-1].final, made[-1].error = "diverged", {}, "loss is nan"
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch, Reader(write_store(place, trials())) as reader:
        patch.setattr(contents, "draw", lambda *_: {})
        yield report.render(reader.sweep(), place / "out" / "study", reader.history).parent


@pytest.fixture
def runs(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "data" / "runs.csv")


@pytest.fixture
def configurations(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a configuration: log10 fvu and dead_features, means over its ranked seeds."""
    ranked = runs[runs["ranked"]].assign(fvu=lambda t: np.log10(t["fvu"]))
    return ranked.groupby(list(NAMES.values()))[["fvu", "dead_features"]].mean().reset_index()


def claims(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The fields of every sentence, or of those of one kind."""
    found = json.loads((folder / "data" / "claims.json").read_text())["claims"]
    own = [one for one in found if one["section"] != FIRST_SCREEN]
    return [one for one in own if kind in (None, one["kind"])]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-12)


def q_values(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Of every hyperparameter and metric, by statsmodels' type-II tests."""
    p = {}
    for metric in ("fvu", "dead_features"):
        fit = ols(f"{metric} ~ C(Q('sae.k')) + C(Q('train.lr')) + C(Q('sae.aux_coeff'))", table)
        tested = anova_lm(fit.fit(), typ=2)["PR(>F)"]
        p |= {(name, metric): tested[f"C(Q('{key}'))"] for name, key in NAMES.items()}
    return dict(zip(p, stats.false_discovery_control(list(p.values()), method="by"), strict=True))


def adjusted(table: pd.DataFrame, name: str, metric: str) -> pd.Series:
    """The levels' means with the others balanced: of a full grid of configurations, plain means."""
    sizes = table.groupby(list(NAMES.values())).size()
    assert len(sizes) == 48
    return table.groupby(NAMES[name])[metric].mean()


def test_directions_and_sizes(folder: Path, configurations: pd.DataFrame) -> None:
    q = q_values(configurations)
    found = claims(folder, "Goes")
    assert {(one["hyperparameter"], one["metric"]) for one in found} >= {
        ("k", "fvu"),
        ("k", "dead_features"),
        ("aux_coeff", "dead_features"),
    }
    for one in found:
        name, metric = one["hyperparameter"], one["metric"]
        x, y = configurations[NAMES[name]], configurations[metric]
        assert one["spearman"] == close(stats.spearmanr(x, y).statistic)
        low, high = one["interval"]
        assert low <= one["spearman"] <= high
        assert one["configurations"] == len(configurations)
        means = adjusted(configurations, name, metric)
        assert (float(one["first"]), float(one["last"])) == (means.index[0], means.index[-1])
        assert one["change"] == close(means.iloc[-1] - means.iloc[0])
        assert one["change_interval"][0] < one["change"] < one["change_interval"][1]
        assert one["q"] == close(q[name, metric])
        assert one["q"] < 0.05


def test_what_is_not_monotone(folder: Path, configurations: pd.DataFrame) -> None:
    (one,) = claims(folder, "Bent")
    name, metric = one["hyperparameter"], one["metric"]
    means = adjusted(configurations, name, metric).sort_values()
    assert (name, metric) == ("lr", "fvu")
    assert float(one["level"]) == means.index[0]
    assert float(one["second"]) == means.index[1]
    assert one["q"] == close(q_values(configurations)[name, metric])


def test_what_is_not_detected(folder: Path, configurations: pd.DataFrame) -> None:
    silent = {
        (name, one["metric"]): (close(rho), one["configurations"][i], close(one["q"][i]))
        for one in claims(folder, "NotDetected")
        for i, (name, rho) in enumerate(zip(one["hyperparameters"], one["spearman"], strict=True))
    }
    expected = {}
    for (name, metric), value in q_values(configurations).items():
        if value >= 0.05:
            x = configurations[NAMES[name]]
            rho = stats.spearmanr(x, configurations[metric]).statistic
            expected[name, metric] = (rho, len(x), value)
    assert expected == silent


def test_coverage_and_divergence(folder: Path, runs: pd.DataFrame) -> None:
    (asked,) = claims(folder, "Asked")
    points = len(runs[list(NAMES.values())].drop_duplicates())
    assert (asked["combinations"], asked["possible"], asked["left_out"]) == (points, 48, [])
    (one,) = claims(folder, "Diverged")
    diverged, n = int((runs["status"] == "diverged").sum()), len(runs)
    low, high = stats.binomtest(diverged, n).proportion_ci(method="wilson")
    assert (one["diverged"], one["ended"]) == (diverged, n)
    assert (one["low"], one["high"]) == (close(low), close(high))


def test_best_levels_and_edges(
    folder: Path, configurations: pd.DataFrame, runs: pd.DataFrame
) -> None:
    found = claims(folder, "BestLevel")
    assert ("k", "fvu") in {(one["hyperparameter"], one["metric"]) for one in found}
    for one in found:
        means = adjusted(configurations, one["hyperparameter"], one["metric"]).sort_values()
        assert [float(one["level"]), float(one["second"])] == list(means.index[:2])
        units = 10**means if one["metric"] == "fvu" else means
        assert [one["mean"], one["second_mean"]] == [close(value) for value in units.iloc[:2]]
    edges = claims(folder, "BestAtEdge")
    assert edges
    for one in edges:
        key = NAMES[one["hyperparameter"]]
        level = float(one["level"])
        assert level == (runs[key].max() if one["highest"] else runs[key].min())
        ranked = runs[runs["ranked"]]
        least = ranked.nsmallest(int(0.05 * len(ranked)), one["metric"], keep="all")
        assert (one["there"], one["top"]) == ((least[key] == level).sum(), len(least))


def test_matched_blocks(folder: Path, runs: pd.DataFrame) -> None:
    found = [*claims(folder, "Switched"), *claims(folder, "NotSwitched")]
    assert {one["metric"] for one in found} == {"fvu", "dead_features"}
    ranked = runs[runs["ranked"]].assign(fvu=lambda t: np.log10(t["fvu"]))
    for one in found:
        assert one["hyperparameter"] == "aux_coeff"
        keys = ["sae.k", "train.lr", "train.seed_init"]
        wide = ranked.pivot_table(index=keys, columns="sae.aux_coeff", values=one["metric"])
        changes = pd.concat([wide[0.1] - wide[0.0], wide[0.5] - wide[0.0]])
        blocks = changes.dropna().groupby(level=[0, 1]).mean()
        assert one["median"] == close(blocks.median())
        assert one["blocks"] == len(blocks)
        if one["kind"] == "Switched":
            assert one["p"] == close(stats.wilcoxon(blocks).pvalue)


def test_trade_offs_are_of_two_claimed_directions(
    folder: Path, configurations: pd.DataFrame
) -> None:
    (one,) = claims(folder, "TradeOff")
    assert (one["hyperparameter"], one["better"], one["worse"]) == ("k", "fvu", "dead_features")
    q = q_values(configurations)
    for side, sign in (("better", -1), ("worse", 1)):
        x, y = configurations[NAMES["k"]], configurations[one[side]]
        assert np.sign(stats.spearmanr(x, y).statistic) == sign
        assert one[f"q_{side}"] == close(q["k", one[side]])
        assert one[f"q_{side}"] < 0.05


def test_a_claimed_interaction_is_statsmodels(folder: Path, configurations: pd.DataFrame) -> None:
    (one,) = claims(folder, "Interacts")
    assert (one["first"], one["second"], one["metric"]) == ("k", "lr", "fvu")
    terms = [f"C(Q('{key}'))" for key in NAMES.values()]
    a, b = (f"C(Q('{NAMES[one[name]]}'))" for name in ("first", "second"))
    less = ols(f"fvu ~ {' + '.join(terms)}", configurations).fit()
    full = ols(f"fvu ~ {' + '.join(terms)} + {a}:{b}", configurations).fit()
    assert one["share"] == close((less.ssr - full.ssr) / less.centered_tss)


def test_what_matters_more_does_so_in_other_halves_too(
    folder: Path, configurations: pd.DataFrame
) -> None:
    found = claims(folder, "MattersMore")
    assert ("k", "fvu") in {(one["hyperparameter"], one["metric"]) for one in found}
    dummies = {
        name: pd.get_dummies(configurations[key], dtype=float).to_numpy()
        for name, key in NAMES.items()
    }
    rng = np.random.default_rng(99)
    for one in found:
        y = configurations[one["metric"]].to_numpy()
        ahead = []
        for _ in range(40):
            half = rng.permutation(len(y))[: len(y) // 2]
            left = {None: _left(dummies, y, half, None)}
            left |= {name: _left(dummies, y, half, name) for name in dummies}
            share = {name: (left[name] - left[None]) / left[name] for name in dummies}
            ahead.append(all(share[one["hyperparameter"]] > share[other] for other in one["than"]))
        assert np.mean(ahead) >= 0.85
        assert one["least"] >= 0.9


def _left(
    dummies: dict[str, np.ndarray], y: np.ndarray, rows: np.ndarray, without: str | None
) -> float:
    """Residual squares of the additive model of some rows, one hyperparameter left out."""
    x = np.hstack([np.ones((len(y), 1)), *(d for name, d in dummies.items() if name != without)])
    fitted, *_ = np.linalg.lstsq(x[rows], y[rows], rcond=None)
    return float(((y[rows] - x[rows] @ fitted) ** 2).sum())
