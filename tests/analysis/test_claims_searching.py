"""Every sentence on a search, read back from the page and recomputed from data/runs.csv."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_sweeps import Ran, write_store

from analysis import contents, report
from sae_sweep.records.store import Reader

TARGETED = re.compile(
    r"Sought by (target|optuna): (l0|l0_fraction) (\S+); (\d+) trials? of at most (\d+); "
    r"(?:none came within (\S+) %|(\d+) came within (\S+) %, trial (\d+) the first)\."
)
OPTIMISED = re.compile(
    r"Sought by Optuna's (\w+): (\S+ (?:up|down)(?:(?:, | and )\S+ (?:up|down))*)"
    r"(?:, under the constraints (.+))?; (\d+) trials? of at most (\d+), (\d+) undominated\."
)


def ran(alpha: float, l0: float, fvu: float, **fields: Any) -> Ran:
    return Ran({"sae.l1_alpha": alpha}, {"l0_fraction": l0, "l0": 64 * l0, "fvu": fvu}, **fields)


def trials() -> list[Ran]:
    """Six l1_alpha, of which one diverged and one reconstructs no better than the mean."""
    points = [(1.0, 0.5, 0.1), (9.0, 0.053, 1.5), (2.0, 0.3, 0.2), (2.1, 0.3, 0.3)]
    points += [(8.0, 0.054, 0.5)]
    return [*(ran(*one) for one in points), Ran({"sae.l1_alpha": 3.0}, status="diverged")]


def searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[list[str], pd.DataFrame]:
    """The section's bullets, and the runs in the order in which they were asked for."""
    monkeypatch.setattr(contents, "draw", lambda *_: {})
    url = write_store(folder, trials(), config={"search": {"trials": 20, "seed": 0, **settings}})
    with Reader(url) as reader:
        page = report.render(reader.sweep(), folder / "out" / "study", reader.history)
    section = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    text = dict(zip(section[1::2], section[2::2], strict=True))["Search"]
    bullets = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    return bullets, pd.read_csv(page.parent / "data" / "runs.csv")


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("l0_fraction", {"target": 0.05, "tolerance": 0.1}),
        ("l0_fraction", {"target": 0.05, "tolerance": 0.02}),
        ("l0", {"target_count": 20.0, "tolerance": 0.1}),
    ],
)
def test_a_target_and_what_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, settings: dict[str, float]
) -> None:
    (bullet,), runs = searched(tmp_path, monkeypatch, kind="target", **settings)
    match = TARGETED.fullmatch(bullet)
    assert match is not None
    target, tolerance = settings.get("target") or settings["target_count"], settings["tolerance"]
    assert match.group(1, 2, 3, 4, 5) == ("target", metric, f"{target:g}", str(len(runs)), "20")
    met = [i for i, l0 in enumerate(runs[metric], 1) if abs(l0 - target) <= tolerance * target]
    assert float(match[6] or match[8]) == 100 * tolerance
    assert (int(match[7] or 0), match[9]) == (len(met), str(met[0]) if met else None)


@pytest.mark.parametrize("constraints", [[], ["fvu <= 0.5"]])
def test_objectives_and_how_many_are_undominated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constraints: list[str]
) -> None:
    settings = {"sampler": "nsga2", "objective": ["fvu", "l0"], "constraints": constraints}
    (bullet,), runs = searched(tmp_path, monkeypatch, kind="optuna", **settings)
    match = OPTIMISED.fullmatch(bullet)
    assert match is not None
    assert match.group(1, 2, 4, 5) == ("nsga2", "fvu down and l0 down", str(len(runs)), "20")
    assert match[3] == ("fvu &lt;= 0.5" if constraints else None)
    ranked = runs[runs["ranked"]]
    undominated = [
        not ((ranked["fvu"] <= one.fvu) & (ranked["l0"] <= one.l0)
             & ((ranked["fvu"] < one.fvu) | (ranked["l0"] < one.l0))).any()
        for one in ranked.itertuples()
    ]  # fmt: skip
    assert int(match[6]) == sum(undominated)
