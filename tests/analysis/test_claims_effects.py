"""Every sentence on effects, read back from the page and recomputed from data/runs.csv."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from effect_sentences import NUMBER, SHOWN, kind
from made_sweeps import Ran, write_store
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis import contents, report
from sae_sweep.records.store import Reader

SECTIONS = (
    "Coverage",
    "Effects of the hyperparameters",
    "Trade-offs",
    "Levels",
    "On against off",
    "Interactions",
    "Importance",
)
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


def bullets(folder: Path) -> list[str]:
    page = (folder / "report.md").read_text()
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return [
        line[2:]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
        if title in SECTIONS
        for line in text.splitlines()
        if line.startswith("- ")
    ]


def shown_q(q: float) -> str:
    return "< 0.0001" if q < 1e-4 else f"= {q:.2g}"


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


def change(metric: str, value: float) -> str:
    return (
        f"\N{MULTIPLICATION SIGN}{10**value:.3g}" if metric == "fvu" else f"{100 * value:+.3g} pp"
    )


def test_directions_and_sizes(folder: Path, configurations: pd.DataFrame) -> None:
    q = q_values(configurations)
    pattern = (
        r"\*\*(\w+):\*\* larger goes (\w+) with (lower|higher) \((better|worse)\) (\w+) "
        rf"\(Spearman ({NUMBER}) \[({NUMBER}), ({NUMBER})\], (\d+) configurations; "
        rf"from (\S+) to (\S+), the others held: (\S+(?: pp)?) \[.+\]; q {SHOWN}\)\."
    )
    found = [match for line in bullets(folder) if (match := re.fullmatch(pattern, line))]
    assert {(match[1], match[5]) for match in found} >= {
        ("k", "fvu"),
        ("k", "dead_features"),
        ("aux_coeff", "dead_features"),
    }
    for match in found:
        name, word, way, better, metric = match.groups()[:5]
        x, y = configurations[NAMES[name]], configurations[metric]
        rho = stats.spearmanr(x, y).statistic
        assert match[6] == f"{round(rho, 2) + 0.0:.2f}"
        assert float(match[7]) <= float(match[6]) <= float(match[8])
        assert (way, better) == (("lower", "better") if rho < 0 else ("higher", "worse"))
        bands = {"strongly": (0.5, 2), "moderately": (0.3, 0.5), "weakly": (0.1, 0.3)}
        assert bands[word][0] <= abs(rho) < bands[word][1]
        assert int(match[9]) == len(configurations)
        means = adjusted(configurations, name, metric)
        assert (float(match[10]), float(match[11])) == (means.index[0], means.index[-1])
        assert match[12] == change(metric, means.iloc[-1] - means.iloc[0])
        assert match[13] == shown_q(q[name, metric])
        assert q[name, metric] < 0.05


def test_what_is_not_monotone(folder: Path, configurations: pd.DataFrame) -> None:
    pattern = (
        r"\*\*(\w+):\*\* (\w+) is not monotone in it: (best at|best adjusted mean observed at) "
        rf"([\d.e-]+)(?:, which is not told apart from ([\d.e-]+))? \(Holm p {SHOWN}\); q {SHOWN}\."
    )
    (match,) = [m for line in bullets(folder) if (m := re.fullmatch(pattern, line))]
    means = adjusted(configurations, match[1], match[2]).sort_values()
    assert (match[1], match[2]) == ("lr", "fvu")
    assert float(match[4]) == means.index[0]
    assert match[5] is None or float(match[5]) == means.index[1]
    assert match[7] == shown_q(q_values(configurations)[match[1], match[2]])


def test_what_is_not_detected(folder: Path, configurations: pd.DataFrame) -> None:
    q = q_values(configurations)
    silent = {}
    for line in bullets(folder):
        if match := re.fullmatch(r"No detectable effect on (\w+): (.+)\.", line):
            part = rf"(\w+) \(Spearman ({NUMBER}) \[.+?\], n = (\d+), q {SHOWN}\)"
            for name, rho, n, shown in re.findall(part, match[2]):
                silent[name, match[1]] = (rho, int(n), shown)
    expected = {}
    for (name, metric), value in q.items():
        if value >= 0.05:
            x = configurations[NAMES[name]]
            rho = stats.spearmanr(x, configurations[metric]).statistic
            expected[name, metric] = (f"{round(rho, 2) + 0.0:.2f}", len(x), shown_q(value))
    assert silent == expected


def test_coverage_and_divergence(folder: Path, runs: pd.DataFrame) -> None:
    lines = bullets(folder)
    asked = len(runs[list(NAMES.values())].drop_duplicates())
    assert f"{asked} of the 48 combinations of levels were asked for (100 %)." in lines
    diverged, n = int((runs["status"] == "diverged").sum()), len(runs)
    low, high = stats.binomtest(diverged, n).proportion_ci(method="wilson")
    assert (
        f"{diverged} of {n} trials that ended diverged ({100 * diverged / n:.3g} %, 95 % interval "
        f"{100 * low:.3g} to {100 * high:.3g} %): no ranked figure includes them."
    ) in lines


def test_best_levels_and_edges(
    folder: Path, configurations: pd.DataFrame, runs: pd.DataFrame
) -> None:
    pattern = (
        r"\*\*(\w+):\*\* best level for (\w+): (\S+) \(adjusted mean (\S+); next (\S+), (\S+); "
        rf"Holm p {SHOWN}\)\."
    )
    found = [m for line in bullets(folder) if (m := re.fullmatch(pattern, line))]
    assert ("k", "fvu") in {(match[1], match[2]) for match in found}
    for match in found:
        means = adjusted(configurations, match[1], match[2]).sort_values()
        assert [float(match[3]), float(match[5])] == list(means.index[:2])
        units = 10**means if match[2] == "fvu" else means
        assert [match[4], match[6]] == [f"{value:.4g}" for value in units.iloc[:2]]
    edge = (
        r"\*\*(\w+):\*\* its best level for (\w+), (\S+), is the (highest|lowest) tried, and "
        r"(\d+) of the best (\d+) trials \(5 % and their equals\) used it: widen the range\."
    )
    edges = [match for line in bullets(folder) if (match := re.fullmatch(edge, line))]
    assert edges
    for match in edges:
        levels = runs[NAMES[match[1]]]
        assert float(match[3]) == (levels.max() if match[4] == "highest" else levels.min())
        ranked = runs[runs["ranked"]]
        least = ranked.nsmallest(int(0.05 * len(ranked)), match[2], keep="all")
        best = least[NAMES[match[1]]]
        assert (int(match[5]), int(match[6])) == ((best == float(match[3])).sum(), len(best))


def test_matched_blocks(folder: Path, runs: pd.DataFrame) -> None:
    pattern = (
        r"\*\*aux_coeff on:\*\* (better|worse|no change of) (\w+) (?:by|is claimed \(median) "
        r"(\S+(?: pp)?) \[.+?\](?: in the median of|, n =) (\d+) matched blocks"
        rf"(?:\)\.| \(Wilcoxon p {SHOWN}\)\.)"
    )
    found = [m for line in bullets(folder) if (m := re.fullmatch(pattern, line))]
    assert {match[2] for match in found} == {"fvu", "dead_features"}
    ranked = runs[runs["ranked"]].assign(fvu=lambda t: np.log10(t["fvu"]))
    for match in found:
        keys = ["sae.k", "train.lr", "train.seed_init"]
        wide = ranked.pivot_table(index=keys, columns="sae.aux_coeff", values=match[2])
        changes = pd.concat([wide[0.1] - wide[0.0], wide[0.5] - wide[0.0]])
        blocks = changes.dropna().groupby(level=[0, 1]).mean()
        assert match[3] == change(match[2], blocks.median())
        assert int(match[4]) == len(blocks)
        if match[1] != "no change of":
            assert (match[1] == "better") == (blocks.median() < 0)
            assert match[5] == shown_q(stats.wilcoxon(blocks).pvalue)


def test_every_bullet_is_one_of_the_known_sentences(folder: Path) -> None:
    for line in bullets(folder):
        kind(line)


def test_trade_offs_are_of_two_claimed_directions(
    folder: Path, configurations: pd.DataFrame
) -> None:
    pattern = (
        r"\*\*(\w+), a trade-off:\*\* larger goes with better (\w+) "
        rf"\(q {SHOWN}\) and with worse (\w+) \(q {SHOWN}\)\."
    )
    found = [m for line in bullets(folder) if (m := re.fullmatch(pattern, line))]
    assert [(match[1], match[2], match[4]) for match in found] == [("k", "fvu", "dead_features")]
    q = q_values(configurations)
    for match in found:
        x = configurations[NAMES[match[1]]]
        for metric, shown, sign in ((match[2], match[3], -1), (match[4], match[5], 1)):
            assert np.sign(stats.spearmanr(x, configurations[metric]).statistic) == sign
            assert shown == shown_q(q[match[1], metric])
            assert q[match[1], metric] < 0.05


def test_a_claimed_interaction_is_statsmodels(folder: Path, configurations: pd.DataFrame) -> None:
    pattern = (
        r"\*\*(\w+) and (\w+):\*\* the effect of one on (\w+) depends on the other's level: "
        rf"together they explain (\S+) % of its variance beyond the additive model \(q {SHOWN}\)\."
    )
    found = [match for line in bullets(folder) if (match := re.fullmatch(pattern, line))]
    assert {match.groups()[:3] for match in found} == {("k", "lr", "fvu")}
    terms = [f"C(Q('{key}'))" for key in NAMES.values()]
    for match in found:
        a, b = (f"C(Q('{NAMES[name]}'))" for name in match.groups()[:2])
        less = ols(f"{match[3]} ~ {' + '.join(terms)}", configurations).fit()
        full = ols(f"{match[3]} ~ {' + '.join(terms)} + {a}:{b}", configurations).fit()
        assert match[4] == f"{100 * (less.ssr - full.ssr) / less.centered_tss:.2g}"


def test_what_matters_more_does_so_in_other_halves_too(
    folder: Path, configurations: pd.DataFrame
) -> None:
    pattern = (
        r"\*\*(\w+)\*\* matters more for (\w+) than ([\w, ]+): it explains more in "
        r"(all|at least \d+ %) of the halves\."
    )
    found = [match for line in bullets(folder) if (match := re.fullmatch(pattern, line))]
    assert ("k", "fvu") in {(match[1], match[2]) for match in found}
    dummies = {
        name: pd.get_dummies(configurations[key], dtype=float).to_numpy()
        for name, key in NAMES.items()
    }
    rng = np.random.default_rng(99)
    for match in found:
        y = configurations[match[2]].to_numpy()
        others = re.split(r", | and ", match[3])
        ahead = []
        for _ in range(40):
            half = rng.permutation(len(y))[: len(y) // 2]
            left = {None: _left(dummies, y, half, None)}
            left |= {name: _left(dummies, y, half, name) for name in dummies}
            share = {name: (left[name] - left[None]) / left[name] for name in dummies}
            ahead.append(all(share[match[1]] > share[other] for other in others))
        assert np.mean(ahead) >= 0.85


def _left(
    dummies: dict[str, np.ndarray], y: np.ndarray, rows: np.ndarray, without: str | None
) -> float:
    """Residual squares of the additive model of some rows, one hyperparameter left out."""
    x = np.hstack([np.ones((len(y), 1)), *(d for name, d in dummies.items() if name != without)])
    fitted, *_ = np.linalg.lstsq(x[rows], y[rows], rcond=None)
    return float(((y[rows] - x[rows] @ fitted) ** 2).sum())
