"""Every sentence on what the autoencoders are like, recomputed from the data beside the page."""

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, write_store
from quality_sweeps import (
    l1_sweep,
    layers,
    published_grid,
    published_jobs,
    two_kinds,
    write_tables,
)
from scipy import stats
from scipy.interpolate import PchipInterpolator

import analysis
from analysis import contents, report
from sae_sweep.records.store import Reader
from sae_sweep.rules import response

SECTIONS = (
    "k by width",
    "Use of the latents and size of activations",
    "fvu at equal l0",
    "Quality scorecard",
    "Groups",
    "Response of l0 to l1_alpha",
    "The recommended trials side by side",
)
BANDS = tomllib.loads(
    (Path(analysis.__file__).parent / "findings" / "thresholds.toml").read_text()
)["band"]


class Page(NamedTuple):
    """A rendered report and what its sentences are checked against."""

    text: str
    runs: pd.DataFrame
    outputs: Path

    @property
    def bullets(self) -> list[str]:
        """The sentences of the sections under test."""
        parts = re.split(r"^## (.+)$", self.text, flags=re.MULTILINE)
        wanted = [
            body for title, body in zip(parts[1::2], parts[2::2], strict=True) if title in SECTIONS
        ]
        return re.findall(r"^- (.+)$", "\n".join(wanted), re.MULTILINE)

    @property
    def ranked(self) -> pd.DataFrame:
        return self.runs[self.runs["ranked"]]

    def trial(self, label: str) -> pd.Series:
        return self.runs.set_index("label").loc[label]

    def table(self, label: str, name: str) -> pd.DataFrame:
        folder = self.outputs / "trials" / f"{label}-{self.trial(label)['uid']}"
        return pd.read_parquet(folder / f"{name}.parquet")


def render(folder: Path, trials: list[Ran], *, tables: bool = True, **run: Any) -> Page:
    outputs = folder / "out"
    if tables:
        write_tables(outputs, trials)
    with (
        pytest.MonkeyPatch.context() as patch,
        Reader(write_store(folder, trials, **run)) as reader,
    ):
        patch.setattr(contents, "draw", lambda *_: {})
        page = report.render(reader.sweep(), outputs / "study", reader.history)
    runs = pd.read_csv(page.parent / "data" / "runs.csv")
    return Page(page.read_text(), runs, outputs)


def plain(text: str) -> str:
    return text.replace("\\", "").replace("&lt;", "<").replace("&gt;", ">").replace(",", "")


def same(printed: str, value: float, digits: int = 4) -> bool:
    return float(plain(printed)) == pytest.approx(float(f"{value:.{digits}g}"), rel=1e-9, abs=1e-12)


def column(page: Page, metric: str) -> pd.Series:
    return 1 - page.ranked["fvu"] if metric == "explained_variance" else page.ranked[metric]


def end_to_end(page: Page, m: re.Match[str]) -> bool:
    values = column(page, m["metric"])
    other, along = page.ranked[f"sae.{m['other']}"], page.ranked[f"sae.{m['along']}"]
    here = other == float(m["at"])
    cells = [values[here & (along == float(m[end]))] for end in ("start", "end")]
    before, after = (float(np.median(cell)) for cell in cells)
    right = [float(m["start"]) == along[here].min(), float(m["end"]) == along[here].max()]
    right += [int(m["n1"]) == len(cells[0]), int(m["n2"]) == len(cells[1])]
    right += [same(m["before"], before), same(m["after"], after)]
    right += [same(m["points"], 100 * (after - before), 3)]
    right += [(m["percent"] is None) == (before == 0)]
    right += [(m["share"] is not None) == (m["metric"] == "explained_variance")]
    if m["percent"]:
        right.append(same(m["percent"], 100 * (after - before) / before, 3))
    if m["share"]:
        right.append(same(m["share"], 100 * (after - before) / (1 - before), 3))
    return all(right)


def steps(page: Page, m: re.Match[str]) -> bool:
    other = {"k": "sae.n_latents", "n_latents": "sae.k"}[m["along"]]
    table = page.ranked.assign(value=column(page, m["metric"]))
    table = table[table["sae.kind"] == "topk"]
    cells = table.pivot_table(
        index=other, columns=f"sae.{m['along']}", values="value", aggfunc="median"
    )
    moved = np.concatenate([np.diff(row.dropna()) for _, row in cells.iterrows()]).round(12)
    counts = [(moved > 0).sum(), (moved < 0).sum(), (moved == 0).sum()]
    told = [int(m[name]) for name in ("rises", "falls", "stays")]
    return told == counts and int(m["total"]) == sum(counts)


def alive(page: Page, m: re.Match[str]) -> bool:
    table = page.ranked[page.ranked["sae.kind"] == m["kind"]]
    table = table[table[f"sae.{m['setting']}"] == float(m["at"])]
    count = (table["sae.n_latents"] * (1 - table["dead_features"])).groupby(table["sae.n_latents"])
    medians = count.median()
    ends = [medians.idxmin(), medians.idxmax()]
    return (
        [int(plain(m["m1"])), int(plain(m["m2"]))] == ends
        and same(m["low"], medians.min())
        and same(m["high"], medians.max())
        and int(m["widths"]) == len(medians)
    )


def curve(page: Page, name: str) -> tuple[np.ndarray, np.ndarray]:
    kind, width = plain(name).split()
    ours = (page.ranked["sae.kind"] == kind) & (page.ranked["sae.n_latents"] == int(width))
    table = page.ranked[ours]
    points = table.sort_values("l0")
    assert points["l0"].is_unique, "this check has no rule for equal l0"
    return points["l0"].to_numpy(), points["fvu"].to_numpy()


def at(page: Page, name: str, l0: str) -> float:
    x, y = curve(page, name)
    # the page rounds l0 to four digits
    near = float(np.clip(float(l0), x[0], x[-1]))
    assert near == pytest.approx(float(l0), rel=1e-3), f"{l0} is outside the range of {name}"
    exact = next((one for one in x if f"{one:.4g}" == f"{float(l0):.4g}"), near)
    return math.exp(PchipInterpolator(np.log(x), np.log(y))(math.log(exact)))


def classes(page: Page) -> list[str]:
    pairs = page.ranked.groupby(["sae.kind", "sae.n_latents"]).size()
    return [f"{kind} {width}" for kind, width in pairs.index]


def equal_l0(page: Page, m: re.Match[str]) -> bool:
    values = {
        name: at(page, name, m["l0"]) for name in classes(page) if len(curve(page, name)[0]) > 2
    }
    low, high = min(values, key=values.get), max(values, key=values.get)
    return (
        [plain(m["low"]), plain(m["high"]), int(m["n"])] == [low, high, len(values)]
        and float(m["fvu1"]) == pytest.approx(values[low], rel=1e-3)
        and float(m["fvu2"]) == pytest.approx(values[high], rel=1e-3)
        and float(m["percent"]) == pytest.approx(100 * (values[high] / values[low] - 1), rel=1e-2)
    )


def one_width(page: Page, m: re.Match[str]) -> bool:
    parts = re.findall(r"(\S+) at l0 ([\d.]+?)(?:,| and|$)", m["ratios"])
    first, second = (f"{m[kind]} {plain(m['m'])}" for kind in ("first", "second"))
    expected = [at(page, first, l0) / at(page, second, l0) for _, l0 in parts]
    return len(parts) > 1 and [float(r) for r, _ in parts] == pytest.approx(expected, rel=1e-2)


def too_few(page: Page, m: re.Match[str]) -> bool:
    x, _ = curve(page, m["name"])
    return [int(m["points"]), int(m["n"])] == [len(x), len(x)] and len(x) < int(m["needed"])


def no_common(page: Page, m: re.Match[str]) -> bool:
    parts = re.findall(r"(\w+ [\d,]+) (\S+) to (\S+?)(?:,| and|$)", m["ranges"])
    ends = {plain(name): (float(low), float(high)) for name, low, high in parts}
    expected = {name: (x[0], x[-1]) for name in classes(page) if len(x := curve(page, name)[0]) > 2}
    close = all(ends[name] == pytest.approx(expected[name], rel=1e-3) for name in expected)
    return (
        close
        and ends.keys() == expected.keys()
        and max(a for a, _ in ends.values()) > min(b for _, b in ends.values())
    )


def only_one(page: Page, m: re.Match[str]) -> bool:
    return [one for one in classes(page) if len(curve(page, one)[0]) > 2] == [plain(m["name"])]


def graded(told: str, values: dict[str, float]) -> bool:
    right = []
    for part in told.split("; "):
        m = re.fullmatch(r"(\w+) (\S+) (?:\(not graded\)|(\w+) \((.+)\))", part)
        assert m, part
        metric, printed, grade, extent = m.groups()
        value = values[metric]
        bands = [b for b in BANDS if b["metric"] == metric]
        mine = [b for b in bands if b.get("from", -math.inf) <= value < b.get("to", math.inf)]
        right.append(same(printed, value))
        right.append([b["grade"] for b in mine] == ([grade] if grade else []))
        if grade:
            ends = [f"{mine[0][key]:g}" for key in ("from", "to") if key in mine[0]]
            right.append(re.findall(r"\d+(?:\.\d+)?", extent) == ends)
    return all(right)


def finals(rows: pd.DataFrame) -> dict[str, float]:
    medians = rows.select_dtypes("number").median()
    return {str(name): float(value) for name, value in medians.items()} | {
        "explained_variance": float((1 - rows["fvu"]).median())
    }


def trial_grades(page: Page, m: re.Match[str]) -> bool:
    return graded(m["grades"], finals(page.runs[page.runs["label"] == m["label"]]))


def layer_grades(page: Page, m: re.Match[str]) -> bool:
    rows = page.ranked[page.ranked["activations.layer"] == int(m["layer"])]
    return int(m["n"]) == len(rows) and graded(m["grades"], finals(rows))


def constant(page: Page, m: re.Match[str]) -> bool:
    values = column(page, m["metric"])
    return (
        values.min() == values.max()
        and same(m["value"], values.iloc[0])
        and int(m["n"]) == len(values)
    )


def spread(page: Page, m: re.Match[str]) -> bool:
    found = page.table(m["label"], "groups").set_index("group")[m["metric"]].dropna()
    return (
        [plain(m["low"]), plain(m["high"])] == [found.idxmin(), found.idxmax()]
        and same(m["a"], found.min())
        and same(m["b"], found.max())
        and int(m["n"]) == len(found)
    )


def specific(page: Page, m: re.Match[str]) -> bool:
    tokens = page.table(m["label"], "groups").set_index("group")["tokens"]
    tokens = tokens[tokens >= 100]
    latents = page.table(m["label"], "latents")
    rates = latents[[f"frequency_{name}" for name in tokens.index]].to_numpy()
    rates = rates[rates.max(axis=1) > 0]
    everywhere = rates.min(axis=1) > 0
    even = everywhere & (rates.max(axis=1) <= 2 * rates.min(axis=1) * (1 + 1e-12))
    count = 0
    for row in rates:
        for g, rate in enumerate(row):
            others = np.delete(row, g).max()
            count += rate >= 10 * others and round(rate * tokens.iloc[g]) >= 20
    expected = [len(rates), everywhere.sum(), even.sum(), count, len(tokens)]
    told = [int(plain(m[name])) for name in ("alive", "everywhere", "even", "specific", "groups")]
    return told == expected and float(m["chance"]) < 0.5


def nothing(page: Page, m: re.Match[str]) -> bool:
    return m["column"] == "language" and not list(page.outputs.glob("trials/*"))


def contradiction(page: Page, m: re.Match[str]) -> bool:
    over = page.runs["l0"] > page.runs["sae.n_latents"] * (1 - page.runs["dead_features"])
    return re.findall("`(.+?)`", m["labels"]) == page.runs["label"][over].tolist()


def beside(page: Page, m: re.Match[str]) -> bool:
    trials = page.runs.set_index("uid")
    one, other = trials.loc[m["uid"]], trials.loc[m["other"]]
    value, against = one[m["metric"]], other[m["metric"]]
    distance = 100 * abs(value - against)
    right = [one["label"] == m["label"], other["label"] == m["other_label"]]
    right += [same(m["value"], value), same(m["against"], against)]
    right += [same(m["distance"], distance if m["unit"] == "pp" else distance / against, 3)]
    right += [(m["side"] == "above") == (value > against)]
    right += [(m["unit"] == "pp") == (m["metric"] == "dead_features")]
    floor = noise(page, m["metric"])
    log = m["metric"] != "dead_features"
    apart = abs(math.log10(value / against)) if log else abs(value - against)
    expected = "noise unknown" if floor is None else "within" if apart <= floor else "further apart"
    right += [m["told"].startswith(expected)]
    # lower is better in each of the metrics compared
    verdict = None if expected != "further apart" else "worse" if value > against else "better"
    return all([*right, m["verdict"] == verdict])


def noise(page: Page, metric: str) -> float | None:
    """Smallest difference of two single trials that a t-test finds, pooled over seeds."""
    if page.runs["train.seed_init"].max() == 0:
        return None
    values = page.ranked[metric] if metric == "dead_features" else np.log10(page.ranked[metric])
    groups = values.groupby(page.ranked["sae.k"])
    degrees = int((groups.size() - 1).sum())
    squares = ((values - groups.transform("mean")) ** 2).sum()
    return stats.t.ppf(0.975, degrees) * math.sqrt(2 * squares / degrees)


def equals(page: Page, m: re.Match[str]) -> bool:
    trials = page.runs.set_index("uid")[m["metric"]]
    return trials[m["uid"]] == trials[m["other"]] and same(m["value"], trials[m["uid"]])


def observations(page: Page) -> list[response.Observation]:
    table = page.runs[page.runs["sae.kind"] == "l1"]
    columns = ["sae.l1_alpha", "sae.n_latents", "l0_fraction"]
    rows = table[columns].itertuples(index=False)
    return sorted(response.Observation(a, int(m), share) for a, m, share in rows)


def fitted(page: Page, width: str) -> response.Posterior:
    known = observations(page)
    return response.fit(known, int(plain(width)), (known[0].l1_alpha, known[-1].l1_alpha))


def alpha(page: Page, m: re.Match[str]) -> bool:
    found = fitted(page, m["m"]).interval(float(m["target"]))
    # the made response meets 5 % at 4 (m / 256)^-0.3
    truth = 4 * (int(plain(m["m"])) / 256) ** -0.3
    inside = float(m["low"]) <= truth <= float(m["high"])
    told = (m["low"], m["middle"], m["high"])
    return inside and all(same(*pair, 3) for pair in zip(told, found, strict=True))


def out_of_reach(page: Page, m: re.Match[str]) -> bool:
    shares = [one.l0_fraction for one in observations(page) if one.n_latents == int(plain(m["m"]))]
    middle = fitted(page, m["m"]).interval(float(m["target"]))[1]
    ends = same(m["low"], min(shares)) and same(m["high"], max(shares))
    return ends and not 1 / 10**0.5 < middle < 16 * 10**0.5


def too_few_alphas(page: Page, m: re.Match[str]) -> bool:
    alphas = page.runs["sae.l1_alpha"].nunique()
    return int(m["n"]) == alphas < int(m["needed"])


def not_monotone(page: Page, m: re.Match[str]) -> bool:
    rows = [(m["a1"], m["m1"], m["l1"]), (m["a2"], m["m2"], m["l2"])]
    told = [response.Observation(float(a), int(plain(w)), float(share)) for a, w, share in rows]
    rises = told[0].l1_alpha < told[1].l1_alpha and told[0].l0_fraction < told[1].l0_fraction
    return rises and set(told) <= set(observations(page))


def width_law(page: Page, m: re.Match[str]) -> bool:
    known = observations(page)
    power = fitted(page, str(known[0].n_latents)).exponent(float(m["share"]))
    told = (m["low"], m["middle"], m["high"])
    covers = float(m["low"]) <= -0.3 <= float(m["high"])
    right = [same(*pair, 2) for pair in zip(told, power, strict=True)]
    return covers and all(right) and int(m["n"]) == len({one.n_latents for one in known})


def no_width_law(page: Page, m: re.Match[str]) -> bool:
    widths = page.runs.groupby("sae.n_latents")["sae.l1_alpha"].nunique()
    return int(m["n"]) == (widths >= int(m["each"])).sum() < int(m["needed"])


NUMBER = r"[-+]?[\d.,]*\d(?:e[-+]\d+)?"
KINDS: dict[str, Callable[[Page, re.Match[str]], bool]] = {
    rf"(?P<metric>\w+) at (?P<other>k|n_latents) (?P<at>{NUMBER}), from (?P<along>\w+) "
    rf"(?P<start>{NUMBER}) to (?P<end>{NUMBER}): (?P<before>{NUMBER}) to (?P<after>{NUMBER}), "
    rf"(?P<points>{NUMBER}) pp(?:(?:,| and) (?P<percent>{NUMBER}) % relative)?"
    rf"(?:(?:,| and) (?P<share>{NUMBER}) % of what was unexplained)? "
    r"\(n=(?P<n1>\d+) and (?P<n2>\d+)\)": end_to_end,
    r"of (?P<total>\d+) steps? between neighbouring (?P<along>\w+), (?P<metric>\w+) rises in "
    r"(?P<rises>\d+), falls in (?P<falls>\d+) and stays in (?P<stays>\d+)": steps,
    rf"(?P<kind>\w+) at (?P<setting>k|l1_alpha) (?P<at>{NUMBER}): (?P<low>{NUMBER}) latents are "
    rf"alive at n_latents (?P<m1>{NUMBER}) and (?P<high>{NUMBER}) at n_latents (?P<m2>{NUMBER}), "
    r"the fewest and the most of (?P<widths>\d+) widths": alive,
    rf"at l0 (?P<l0>{NUMBER}), over (?P<n>\d+) classes: the lowest fvu is (?P<fvu1>{NUMBER}) "
    rf"\((?P<low>[^)]+)\), the highest (?P<fvu2>{NUMBER}) \((?P<high>[^)]+)\), "
    rf"(?P<percent>{NUMBER}) % above it; noise unknown": equal_l0,
    r"n_latents (?P<m>[\d,]+): fvu of (?P<first>\w+) over fvu of (?P<second>\w+) is "
    r"(?P<ratios>.+)": one_width,
    r"(?P<name>\w+ [\d,]+) has (?P<points>\d+) distinct l0 in (?P<n>\d+) ranked trials?: a curve "
    r"needs (?P<needed>\d+)": too_few,
    r"no l0 lies in the range of every class \((?P<ranges>.+)\): nothing is compared": no_common,
    r"only (?P<name>.+) has a curve: nothing is compared": only_one,
    r"`(?P<label>[^`]+)`: (?P<grades>explained_variance .+)": trial_grades,
    r"layer (?P<layer>\d+), medians of (?P<n>\d+) ranked trials?: (?P<grades>.+)": layer_grades,
    rf"(?P<metric>\w+) is (?P<value>{NUMBER}) in all (?P<n>\d+) ranked trials: it carries no "
    "information on which of them to choose": constant,
    rf"`(?P<label>[^`]+)`: over (?P<n>\d+) groups, (?P<metric>\w+) is lowest in (?P<low>.+) "
    rf"\((?P<a>{NUMBER})\) and highest in (?P<high>.+) \((?P<b>{NUMBER})\)": spread,
    r"`(?P<label>[^`]+)`: of (?P<alive>\d+) latents alive in any of the (?P<groups>\d+) groups, "
    r"(?P<everywhere>\d+) fire in all of them, (?P<even>\d+) with frequencies within a factor of "
    rf"2; (?P<specific>\d+) are specific to one group, where (?P<chance>{NUMBER}) are expected by "
    "chance": specific,
    r"the activations have groups \(`activations.group=(?P<column>\w+)`\), but the folders of the "
    r"\d+ recommended trials? hold no figures of two groups or more: run them again with "
    "`rerun=all`": nothing,
    rf"(?P<metric>\w+): `(?P<label>[^`]+)` (?P<uid>\w+) lies (?P<distance>{NUMBER}) (?P<unit>%|pp) "
    r"(?P<side>above|below) `(?P<other_label>[^`]+)` (?P<other>\w+)"
    rf"(?:, which is (?P<verdict>\w+))?, (?P<value>{NUMBER}) against "
    rf"(?P<against>{NUMBER}); (?P<told>.+)": beside,
    r"(?P<metric>\w+): `[^`]+` (?P<uid>\w+) equals `[^`]+` (?P<other>\w+), "
    rf"(?P<value>{NUMBER})": equals,
    rf"n_latents (?P<m>[\d,]+): l0_fraction (?P<target>{NUMBER}) is met at l1_alpha "
    rf"(?P<middle>{NUMBER}), 95 % interval (?P<low>{NUMBER}) to (?P<high>{NUMBER})": alpha,
    rf"n_latents (?P<m>[\d,]+): no l1_alpha is named for l0_fraction (?P<target>{NUMBER}), which "
    rf"lies more than 0.5 decades of l1_alpha beyond trials of l0_fraction (?P<low>{NUMBER}) to "
    rf"(?P<high>{NUMBER})": out_of_reach,
    r"no curve is fitted: (?P<n>\d+) distinct l1_alpha, and it needs "
    r"(?P<needed>\d+)": too_few_alphas,
    rf"no curve is fitted: the response is not monotone, l0_fraction (?P<l1>{NUMBER}) at l1_alpha "
    rf"(?P<a1>{NUMBER}) \(n_latents (?P<m1>[\d,]+)\) and (?P<l2>{NUMBER}) at (?P<a2>{NUMBER}) "
    r"\((?P<m2>[\d,]+)\), where it should fall": not_monotone,
    rf"at l0_fraction (?P<share>{NUMBER}), l1_alpha goes as n_latents to the power "
    rf"(?P<middle>{NUMBER}), 95 % interval (?P<low>{NUMBER}) to (?P<high>{NUMBER}), from "
    r"(?P<n>\d+) widths": width_law,
    r"how l1_alpha changes with n_latents is not estimable: (?P<n>\d+) widths? with (?P<each>\d+) "
    r"l1_alpha or more, and it needs (?P<needed>\d+)": no_width_law,
    r"l0 exceeds the number of alive latents in \d+ trials?, which cannot be: "
    "(?P<labels>.+)": contradiction,
}


def checked(page: Page) -> set[str]:
    """Check every sentence; returns the kinds that occurred."""
    seen = set()
    for bullet in page.bullets:
        found = [(kind, m) for kind in KINDS if (m := re.fullmatch(kind, bullet))]
        assert len(found) == 1, f"{len(found)} kinds of sentence: {bullet}"
        kind, m = found[0]
        assert KINDS[kind](page, m), bullet
        seen.add(KINDS[kind].__name__)
    return seen


def test_every_sentence_is_what_the_data_say(tmp_path: Path) -> None:
    seen = set()
    hidden = [Ran({"sae.k": k}, {"fvu": 0.5 / k, "l0": k, "dead_features": 0.99}) for k in (4, 8)]
    group = {"activations.group": "language"}
    thinned = [one for i, one in enumerate(two_kinds()) if i not in (1, 2)]
    seeded = [
        Ran(
            {"sae.k": k, "train.seed_init": s},
            {"fvu": 1 / k + s / 200, "dead_features": 0.1 + k / 100 + s / 50, "l0": k},
        )
        for k in (4, 8, 16)
        for s in (0, 1, 2)
    ]
    far = [
        one for one in two_kinds() if (one.final["l0"] < 17) != ("sae.l1_alpha" in one.assignment)
    ]
    sweeps = {
        "grid": published_grid(),
        "kinds": two_kinds(),
        "layers": layers(),
        "thinned": thinned,
        "seeds": seeded,
        "jobs": published_jobs(),
        "few": l1_sweep((256,))[:3],
        "far": far,
    }
    for name, trials in sweeps.items():
        (tmp_path / name).mkdir()
        seen |= checked(render(tmp_path / name, trials))
    for target in (0.05, 0.9):
        folder = tmp_path / f"target{target}"
        folder.mkdir()
        search = {"kind": "target", "target": target, "trials": 15}
        seen |= checked(render(folder, l1_sweep(), tables=False, config={"search": search}))
    (tmp_path / "hidden").mkdir()
    hidden = [Ran(one.assignment, one.final, settings=group) for one in hidden]
    seen |= checked(render(tmp_path / "hidden", hidden, tables=False))
    assert seen == {check.__name__ for check in KINDS.values()}


def test_a_wrong_digit_is_found(tmp_path: Path) -> None:
    page = render(tmp_path, published_grid())
    for right, wrong in (
        ("+2.42 % relative", "+1.7 % relative"),
        ("rises in 7, falls in 1", "rises in 8, falls in 0"),
        ("1888 at n_latents", "2048 at n_latents"),
        ("8 are specific", "9 are specific"),
    ):
        assert right in page.text
        with pytest.raises(AssertionError):
            checked(page._replace(text=page.text.replace(right, wrong)))
