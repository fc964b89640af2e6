"""The claims on trials, noise, ranks and fronts, field by field, computed anew from runs.csv."""

import json
import re
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, grid, write_store
from scipy import stats
from test_claims import made

from analysis import report
from sae_sweep.records.store import Reader

SEEDS = ["train.seed_init", "train.seed_data"]
LOGS = {"fvu", "l0"}
Claim = dict[str, Any]
"""The fields of one sentence, as claims.json has them."""


@cache
def tukey(error: float, compared: int, df: float) -> float:
    """What the extremes of some means differ by, in standard errors of a difference."""
    return float(stats.studentized_range.ppf(1 - error, max(compared, 2), df) / np.sqrt(2))


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

    @cached_property
    def means(self) -> pd.DataFrame:
        groups = self.by_configuration(self.ok)
        columns = {"label": groups["label"].first(), "uid": groups["uid"].first()}
        columns |= {"n": groups.size(), "n_latents": groups["n_latents"].first()}
        for name in ("fvu", "dead_features", "l0"):
            columns[name] = groups[name].agg(center(name))
        return pd.DataFrame(columns).reset_index(drop=True)

    @cached_property
    def whole(self) -> pd.DataFrame:
        """The configurations of which no run came to nothing; all where there is none such."""
        ruined = self.all["status"].isin(["diverged", "oom", "failed"])
        ruined |= (self.all["status"] == "done") & (self.all["fvu"] >= 1)
        lost = self.by_configuration(self.all.assign(lost=ruined))["lost"].transform("any")
        uids = self.means["uid"].isin(self.all["uid"][~lost])
        return self.means[uids] if uids.any() else self.means

    @cached_property
    def floors(self) -> dict[str, "Floor | None"]:
        return {name: floor(self, name) for name in self.metrics}

    def pooled(self, name: str) -> tuple[float, int] | None:
        """Standard deviation between seeds and its degrees of freedom."""
        found = self.floors.get(name)
        return None if found is None else (found.sd, found.df)

    def errors(self, name: str) -> float:
        """Tukey's for all configurations, 5 % for all metrics."""
        compared = 0 if "activations.layer" in self.axes else len(self.means)
        return tukey(0.05 / len(self.metrics), compared, self.floors[name].df)

    def difference(self, name: str) -> float:
        """What two single trials of one seed must differ by."""
        return self.errors(name) * self.floors[name].sd * np.sqrt(2)

    def apart(self, name: str, a: pd.Series, b: pd.Series) -> float:
        """What two configurations must differ by."""
        found = self.floors[name]
        sd = max(found.sd, *(found.spreads.get(one["uid"], 0.0) for one in (a, b)))
        gap = self.errors(name) * sd
        if found.shift and found.sets[a["uid"]] != found.sets[b["uid"]]:
            sets = tukey(0.05 / len(self.metrics), found.sets.nunique(), found.shift_df)
            gap = np.hypot(gap, sets * found.shift)
        return float(gap * np.sqrt(1 / a["n"] + 1 / b["n"]))

    def tied(self, name: str, among: pd.DataFrame) -> int | None:
        """Others than the first that are no farther from it than the detectable difference."""
        rows = among.dropna(subset=[name])
        at = rows.sort_values(
            [name, *[m for m in ("fvu", "dead_features", "l0") if m != name], "label"]
        )
        first = at.iloc[0]
        if self.pooled(name) is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            y = np.log10(at[name]) if name in LOGS else at[name]
            near = [
                value == y.iloc[0] or abs(value - y.iloc[0]) <= self.apart(name, first, other)
                for value, (_, other) in zip(y, at.iterrows(), strict=True)
            ]
        return sum(near) - 1

    def front(self, names: list[str]) -> pd.DataFrame:
        rows = self.means.dropna(subset=names)
        values = rows[names].to_numpy()
        keep = [not ((values <= b).all(1) & (values < b).any(1)).any() for b in values]
        return rows[keep].sort_values(names[1:])


class Floor(NamedTuple):
    """The noise of a metric between seeds, those that configurations share as blocks."""

    sd: float
    df: int
    p: float | None
    """Of equal variances."""
    spreads: "pd.Series[float]"
    """Each configuration's own, or that of one of its levels, by uid."""
    shift: float
    """Sd of the shared seeds' effects."""
    shift_df: int
    sets: "pd.Series[str]"
    """Each configuration's seeds, by uid."""


def floor(runs: Runs, name: str) -> Floor | None:
    """By least squares: configuration + seed, for the seeds that several configurations have."""
    rows = runs.ok.assign(y=runs.ok[name].map(np.log10) if name in LOGS else runs.ok[name])
    rows = rows.dropna(subset=["y"]).reset_index(drop=True)
    cell = runs.by_configuration(rows).ngroup()
    of = [key for key in SEEDS if key in rows]
    seed = rows.groupby(of).ngroup() if of else cell * 0
    shared = pd.get_dummies(seed, dtype=float).loc[
        :, (cell.groupby(seed).agg(set).map(len) > 1).to_numpy()
    ]
    cells = pd.get_dummies(cell, dtype=float)
    x, y = np.hstack([cells, shared]), rows["y"].to_numpy()
    params, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    df, free = len(x) - int(rank), cell.value_counts().sort_index() - 1
    if not df:
        return None
    left = pd.Series(y - x @ params)
    if np.abs(left).max() < 1e-12 * np.abs(y).max():
        left *= 0.0
    # blocks spread the noise of a noisy configuration, so plain deviations are asked as well
    plain = rows["y"] - rows["y"].groupby(cell).transform("mean")
    asked = [left, plain] if shared.shape[1] > 1 else [left]
    tested = [p for each in asked if (p := levene(each, cell)) is not None]
    p = min(1.0, len(tested) * min(tested)) if tested else None
    means = pd.Series(params[: len(free)])
    halves = [free.index]
    if p is not None and p < 0.05:
        halves = [free.index[means <= means.median()], free.index[means > means.median()]]
    pooled = []
    for half in halves:
        degrees = round(free[half].sum() * df / free.sum())
        if degrees:
            pooled.append((np.sqrt((left[cell.isin(half)] ** 2).sum() / degrees), degrees))
    squares = (left**2).groupby(cell).sum() * free.sum() / df
    first = ~cell.duplicated()
    spreads = np.sqrt(squares / free).where(free > 0, 0.0)
    for axis in runs.axes:
        levels = rows[axis][first].set_axis(cell[first]).sort_index()
        degrees = free.groupby(levels, dropna=False).transform("sum")
        level = np.sqrt(squares.groupby(levels, dropna=False).transform("sum") / degrees)
        spreads = spreads.where(degrees < 3, np.maximum(spreads, level))
    uid_of = runs.by_configuration(runs.ok)["uid"].transform("first")
    named = uid_of.set_axis(runs.ok["uid"])[rows["uid"][first]].to_numpy()
    # about their average among the configurations that they link
    share = (cells.T @ shared).to_numpy() > 0
    near = np.linalg.matrix_power((share.T @ share + np.eye(shared.shape[1])) > 0, 50) > 0
    shifts = params[len(free) :]
    centred = shifts - near @ shifts / near.sum(axis=1)
    shift_df = shared.shape[1] - len(np.unique(near, axis=0))
    shift = float(np.sqrt((centred**2).sum() / shift_df)) if shift_df else 0.0
    sets = seed.groupby(cell).agg(lambda one: str(sorted(set(one))))
    sd, degrees = max(pooled)
    spreads, sets = (each.loc[cell[first]].set_axis(named) for each in (spreads, sets))
    return Floor(float(sd), degrees, p, spreads, shift, shift_df, sets)


def levene(values: pd.Series, groups: pd.Series) -> float | None:
    """p, about the medians, of the groups of three or more."""
    large = [one for _, one in values.groupby(groups) if len(one) > 2]
    if len(large) < 2 or not any(np.ptp(one) for one in large):
        return None
    with np.errstate(all="ignore"):
        p = float(stats.levene(*large, center="median").pvalue)
    return None if np.isnan(p) else p


def center(name: str) -> Callable[[pd.Series], float]:
    mean = stats.gmean if name in LOGS else np.mean
    # means of equal values differ in the last digits, by which nothing is better
    digits = 4 if name == "l0" else 12
    return lambda x: float(f"{mean(x.dropna()):.{digits}g}")


def same(told: float | None, value: float) -> None:
    assert told == pytest.approx(value, rel=1e-9, abs=1e-12)


def names(objectives: str) -> list[str]:
    return re.findall(r"(\w+) down", objectives)


def counts(runs: Runs, m: Claim) -> None:
    assert m["trials"] == len(runs.all)
    assert m["configurations"] == runs.all.groupby(runs.axes, dropna=False).ngroups
    assert dict(m["statuses"]) == runs.all["status"].value_counts().to_dict()
    assert m["ranked"] == len(runs.ok)


def first(runs: Runs, m: Claim) -> None:
    rows = runs.means.dropna(subset=[m["metric"]])
    value = rows[m["metric"]].min()
    same(m["value"], value)
    own = rows[rows["label"] == m["label"]].iloc[0]
    assert own[m["metric"]] == pytest.approx(value)
    assert (m["n"], m["seeds"]) == (len(rows), own["n"])
    assert m["equal"] == (rows[m["metric"]] == value).sum()
    assert m["tied"] == runs.tied(m["metric"], runs.means)


def on_front(runs: Runs, m: Claim) -> None:
    objectives = names(m["objectives"])
    rows = runs.means.dropna(subset=objectives)
    found = runs.front(objectives)
    assert (m["on_front"], m["n"]) == (len(found), len(rows))
    if m["within_noise"] is None:
        assert any(runs.pooled(one) is None for one in objectives if one != "n_latents")
        return
    assert all(runs.pooled(one) is not None for one in objectives if one != "n_latents")
    clearly = 0
    for _, b in rows[~rows["uid"].isin(found["uid"])].iterrows():
        for _, a in found.iterrows():
            gaps = []
            for name in objectives:
                with np.errstate(divide="ignore"):
                    x, y = (
                        np.log10(one[name]) if name in {*LOGS, "n_latents"} else one[name]
                        for one in (a, b)
                    )
                eps = 0.0 if runs.pooled(name) is None else runs.apart(name, a, b)
                gaps.append((x - y, eps))
            if all(gap <= eps for gap, eps in gaps) and any(gap < -eps for gap, eps in gaps):
                clearly += 1
                break
    assert m["within_noise"] == len(rows) - len(found) - clearly


def recommendation(runs: Runs, m: Claim) -> None:
    rows = runs.whole
    row = rows[rows["uid"] == m["uid"]].iloc[0]
    assert (row["label"], row["n"]) == (m["label"], m["seeds"])
    for name, value in m["values"]:
        if value is not None:
            same(value, row[name])
    uses = dict(m["uses"])
    if uses.get("High reconstruction") == "lowest fvu":
        assert row["fvu"] == pytest.approx(rows["fvu"].min())
    if "Feature utilisation" in uses:
        assert row["dead_features"] == pytest.approx(rows["dead_features"].min())
    if "Small model" in uses:
        narrow = rows[rows["n_latents"] == rows["n_latents"].min()]
        assert row["fvu"] == pytest.approx(narrow["fvu"].min())
    if "Extreme sparsity" in uses:
        assert row["l0"] <= 1.06 * rows["l0"].min()
    if "Balanced" in uses:
        whole = rows.dropna(subset=runs.metrics)
        score = whole[runs.metrics].rank().mean(axis=1)
        assert score[row.name] == pytest.approx(score.min())
    if m["tied"] is not None:
        assert m["tied"] == runs.tied(
            "fvu" if "High reconstruction" in uses else "dead_features", rows
        )


def curse(runs: Runs, m: Claim) -> None:
    n = len(runs.means)
    assert m["n"] == n
    draws = np.random.default_rng(1).standard_normal((20_000, n)).max(axis=1).mean()
    assert m["expected"] == pytest.approx(draws, abs=0.03)
    sd, _ = runs.pooled("fvu")
    seeds = m["seeds"]
    assert seeds in set(runs.means["n"][runs.means["fvu"] == runs.means["fvu"].min()])
    assert m["distance"] == pytest.approx(draws * sd / np.sqrt(seeds), abs=0.03 * sd + 1e-9)


def detectable(runs: Runs, m: Claim) -> None:
    assert m["degrees_of_freedom"] == runs.pooled(m["metric"])[1]
    same(m["distance"], runs.difference(m["metric"]))


def uneven(runs: Runs, m: Claim) -> None:
    same(m["p"], runs.floors[m["metric"]].p)
    assert m["p"] < 0.05


def uncertain(runs: Runs, m: Claim) -> None:
    df = runs.pooled("fvu")[1]
    assert m["degrees_of_freedom"] == df
    same(m["low"], np.sqrt(df / stats.chi2.ppf(0.975, df)))
    same(m["high"], np.sqrt(df / stats.chi2.ppf(0.025, df)))


def lost(runs: Runs, m: Claim) -> None:
    ended = (~runs.all["status"].isin(["queued", "running", "interrupted"])).sum()
    k = ended - len(runs.ok)
    assert (m["lost"], m["ended"]) == (k, ended)
    # Wilson's closed form
    z, p = stats.norm.ppf(0.975), k / ended
    middle = (p + z * z / 2 / ended) / (1 + z * z / ended)
    half = z / (1 + z * z / ended) * np.sqrt(p * (1 - p) / ended + z * z / 4 / ended**2)
    same(m["low"], middle - half)
    same(m["high"], middle + half)


def column(runs: Runs, name: str) -> pd.Series:
    (key,) = [one for one in runs.axes if one.endswith("." + name)]
    return runs.all[key]


def unbalanced(runs: Runs, m: Claim) -> None:
    a, b = column(runs, m["first"]), column(runs, m["second"])
    pairs = a.nunique() * b.nunique()
    there = pd.crosstab(a[runs.all["ranked"]], b[runs.all["ranked"]])
    assert (m["empty"], m["pairs"]) == (pairs - (there > 0).sum().sum(), pairs)


def outlying(runs: Runs, m: Claim) -> None:
    y = runs.ok.set_index("uid")[m["metric"]].dropna()
    y = np.log10(y) if m["metric"] in LOGS else y
    mad = stats.median_abs_deviation(y)
    assert m["n"] == len(y)
    z = 0.6745 * (y - y.median()) / mad
    assert m["outliers"] == (z.abs() > 3.5).sum()
    for uid, told in m["named"]:
        same(told, z[uid])


def skewed(runs: Runs, m: Claim) -> None:
    y = runs.ok[m["metric"]].dropna()
    same(m["skewness"], float(stats.skew(y)))
    assert m["n"] == len(y)
    if m["max_over_median"] is not None:
        same(m["max_over_median"], y.max() / y.median())


def broken(runs: Runs, m: Claim) -> None:
    done = runs.all[runs.all["status"] == "done"]
    alive = done["sae.n_latents"] * (1 - done["dead_features"])
    rules = {
        "l0 <= k": done["l0"] > done["sae.k"] * (1 + 1e-6),
        "explained_variance = 1 - fvu": (1 - done["fvu"] - done["explained_variance"]).abs() > 1e-6,
        "l0 <= alive latents": done["l0"] > alive * (1 + 1e-6),
    }
    found = done["uid"][rules[m["rule"]]]
    assert m["trials"] == len(found)
    assert set(m["named"]) <= set(found)


def duplicated(runs: Runs, m: Claim) -> None:
    compared = {"fvu", "explained_variance", "l0", "dead_features", "always_on", "loss"}
    columns = [one for one in runs.ok if one in compared]
    equal = runs.ok.duplicated(columns, keep=False)
    assert m["trials"] == equal.sum()
    assert m["groups"] == len(runs.ok[equal].drop_duplicates(columns))
    assert set(m["named"]) <= set(runs.ok["uid"][equal])


def lacking(runs: Runs, m: Claim) -> None:
    assert (m["missing"], m["n"]) == (runs.ok[m["metric"]].isna().sum(), len(runs.ok))


def no_spread(runs: Runs, m: Claim) -> None:
    y = runs.ok[m["metric"]].dropna()
    assert y.value_counts().iloc[0] * 2 >= len(y) == m["n"]


def seconds(runs: Runs, m: Claim) -> None:
    known = runs.all["seconds"].dropna()
    assert m["trials"] == len(known)
    same(m["seconds"], known.sum())
    same(m["median"], known.median())


def tokens(runs: Runs, m: Claim) -> None:
    each = runs.all["train.steps"] * runs.all["train.batch_size"]
    assert (m["low"], m["high"]) == (each.min(), each.max())


def varied(runs: Runs, m: Claim) -> None:
    for name, levels in m["axes"]:
        given = {one for one in levels if one != "(inactive)"}
        assert given == {f"{one:g}" for one in column(runs, name).dropna().unique()}


def unfinished(runs: Runs, m: Claim) -> None:
    open_ = runs.all["status"].isin(["queued", "running", "interrupted"]).sum()
    assert (m["trials"], m["n"]) == (open_, len(runs.all))


def mixed(runs: Runs, m: Claim) -> None:
    assert m["what"] == "devices or threads"
    told = {name.partition(",")[0]: n for name, n in m["found"]}
    assert told == runs.all["device"].value_counts().to_dict()


def next_run(runs: Runs, m: Claim) -> None:
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


def equal(**expected: Callable[[Runs], object]) -> Callable[[Runs, Claim], None]:
    def check(runs: Runs, m: Claim) -> None:
        for name, of in expected.items():
            assert m[name] == of(runs)

    return check


CHECKS: dict[str, Callable[[Runs, Claim], None]] = {
    "Counts": counts,
    "Varied": varied,
    "Tokens": tokens,
    "Time": seconds,
    "First": first,
    "OnFront": on_front,
    "Recommendation": recommendation,
    "Detectable": detectable,
    "NoiseUnknown": equal(configurations=lambda r: len(r.means)),
    "NoiseUncertain": uncertain,
    "Uneven": uneven,
    "WinnersCurse": curse,
    "Lost": lost,
    "Unfinished": unfinished,
    "Unbalanced": unbalanced,
    "SeveralTasks": equal(tasks=lambda r: r.all["activations.layer"].nunique()),
    "Mixed": mixed,
    "ShortTraining": tokens,
    "SmallValidation": equal(tokens=lambda r: 4096),
    "OneSource": equal(sources=lambda r: 1, widths=lambda r: [r.all["activations.d"].iloc[0]]),
    "NothingRanked": equal(trials=lambda r: len(r.all)),
    "RulesKept": equal(done=lambda r: (r.all["status"] == "done").sum()),
    "Broken": broken,
    "Outlying": outlying,
    "NoSpread": no_spread,
    "Duplicated": duplicated,
    "Skewed": skewed,
    "Lacking": lacking,
    "NextRun": next_run,
}


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


SWEEPS = {"grid": grid(), "seeded": seeded(), "odd": odd()}
SWEEPS |= {"uneven": uneven_noise(), "layers": layers()}
SWEEPS |= {f"random {seed}": made(seed) for seed in range(10) if made(seed)}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a sweep's report, which is rendered once."""

    @cache
    def render(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with Reader(write_store(folder, SWEEPS[name])) as reader:
            return report.render(reader.sweep(), folder / "study", reader.history).parent

    return render


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_every_sentence_says_what_runs_csv_says(name: str, rendered: Callable[[str], Path]) -> None:
    keys = dict.fromkeys(key for one in SWEEPS[name] for key in one.assignment if key not in SEEDS)
    runs_csv = rendered(name) / "data" / "runs.csv"
    frame = pd.read_csv(runs_csv)
    axes = [key for key in keys if len(frame[key].unique()) > 1] or list(keys)
    runs = Runs(runs_csv, axes)
    found = [one for one in claims(rendered(name)) if one["kind"] in CHECKS]
    assert len(found) > 2
    for one in found:
        CHECKS[one["kind"]](runs, one)


def claims(folder: Path) -> list[Claim]:
    return json.loads((folder / "data" / "claims.json").read_text())["claims"]


@pytest.mark.slow
def test_the_sweeps_here_make_every_kind_of_sentence(rendered: Callable[[str], Path]) -> None:
    said = {one["kind"] for name in SWEEPS for one in claims(rendered(name))}
    assert said >= CHECKS.keys() - {"NothingRanked", "SmallValidation"}
