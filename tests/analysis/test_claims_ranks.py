"""The sentences on trials, noise, ranks and fronts, read back and computed anew from runs.csv."""

# a sentence's pattern is one line, as the sentence is
# ruff: noqa: E501

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Load, Ran, grid, write_store
from scipy import stats
from test_claims import made

from analysis import contents, report
from sae_sweep.records.store import Reader

TITLES = ("Status", "Checks of the records", "Summary statistics", "Noise floor", "Top trials",
          "Pareto front", "Recommended trials", "What cannot be said", "What to run next")  # fmt: skip
SEEDS = ["train.seed_init", "train.seed_data"]
LOGS = {"fvu", "l0"}


class Runs:
    """runs.csv, and what follows from it."""

    def __init__(self, path: Path, axes: list[str]) -> None:
        self.all = pd.read_csv(path)
        self.axes = axes
        self.ok = self.all[self.all["ranked"]].copy()
        self.ok["k"], self.ok["n_latents"] = self.ok.get("sae.k"), self.ok["sae.n_latents"]
        self.metrics = ["fvu", "dead_features"]
        if self.ok["l0"].max() > 1.01 * self.ok["l0"].min():
            self.metrics.append("l0")

    def by_configuration(self, frame: pd.DataFrame):
        return frame.groupby(self.axes, dropna=False, sort=False)

    @property
    def means(self) -> pd.DataFrame:
        groups = self.by_configuration(self.ok)
        columns = {"label": groups["label"].first(), "uid": groups["uid"].first()}
        columns |= {"n": groups.size(), "n_latents": groups["n_latents"].first()}
        for name in ("fvu", "dead_features", "l0"):
            columns[name] = groups[name].agg(center(name))
        return pd.DataFrame(columns).reset_index(drop=True)

    def pooled(self, name: str) -> tuple[float, int] | None:
        """Standard deviation between seeds and its degrees of freedom."""
        values = self.ok[name].map(np.log10) if name in LOGS else self.ok[name]
        groups = self.by_configuration(self.ok.assign(y=values))["y"]
        sizes, variances = groups.count(), groups.var()
        if not (sizes > 1).any():
            return None
        large = [one.dropna() for _, one in groups if one.count() > 2]
        keep = sizes > 1
        if len(large) > 1 and any(np.ptp(one) for one in large):
            with np.errstate(all="ignore"):
                p = stats.levene(*large, center="median").pvalue
            if p < 0.05:
                mean = groups.mean()[keep]
                halves = [mean.index[mean <= mean.median()], mean.index[mean > mean.median()]]
                return max(self._pool(sizes[h], variances[h]) for h in halves if len(h))
        return self._pool(sizes[keep], variances[keep])

    @staticmethod
    def _pool(sizes: pd.Series, variances: pd.Series) -> tuple[float, int]:
        df = int((sizes - 1).sum())
        return float(np.sqrt(((sizes - 1) * variances).sum() / df)), df

    def difference(self, name: str, n: int = 1, m: int = 1) -> float | None:
        found = self.pooled(name)
        if found is None:
            return None
        return float(stats.t.ppf(0.975, found[1]) * found[0] * np.sqrt(1 / n + 1 / m))

    def tied(self, name: str) -> int | None:
        """Others than the first that are no farther from it than the detectable difference."""
        rows = self.means.dropna(subset=[name])
        at = rows.sort_values(
            [name, *[m for m in ("fvu", "dead_features", "l0") if m != name], "label"]
        )
        first = at.iloc[0]
        if self.pooled(name) is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.log10(at[name]) if name in LOGS else at[name]
            near = [
                b == a or abs(b - a) <= self.difference(name, first["n"], n)
                for a, b, n in zip([y.iloc[0]] * len(y), y, at["n"], strict=True)
            ]
        return sum(near) - 1

    def front(self, names: list[str]) -> pd.DataFrame:
        rows = self.means.dropna(subset=names)
        values = rows[names].to_numpy()
        keep = [not ((values <= b).all(1) & (values < b).any(1)).any() for b in values]
        return rows[keep].sort_values(names[1:])


def center(name: str) -> Callable[[pd.Series], float]:
    mean = stats.gmean if name in LOGS else np.mean
    # means of equal values differ in the last digits, by which nothing is better
    digits = 4 if name == "l0" else 12
    return lambda x: float(f"{mean(x.dropna()):.{digits}g}")


def same(printed: str, value: float, digits: int = 4) -> None:
    given = float(printed.replace(",", ""))
    assert given == pytest.approx(float(f"{value:.{digits}g}"), rel=1e-9, abs=1e-12), printed


def step(printed: str, name: str, distance: float) -> None:
    factor = re.fullmatch(r"a factor of (\S+)", printed)
    if factor:
        same(factor[1], 10**distance)
    else:
        same(printed.removesuffix(" pp"), 100 * distance, 3)
    assert bool(factor) == (name in LOGS)


def counts(runs: Runs, m: re.Match) -> None:
    assert int(m["n"]) == len(runs.all)
    groups = runs.all.groupby(runs.axes, dropna=False).ngroups
    assert int(m["c"]) == groups
    for number, status in re.findall(r"(\d+) (\w+)", m["states"]):
        assert int(number) == (runs.all["status"] == status).sum()
    assert int(m["ranked"]) == len(runs.ok)


def first(runs: Runs, m: re.Match) -> None:
    rows = runs.means.dropna(subset=[m["metric"]])
    value = rows[m["metric"]].min()
    same(m["value"], value)
    assert int(m["n"]) == len(rows)
    assert rows.loc[rows["label"] == m["label"], m["metric"]].iloc[0] == pytest.approx(value)
    tied, rest = runs.tied(m["metric"]), m["rest"]
    if tied is None:
        assert rest.endswith("noise unknown.")
        equal = re.search(r"equal in (\d+) other", rest)
        assert (int(equal[1]) if equal else 0) == (rows[m["metric"]] == value).sum() - 1
    elif tied:
        assert f"tied with {tied} other" in rest
    assert (m["word"] == "Best") == (tied == 0 and len(rows) > 1)


def on_front(runs: Runs, m: re.Match) -> None:
    names = re.findall(r"(\w+) down", m["objectives"])
    rows = runs.means.dropna(subset=names)
    found = runs.front(names)
    assert (int(m["on"]), int(m["n"])) == (len(found), len(rows))
    if m["beaten"] is not None:
        assert all(runs.pooled(one) is None for one in names if one != "n_latents")
        assert int(m["beaten"]) == len(rows) - len(found)
        return
    clearly = 0
    for _, b in rows[~rows["uid"].isin(found["uid"])].iterrows():
        for _, a in found.iterrows():
            gaps = []
            for name in names:
                with np.errstate(divide="ignore"):
                    x, y = (
                        np.log10(one[name]) if name in {*LOGS, "n_latents"} else one[name]
                        for one in (a, b)
                    )
                eps = 0.0 if name == "n_latents" else runs.difference(name, a["n"], b["n"])
                gaps.append((x - y, eps))
            if all(gap <= eps for gap, eps in gaps) and any(gap < -eps for gap, eps in gaps):
                clearly += 1
                break
    assert int(m["clearly"]) == clearly
    assert int(m["near"]) == len(rows) - len(found) - clearly


def scaled(runs: Runs, rows: pd.DataFrame, names: list[str], *, linear: bool = False) -> np.ndarray:
    every = runs.means.dropna(subset=names)
    columns = []
    for name in names:
        f = np.log10 if name in LOGS and not linear else np.asarray
        low, high = f(every[name]).min(), f(every[name]).max()
        columns.append((f(rows[name]) - low) / (high - low))
    return np.column_stack(columns)


def volume(runs: Runs, m: re.Match) -> None:
    names = re.findall(r"(\w+) down", m["objectives"])
    z = scaled(runs, runs.front(names), names)
    z = z[np.argsort(z[:, 0])]
    heights = np.concatenate([[1.1], z[:, 1]])
    same(m["volume"], float(((1.1 - z[:, 0]) * -np.diff(heights)).sum()))
    for name, low, high in re.findall(r"(\w+) (\S+) to (\S+) \(", m["spans"]):
        same(low, runs.means[name].min())
        same(high, runs.means[name].max())


def bend(runs: Runs, m: re.Match) -> None:
    names = re.findall(r"(\w+) down", m["objectives"])
    rows = runs.front(names)
    for linear, label, distance in (
        (False, m["label"], m["distance"]),
        (True, m["label2"], m["distance2"]),
    ):
        z = scaled(runs, rows, names, linear=linear)
        a, b = z[0], z[-1]
        # below the chord: the side of the ideal point (0, 0)
        normal = np.array([b[1] - a[1], a[0] - b[0]])
        normal = normal / np.linalg.norm(normal) * np.sign(normal.sum())
        far = -(z - a) @ normal
        if label is None:
            assert distance is None
            assert len(rows) < 3 or far.max() < 0.05
        else:
            same(distance, far.max(), 3)
            wanted = rows["label"].iloc[far.argmax()]
            assert label.strip("`") in (wanted, "the same")


def recommendation(runs: Runs, m: re.Match) -> None:
    rows = runs.means
    row = rows[rows["uid"] == m["uid"]].iloc[0]
    assert row["label"] == m["label"]
    for name, value in re.findall(r"(fvu|dead_features|l0) (\S+?)(?=,|;|\.$)", m["values"]):
        if value != "-":
            same(value, row[name])
    titles = m["titles"]
    if "lowest fvu)" in titles:
        assert row["fvu"] == pytest.approx(rows["fvu"].min())
    if "fewest dead" in titles:
        assert row["dead_features"] == pytest.approx(rows["dead_features"].min())
    if "Small model" in titles:
        narrow = rows[rows["n_latents"] == rows["n_latents"].min()]
        assert row["fvu"] == pytest.approx(narrow["fvu"].min())
    if "Extreme sparsity" in titles:
        assert row["l0"] <= 1.06 * rows["l0"].min()
    if "Balanced" in titles:
        whole = rows.dropna(subset=runs.metrics)
        score = whole[runs.metrics].rank().mean(axis=1)
        assert score[row.name] == pytest.approx(score.min())
    metric = "fvu" if "lowest fvu)" in titles else "dead_features"
    if tied := re.search(r"tied with (\d+|no) other", m["values"]):
        assert (0 if tied[1] == "no" else int(tied[1])) == runs.tied(metric)


def curse(runs: Runs, m: re.Match) -> None:
    n = len(runs.means)
    assert int(m["n"]) == n
    draws = np.random.default_rng(1).standard_normal((20_000, n)).max(axis=1).mean()
    assert float(m["sd"]) == pytest.approx(draws, abs=0.03)
    sd, _ = runs.pooled("fvu")
    seeds = int(m["seeds"])
    assert seeds in set(runs.means["n"][runs.means["fvu"] == runs.means["fvu"].min()])
    factor = float(m["step"].removeprefix("a factor of "))
    assert np.log10(factor) == pytest.approx(draws * sd / np.sqrt(seeds), abs=0.02 * sd + 5e-4)


def detectable(runs: Runs, m: re.Match) -> None:
    assert int(m["df"]) == runs.pooled(m["metric"])[1]
    step(m["step"], m["metric"], runs.difference(m["metric"]))


def uneven(runs: Runs, m: re.Match) -> None:
    name = m["metric"]
    y = runs.ok[name].map(np.log10) if name in LOGS else runs.ok[name]
    groups = [one.dropna() for _, one in runs.by_configuration(runs.ok.assign(y=y))["y"]]
    large = [one for one in groups if len(one) > 2]
    p = stats.levene(*large, center="median").pvalue
    same(m["p"], p, 2)
    assert p < 0.05


def uncertain(runs: Runs, m: re.Match) -> None:
    df = runs.pooled("fvu")[1]
    assert int(m["df"]) == df
    same(m["low"], np.sqrt(df / stats.chi2.ppf(0.975, df)), 3)
    same(m["high"], np.sqrt(df / stats.chi2.ppf(0.025, df)), 3)


def lost(runs: Runs, m: re.Match) -> None:
    ended = (~runs.all["status"].isin(["queued", "running", "interrupted"])).sum()
    k = ended - len(runs.ok)
    assert (int(m["k"]), int(m["n"])) == (k, ended)
    # Wilson's closed form
    z, p = stats.norm.ppf(0.975), k / ended
    middle = (p + z * z / 2 / ended) / (1 + z * z / ended)
    half = z / (1 + z * z / ended) * np.sqrt(p * (1 - p) / ended + z * z / 4 / ended**2)
    for printed, value in ((m["p"], p), (m["low"], middle - half), (m["high"], middle + half)):
        same(printed, 100 * value, 3)


def column(runs: Runs, name: str) -> pd.Series:
    (key,) = [one for one in runs.axes if one.endswith("." + name)]
    return runs.all[key]


def unbalanced(runs: Runs, m: re.Match) -> None:
    a, b = column(runs, m["a"]), column(runs, m["b"])
    pairs = a.nunique() * b.nunique()
    there = pd.crosstab(a[runs.all["ranked"]], b[runs.all["ranked"]])
    assert (int(m["empty"]), int(m["pairs"])) == (pairs - (there > 0).sum().sum(), pairs)


def edge(runs: Runs, m: re.Match) -> None:
    values = column(runs, m["name"])
    end = values.min() if m["end"] == "smallest" else values.max()
    assert float(m["value"]) == pytest.approx(end, rel=1e-4)
    if m["criterion"] == "lowest fvu":
        best = runs.means.sort_values("fvu")["uid"].iloc[0]
        assert values[runs.all["uid"] == best].iloc[0] == end


def outlying(runs: Runs, m: re.Match) -> None:
    y = runs.ok.set_index("uid")[m["metric"]].dropna()
    y = np.log10(y) if m["metric"] in LOGS else y
    mad = stats.median_abs_deviation(y)
    assert int(m["n"]) == len(y)
    z = 0.6745 * (y - y.median()) / mad
    assert (int(m["k"]) if m["k"] else 0) == (z.abs() > 3.5).sum()
    for uid, shown in re.findall(r"`(\w+)` \((\S+?)\)", m["names"] or ""):
        same(shown, z[uid], 3)


def skewed(runs: Runs, m: re.Match) -> None:
    y = runs.ok[m["metric"]].dropna()
    same(m["skew"], float(stats.skew(y)), 3)
    assert int(m["n"]) == len(y)
    if m["ratio"]:
        same(m["ratio"], y.max() / y.median(), 3)


def broken(runs: Runs, m: re.Match) -> None:
    done = runs.all[runs.all["status"] == "done"]
    rules = {
        "l0 &lt;= k": done["l0"] > done["sae.k"] * (1 + 1e-6),
        "explained_variance = 1 - fvu": (1 - done["fvu"] - done["explained_variance"]).abs() > 1e-6,
        "l0 &lt;= alive latents": done["l0"] > done["sae.n_latents"] * (1 - done["dead_features"]) * (1 + 1e-6),
    }  # fmt: skip
    found = done["uid"][rules[m["rule"]]]
    assert int(m["k"]) == len(found)
    assert set(re.findall(r"`(\w+)`", m["names"])) <= set(found)


def duplicated(runs: Runs, m: re.Match) -> None:
    names = [
        one
        for one in runs.ok
        if one in {"fvu", "explained_variance", "l0", "dead_features", "always_on", "loss"}
    ]
    same_ = runs.ok.duplicated(names, keep=False)
    assert int(m["k"]) == same_.sum()
    assert int(m["groups"]) == len(runs.ok[same_].drop_duplicates(names))
    assert set(re.findall(r"`(\w+)`", m["names"])) <= set(runs.ok["uid"][same_])


def agreement(runs: Runs, m: re.Match) -> None:
    rows = runs.means.dropna(subset=runs.metrics)
    rows = rows.assign(score=rows[runs.metrics].rank().mean(axis=1))
    rows = rows.sort_values(["score", "fvu", "label"])
    top = min(10, len(rows) // 2)
    assert (int(m["top"]), int(m["n"])) == (top, len(rows))
    raw = rows[runs.metrics]
    terms = (raw - raw.min()) / (raw.max() - raw.min()).where(raw.max() > raw.min(), 1)
    chosen = terms.sum(axis=1).sort_values(kind="stable").index[:top]
    assert int(m["raw"]) == len(set(rows.index[:top]) & set(chosen))
    squares = []
    for name in runs.metrics:
        with np.errstate(divide="ignore"):
            y = np.log10(rows[name]) if name in LOGS else rows[name]
        low, high = y[np.isfinite(y)].quantile([0.05, 0.95])
        squares.append(((y - low) / (high - low)).clip(0, 1) ** 2 if high > low else 0 * y)
    far = np.sqrt(sum(squares)).sort_values(kind="stable").index[:top]
    assert int(m["utopia"]) == len(set(rows.index[:top]) & set(far))
    if m["share"]:
        variances = terms.loc[chosen].var()
        assert m["heavy"] == variances.idxmax()
        same(m["share"], 100 * variances.max() / variances.sum(), 3)


def mode(runs: Runs, m: re.Match) -> None:
    rows = runs.means.dropna(subset=runs.metrics)
    rows = rows.assign(score=rows[runs.metrics].rank().mean(axis=1))
    rows = rows.sort_values(["score", "fvu", "label"]).reset_index(drop=True)
    assert int(m["rank"]) == rows.index[rows["label"] == m["label"]][0] + 1
    assert int(m["n"]) == len(rows)
    first = runs.all.set_index("uid").loc[rows["uid"].head(5)]
    chosen = runs.all.set_index("uid").loc[rows.loc[int(m["rank"]) - 1, "uid"]]
    for key in runs.axes:
        shares = first[key].astype(str).value_counts()
        assert shares[str(chosen[key])] == shares.max()


def lacking(runs: Runs, m: re.Match) -> None:
    assert (int(m["k"]), int(m["n"])) == (runs.ok[m["metric"]].isna().sum(), len(runs.ok))


def no_spread(runs: Runs, m: re.Match) -> None:
    y = runs.ok[m["metric"]].dropna()
    assert y.value_counts().iloc[0] * 2 >= len(y) == int(m["n"])


def seconds(runs: Runs, m: re.Match) -> None:
    assert int(m["n"]) == runs.all["seconds"].notna().sum()


def tokens(runs: Runs, m: re.Match) -> None:
    each = runs.all["train.steps"] * runs.all["train.batch_size"]
    assert {float(one.replace(",", "")) for one in re.findall(r"[\d,]+", m["n"])} == set(each)


def varied(runs: Runs, m: re.Match) -> None:
    for name, levels in re.findall(r"(\w+) ([^;]+)(?:;|$)", m["axes"]):
        given = {one for one in levels.split(", ") if one != "(inactive)"}
        assert given == {f"{one:g}" for one in column(runs, name).dropna().unique()}


def unfinished(runs: Runs, m: re.Match) -> None:
    open_ = runs.all["status"].isin(["queued", "running", "interrupted"]).sum()
    assert (int(m["k"]), int(m["n"])) == (open_, len(runs.all))


def next_run(runs: Runs, m: re.Match) -> None:
    reason = m["reason"]
    if found := re.match(r"Give every configuration (\d+) seeds, (\d+) further", reason):
        assert int(found[2]) == len(runs.means) * (int(found[1]) - runs.means["n"].max())
    elif found := re.match(r"Continue (\d+)", reason):
        assert int(found[1]) == runs.all["status"].isin(["queued", "running", "interrupted"]).sum()
    elif found := re.match(r"Run (\d+) failed", reason):
        assert int(found[1]) == runs.all["status"].isin(["failed", "oom"]).sum()
    elif found := re.match(r"Widen (\w+) beyond its (\w+) value ([^,\s]+),", reason):
        values = column(runs, found[1])
        end = values.min() if found[2] == "smallest" else values.max()
        assert float(found[3]) == pytest.approx(end, rel=1e-4)
    else:
        found = re.match(r"Fill the empty cell of (\w+) (\S+) and (\w+) (\S+)$", reason)
        assert found, reason
        here = np.isclose(column(runs, found[1]), float(found[2]), rtol=1e-4)
        assert not (here & np.isclose(column(runs, found[3]), float(found[4]), rtol=1e-4)).any()


def plain(**expected: Callable[[Runs], object]) -> Callable[[Runs, re.Match], None]:
    def check(runs: Runs, m: re.Match) -> None:
        for name, of in expected.items():
            assert m[name].replace(",", "") == str(of(runs))

    return check


OBJECTIVES = r"\((?P<objectives>[\w ,]+)\)"
CHECKS: dict[str, Callable[[Runs, re.Match], None]] = {
    r"(?P<n>\d+) trials? of (?P<c>\d+) configurations?: (?P<states>.+?)\. (?P<ranked>\d+) (is|are) ranked: .+": counts,
    r"Varied: (?P<axes>.+)\.": varied,
    r"No setting varies but the seeds\.": lambda runs, m: None,
    r"A trial is trained on (?P<n>[\d, to]+) tokens, repeats counted\.": tokens,
    r"Training and evaluation took .+ over (?P<n>\d+) trials?, .+ in the median.*\.": seconds,
    r"(?P<word>Best|Lowest) (?P<metric>\w+)( observed)?: `(?P<label>\S+)`, (?P<value>\S+?)(, mean of \d+ seeds)? \(n=(?P<n>\d+)\)(?P<rest>.+)": first,
    rf"Pareto front {OBJECTIVES}: (?P<on>\d+) of (?P<n>\d+) configurations? (is|are) on it, ((?P<beaten>\d+) beaten; noise unknown|(?P<near>\d+) within noise of it, (?P<clearly>\d+) clearly beaten)\.": on_front,
    rf"Hypervolume of {OBJECTIVES}: (?P<volume>\S+), between (?P<spans>.+) as 0 to 1 and the reference 1\.1; comparable only with the same\.": volume,
    rf"(The front|Knee of) {OBJECTIVES}( has no knee on its scales|: `(?P<label>\S+)`, (?P<distance>\S+) from the line between the ends); on linear axes (there is none|it is (?P<label2>the same|`\S+`), (?P<distance2>\S+))\.": bend,
    r"\*\*(?P<titles>.+):\*\* `(?P<label>\S+)` \(`(?P<uid>\w+)`\), (?P<values>.+)": recommendation,
    r"The most common levels among the first 5 balanced configurations \(.+\) are no recommendation: (no ranked configuration has them all|together they are `(?P<label>\S+)`, (?P<rank>\d+) of (?P<n>\d+) by the balanced score, .+)\.": lambda runs, m: mode(runs, m) if m["rank"] else None,
    r"Noise: none in (?P<metric>\w+) between seeds \((?P<df>\d+) degrees? of freedom\)\.": lambda runs, m: plain(df=lambda r: r.pooled(m["metric"])[1])(runs, m),
    r"Noise: two single trials are told apart when (?P<metric>\w+) differs by (?P<step>.+) or more \((?P<df>\d+) degrees? of freedom\)\.": detectable,
    r"Noise unknown: no configuration has two seeds; .+ only lowest observed \(n=(?P<n>\d+)\)\.": plain(n=lambda r: len(r.means)),
    r"The noise of fvu rests on (?P<df>\d+) degrees? of freedom: its sd may be (?P<low>\S+) to (?P<high>\S+) times what is used here \(95 %\)\.": uncertain,
    r"The noise of (?P<metric>\w+) differs between configurations \(Levene p = (?P<p>\S+)\): its sd is that of the (?P<half>lower|upper) half by \w+, where it is larger\.": uneven,
    r"Were all (?P<n>\d+) configurations equally good, the lowest fvu would still be expected (?P<sd>\S+) sd, (?P<step>.+), below their mean: run the first 3 again with 3 new seeds, and keep those values apart from the (?P<seeds>\d+) seeds? by which they were chosen\.": curse,
    r"Without a rank: (?P<k>\d+) of (?P<n>\d+) ended trials? \((?P<p>\S+) %, 95 % interval (?P<low>\S+) to (?P<high>\S+) %\): means and ranks are those of the others\.": lost,
    r"Not ended: (?P<k>\d+) of (?P<n>\d+) trials?, which count nowhere\.": unfinished,
    r"The grid is not whole: without a ranked trial (?P<empty>\d+) of the (?P<pairs>\d+) pairs of levels of (?P<a>\w+) and (?P<b>\w+), so comparisons of one mix in the other\.": unbalanced,
    r"The (?P<criterion>lowest fvu|configuration first by the balanced score) is at the (?P<end>\w+) (?P<name>\w+) that was run \((?P<value>\S+)\): a better value may lie beyond\.": edge,
    r"The trials are of (?P<a>\d+) different activations, each a task of its own: none is ranked against, preferred to or recommended over one of another\.": plain(a=lambda r: r.all["activations.layer"].nunique()),
    r"Trials mix devices or threads: H200, 1 thread \((?P<a>\d+)\); cpu, 1 thread \((?P<b>\d+)\)\. Compare across them with care\.": plain(a=lambda r: (r.all["device"] == "H200").sum(), b=lambda r: (r.all["device"] == "cpu").sum()),
    r"Training is short, (?P<n>[\d, to]+) tokens a trial \(under 10,000,000\): what leads so early need not lead later\.": tokens,
    r"Validation has 4,096 tokens: a latent that fires less often than once in as many counts as dead\.": lambda runs, m: None,
    r"All of this is about one source of activations \(d = (?P<d>\d+)\); for others nothing is said\.": plain(d=lambda r: r.all["activations.d"].iloc[0]),
    r"No trial of (?P<n>\d+) is ranked: there is nothing to compare\.": plain(n=lambda r: len(r.all)),
    r"No rule is broken in (?P<n>\d+) done trials?\.": plain(n=lambda r: (r.all["status"] == "done").sum()),
    r"\*\*Warning:\*\* (?P<rule>.+) does not hold in (?P<k>\d+) trials?: (?P<names>.+)\.": broken,
    r"(No ranked trial of|(?P<k>\d+) of) (?P<n>\d+)( ranked trials? have| has) \|robust z\| > 3\.5 in (?P<metric>\w+)(, the farthest (?P<names>.+); they are labelled here and keep their rank)?\.": outlying,
    r"Over half of (?P<n>\d+) ranked trials? have the same (?P<metric>\w+): outliers in it cannot be told\.": no_spread,
    r"(?P<k>\d+) trials? in (?P<groups>\d+) groups? have equal values in every metric at different settings, such as (?P<names>.+): a setting has no effect there, or a record is a copy\.": duplicated,
    r"(?P<metric>\w+) is averaged as it is, and is skewed \((?P<skew>[^,]+)(, largest over median (?P<ratio>[^,]+))?, n=(?P<n>\d+)\): read its median, not its mean\.": skewed,
    r"(?P<metric>\w+) is missing or not finite in (?P<k>\d+) of (?P<n>\d+) ranked trials?: they count nowhere in it\.": lacking,
    r"Of the first (?P<top>\d+) of (?P<n>\d+) by mean rank, (?P<utopia>\d+) are also first by utopia distance and (?P<raw>\d+) by raw min-max(; in raw min-max, (?P<heavy>\w+) makes (?P<share>\S+) % of the variance of its first)?\.": agreement,
    r"(?P<reason>(Give|Continue|Run|Widen|Fill) [^`]+): `python -m sae_sweep .+`": next_run,
}  # fmt: skip


def seeded() -> list[Ran]:
    """A whole grid over three seeds, one diverged trial, noise that width does not change."""
    rng, trials = np.random.default_rng(0), []
    for k in (8, 16, 32):
        for m in (256, 512):
            for lr in (3e-4, 1e-3):
                for s in range(3):
                    keys = {
                        "sae.k": k,
                        "sae.n_latents": m,
                        "train.lr": lr,
                        **dict.fromkeys(SEEDS, s),
                    }
                    fvu = 0.9 * k**-0.4 * (m / 256) ** -0.1 * np.exp(0.05 * rng.normal())
                    dead = abs(2e-5 * m * 8 / k + 0.004 * rng.normal())
                    final = {"fvu": fvu, "explained_variance": 1 - fvu, "l0": float(k)}
                    trials.append(Ran(keys, final | {"dead_features": dead}))
    trials[4].status, trials[4].final, trials[4].error = "diverged", {}, "loss is nan"
    return trials


def odd() -> list[Ran]:
    """Single seeds with outliers, copies, gaps, broken rules, skew, two devices, a missing cell."""
    rng, trials = np.random.default_rng(5), []
    for k in (8, 16, 32, 64):
        for lr in (1e-4, 3e-4, 1e-3):
            if (k, lr) == (64, 1e-3):
                continue
            fvu = 0.4 * k**-0.1 * np.exp(0.02 * rng.normal())
            final = {"fvu": fvu, "explained_variance": 1 - fvu, "l0": k, "always_on": 0.0}
            final["dead_features"] = float(rng.uniform(0.1, 0.2))
            trials.append(Ran({"sae.k": k, "train.lr": lr}, final))
    trials[1].final |= {"fvu": 0.98, "explained_variance": 0.02}
    trials[2].final["l0"] = 70.0
    trials[3].final["explained_variance"] = 0.1
    trials[5].final = dict(trials[4].final)
    trials[6].final["dead_features"] = float("nan")
    trials[7].final["always_on"] = 500.0
    trials[8].device = "H200"
    return trials


def layers() -> list[Ran]:
    """Three layers, two seeds."""
    return [
        Ran(
            {"activations.layer": layer, **dict.fromkeys(SEEDS, s)},
            {"fvu": 0.1 * layer + 0.01 * s, "l0": 8.0, "dead_features": 0.01 * s},
        )
        for layer in (1, 2, 3)
        for s in (0, 1)
    ]


def uneven_noise() -> list[Ran]:
    """Six configurations of eight seeds, half of them far noisier."""
    rng, trials = np.random.default_rng(7), []
    for i in range(6):
        for s in range(8):
            fvu = 0.1 * (1 + i) * np.exp((0.2 if i > 2 else 0.002) * rng.normal())
            final = {
                "fvu": fvu,
                "explained_variance": 1 - fvu,
                "l0": 8.0,
                "dead_features": 0.01 * i,
            }
            trials.append(Ran({"train.lr": 1e-4 * 2.0**i, **dict.fromkeys(SEEDS, s)}, final))
    return trials


SWEEPS = [("grid", grid()), ("seeded", seeded()), ("odd", odd())]
SWEEPS += [("uneven", uneven_noise()), ("layers", layers())]
SWEEPS += [(f"random {seed}", made(seed)) for seed in range(10) if made(seed)]


@pytest.mark.parametrize("trials", [pytest.param(one, id=name) for name, one in SWEEPS])
def test_every_sentence_says_what_runs_csv_says(
    trials: list[Ran], load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "draw", lambda *_: {})
    sweep, reader = load(trials)
    page = report.render(sweep, tmp_path / "study", reader.history)
    keys = dict.fromkeys(key for one in trials for key in one.assignment if key not in SEEDS)
    runs_csv = page.parent / "data" / "runs.csv"
    frame = pd.read_csv(runs_csv)
    axes = [key for key in keys if len(frame[key].unique()) > 1] or list(keys)
    runs = Runs(runs_csv, axes)
    for bullet in mine(page.read_text()):
        found = [(m, check) for one, check in CHECKS.items() if (m := re.fullmatch(one, bullet))]
        assert len(found) == 1, bullet
        (m, check) = found[0]
        check(runs, m)


def mine(text: str) -> list[str]:
    """The bullets of the sections checked here, and of the first screen what is not of others."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    chosen = [one for one in parts[1:] if one.splitlines()[0] in TITLES]
    others = [one for one in parts[1:] if one not in chosen]
    said = {line for part in others for line in bullets(part)}
    first = [line for line in bullets(parts[0]) if line not in said]
    return first + [line for part in chosen for line in bullets(part)]


def bullets(text: str) -> list[str]:
    return re.findall(r"^- (.+)$", text, re.MULTILINE)


def test_the_sweeps_here_make_every_kind_of_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "draw", lambda *_: {})
    said = set()
    for i, (_, trials) in enumerate(SWEEPS):
        folder = tmp_path / str(i)
        folder.mkdir()
        with Reader(write_store(folder, trials)) as reader:
            page = report.render(reader.sweep(), folder / "study", reader.history)
        claims = json.loads((page.parent / "data" / "claims.json").read_text())["claims"]
        said |= {one["kind"] for one in claims}
    wanted = {"Counts", "First", "OnFront", "Volume", "Bend", "Recommendation", "CommonLevels",
              "Detectable", "WinnersCurse", "NoiseUnknown", "NoiseUncertain", "Lost", "Unbalanced",
              "AtEdge", "Mixed", "SeveralTasks", "Broken", "Outlying", "NoSpread", "Duplicated", "Skewed", "Lacking",
              "ScoresAgree", "NextRun", "Unfinished", "Uneven"}  # fmt: skip
    assert wanted <= said
