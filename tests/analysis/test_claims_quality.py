"""Every sentence on what the autoencoders are like, recomputed from the data beside the page."""

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Ran, write_store
from quality_sweeps import layers, published_grid, two_kinds, write_tables
from scipy.interpolate import PchipInterpolator

import analysis
from analysis import figures, report
from sae_sweep.records.store import Reader

SECTIONS = (
    "k by width",
    "Use of the latents and size of activations",
    "fvu at equal l0",
    "Quality scorecard",
    "Groups",
)
BANDS = tomllib.loads((Path(analysis.__file__).parent / "thresholds.toml").read_text())["band"]


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


def render(folder: Path, trials: list[Ran], *, tables: bool = True) -> Page:
    outputs = folder / "out"
    if tables:
        write_tables(outputs, trials)
    with pytest.MonkeyPatch.context() as patch, Reader(write_store(folder, trials)) as reader:
        patch.setattr(figures, "draw", lambda *_: frozenset())
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
    r"`(?P<label>\w+)`: (?P<grades>explained_variance .+)": trial_grades,
    r"layer (?P<layer>\d+), medians of (?P<n>\d+) ranked trials?: (?P<grades>.+)": layer_grades,
    rf"(?P<metric>\w+) is (?P<value>{NUMBER}) in all (?P<n>\d+) ranked trials: it carries no "
    "information on which of them to choose": constant,
    rf"`(?P<label>\w+)`: over (?P<n>\d+) groups, (?P<metric>\w+) is lowest in (?P<low>.+) "
    rf"\((?P<a>{NUMBER})\) and highest in (?P<high>.+) \((?P<b>{NUMBER})\)": spread,
    r"`(?P<label>\w+)`: of (?P<alive>\d+) latents alive in any of the (?P<groups>\d+) groups, "
    r"(?P<everywhere>\d+) fire in all of them, (?P<even>\d+) with frequencies within a factor of "
    rf"2; (?P<specific>\d+) are specific to one group, where (?P<chance>{NUMBER}) are expected by "
    "chance": specific,
    r"the activations have groups \(`activations.group=(?P<column>\w+)`\), but the folders of the "
    r"\d+ recommended trials? hold no figures of two groups or more: run them again with "
    "`rerun=all`": nothing,
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
    far = [
        one for one in two_kinds() if (one.final["l0"] < 17) != ("sae.l1_alpha" in one.assignment)
    ]
    sweeps = {
        "grid": published_grid(),
        "kinds": two_kinds(),
        "layers": layers(),
        "thinned": thinned,
        "far": far,
    }
    for name, trials in sweeps.items():
        (tmp_path / name).mkdir()
        seen |= checked(render(tmp_path / name, trials))
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
