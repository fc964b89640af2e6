"""Every claim on effects, field by field, recomputed from data/runs.csv."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from effects_oracle import Oracle
from made_sweeps import Ran, write_store
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from analysis import report
from sae_sweep.records.store import Reader

FIRST_SCREEN = "study"
METRICS = ("fvu", "dead_features")
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
    with Reader(write_store(place, trials())) as reader:
        yield report.render(reader.sweep(), place / "out" / "study", reader.history).parent


@pytest.fixture
def runs(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "data" / "runs.csv")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    """What statsmodels finds in the ranked trials, fvu by its logarithm."""
    runs = pd.read_csv(folder / "data" / "runs.csv")
    ranked = runs[runs["ranked"]].assign(fvu=lambda t: np.log10(t["fvu"]))
    columns = {key: name for name, key in NAMES.items()} | {"train.seed_init": "seed"}
    return Oracle(ranked.rename(columns=columns), list(NAMES), METRICS)


@pytest.fixture
def configurations(oracle: Oracle) -> pd.DataFrame:
    """A row a configuration: log10 fvu and dead_features, means at the average seed."""
    points = oracle.trials["fvu"].points[list(NAMES)]
    assert len(points) == 48
    return points.assign(**{one: oracle.trials[one].means for one in METRICS})


def claims(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The fields of every sentence, or of those of one kind."""
    found = json.loads((folder / "data" / "claims.json").read_text())["claims"]
    own = [one for one in found if one["section"] != FIRST_SCREEN]
    return [one for one in own if kind in (None, one["kind"])]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-12)


def small(value: float) -> Any:
    """A p or q: those that no digit of a residual settles are compared by their size."""
    return pytest.approx(value, rel=1e-4, abs=1e-14)


def level(oracle: Oracle, name: str, told: str) -> float:
    """The level that a claim names."""
    (found,) = [one for one in oracle.rows(name, "fvu").index if f"{one:g}" == told]
    return found


def based(oracle: Oracle, one: dict[str, Any]) -> None:
    """What a claimed effect rests on."""
    name, metric = one["hyperparameter"], one["metric"]
    assert one["q"] == small(oracle.q[name, metric])
    assert one["q"] < 0.05
    assert one["configurations"] == 48
    assert (one["held"], one["survivors"]) == (True, True)
    pairs = [pair for pair, q in oracle.q.items() if len(pair) == 3 and q < 0.05]
    depends = [{a, b} - {name} for a, b, of in pairs if of == metric and name in (a, b)]
    assert sorted(one["depends_on"]) == sorted(other for (other,) in depends)


def moved(oracle: Oracle, one: dict[str, Any], first: str, last: str, field: str) -> float:
    """The change from one level to another with its interval, as the claim has it in a field."""
    name, metric = one["hyperparameter"], one["metric"]
    ends = (level(oracle, name, one.get(end, end)) for end in (first, last))
    change, _, interval = oracle.change(name, metric, *ends)
    assert one[field] == close(change)
    assert one[f"{field}_interval"] == [close(end) for end in interval]
    return change


def test_directions_and_sizes(folder: Path, oracle: Oracle, configurations: pd.DataFrame) -> None:
    found = claims(folder, "Goes")
    assert {(one["hyperparameter"], one["metric"]) for one in found} >= {
        ("k", "fvu"),
        ("k", "dead_features"),
        ("aux_coeff", "dead_features"),
    }
    for one in found:
        name, metric = one["hyperparameter"], one["metric"]
        based(oracle, one)
        rho = stats.spearmanr(configurations[name], configurations[metric]).statistic
        assert one["raw"] == close(rho)
        assert one["raw_disagrees"] == (rho * one["sign"] < 0.1)
        means = oracle.means(name, metric).sort_index()
        assert (float(one["first"]), float(one["last"])) == (means.index[0], means.index[-1])
        assert np.sign(moved(oracle, one, "first", "last", "change")) == one["sign"]
        # whatever is told apart goes that way
        told = [sorted(pair) for pair, p in oracle.apart(name, metric).items() if p < 0.05]
        assert told
        assert {np.sign(means[high] - means[low]) for low, high in told} == {one["sign"]}


def test_what_is_not_monotone(folder: Path, oracle: Oracle) -> None:
    (one,) = claims(folder, "Bent")
    name, metric = one["hyperparameter"], one["metric"]
    assert (name, metric, one["is_best"]) == ("lr", "fvu", False)
    based(oracle, one)
    means = oracle.means(name, metric)
    turn = means.index[-1]
    assert float(one["turn"]) == turn
    # on each side the best of the levels that are better by one-sided tests, Holm among them
    p = {other: oracle.change(name, metric, turn, other)[1] / 2 for other in means.index[:-1]}
    rejected, *_ = multipletests(list(p.values()), method="holm")
    better = [other for other, is_better in zip(p, rejected, strict=True) if is_better]
    for end, side in (
        ("first", [other for other in better if other < turn]),
        ("last", [other for other in better if other > turn]),
    ):
        assert float(one[end]) == means[side].idxmin()
    assert moved(oracle, one, "first", "turn", "before") > 0
    assert moved(oracle, one, "turn", "last", "after") < 0
    assert one["is_apart"] == (oracle.best_p(name, metric) < 0.05)


def test_what_is_not_detected(folder: Path, oracle: Oracle) -> None:
    silent = {}
    for one in claims(folder, "NotDetected"):
        assert one["configurations"] == 48
        told = [one[key] for key in ("hyperparameters", "levels", "changes", "intervals", "q")]
        for name, (first, last), change, interval, q in zip(*told, strict=True):
            means = oracle.means(name, one["metric"]).sort_index()
            assert (float(first), float(last)) == (means.index[0], means.index[-1])
            expected, _, reach = oracle.change(name, one["metric"], *means.index[[0, -1]])
            assert change == close(expected)
            assert interval == [close(end) for end in reach]
            silent[name, one["metric"]] = small(q)
    assert {key: q for key, q in oracle.q.items() if q >= 0.05 and len(key) == 2} == silent


def test_coverage_and_divergence(folder: Path, runs: pd.DataFrame) -> None:
    (asked,) = claims(folder, "Asked")
    points = len(runs[list(NAMES.values())].drop_duplicates())
    assert (asked["combinations"], asked["possible"], asked["left_out"]) == (points, 48, [])
    (one,) = claims(folder, "Diverged")
    diverged, n = int((runs["status"] == "diverged").sum()), len(runs)
    low, high = stats.binomtest(diverged, n).proportion_ci(method="wilson")
    assert (one["diverged"], one["ended"]) == (diverged, n)
    assert (one["low"], one["high"]) == (close(low), close(high))


def test_best_levels_and_edges(folder: Path, oracle: Oracle, runs: pd.DataFrame) -> None:
    found = claims(folder, "BestLevel")
    assert ("k", "fvu") in {(one["hyperparameter"], one["metric"]) for one in found}
    for one in found:
        means = oracle.means(one["hyperparameter"], one["metric"])
        assert one["p"] == small(oracle.best_p(one["hyperparameter"], one["metric"]))
        assert max(one["p"], oracle.q[one["hyperparameter"], one["metric"]]) < 0.05
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


def test_trade_offs_are_of_two_claimed_directions(folder: Path, oracle: Oracle) -> None:
    (one,) = claims(folder, "TradeOff")
    assert (one["hyperparameter"], one["better"], one["worse"]) == ("k", "fvu", "dead_features")
    for side, sign in (("better", -1), ("worse", 1)):
        assert np.sign(oracle.change("k", one[side], 4, 32)[0]) == sign
        assert one[f"q_{side}"] == small(oracle.q["k", one[side]])
        assert one[f"q_{side}"] < 0.05


def test_a_claimed_interaction_is_statsmodels(folder: Path, oracle: Oracle) -> None:
    (one,) = claims(folder, "Interacts")
    assert (one["first"], one["second"], one["metric"]) == ("lr", "k", "fvu")
    claimed = {pair: q for pair, q in oracle.q.items() if len(pair) == 3 and q < 0.05}
    assert claimed == {("k", "lr", "fvu"): small(one["q"])}
    assert one["share"] == close(oracle.pairs["k", "lr", "fvu"][1])
    assert one["survivors"] is True
    # only 3e-4 differs by the construction, and it is nowhere best
    assert one["moves"] is False
    rows = oracle.trials["fvu"].rows
    fitted = ols("fvu ~ C(k) * C(lr) + C(aux_coeff) + C(seed)", rows).fit()
    for (at, best, value), k in zip(one["best"], sorted(set(rows["k"])), strict=True):
        assert float(at) == k
        cells = {}
        for lr in sorted(set(rows["lr"])):
            grid = itertools.product([0, 0.1, 0.5], rows["seed"])
            points = pd.DataFrame(grid, columns=["aux_coeff", "seed"]).assign(k=k, lr=lr)
            cells[lr] = fitted.predict(points).mean()
        assert float(best) == min(cells, key=cells.__getitem__)
        assert np.log10(value) == close(min(cells.values()))


def test_what_matters_more_does_so_in_other_halves_too(
    folder: Path, configurations: pd.DataFrame
) -> None:
    found = claims(folder, "MattersMore")
    assert ("k", "fvu") in {(one["hyperparameter"], one["metric"]) for one in found}
    dummies = {name: pd.get_dummies(configurations[name], dtype=float).to_numpy() for name in NAMES}
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
