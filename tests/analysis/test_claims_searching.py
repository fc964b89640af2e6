"""Every claim on a search, recomputed from data/runs.csv."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_sweeps import Ran, write_store

from analysis import report
from sae_sweep.records.store import Reader


def ran(alpha: float, l0: float, fvu: float, **fields: Any) -> Ran:
    return Ran({"sae.l1_alpha": alpha}, {"l0_fraction": l0, "l0": 64 * l0, "fvu": fvu}, **fields)


def trials() -> list[Ran]:
    """Six l1_alpha, of which one diverged and one reconstructs no better than the mean."""
    points = [(1.0, 0.5, 0.1), (9.0, 0.053, 1.5), (2.0, 0.3, 0.2), (2.1, 0.3, 0.3)]
    points += [(8.0, 0.054, 0.5)]
    return [*(ran(*one) for one in points), Ran({"sae.l1_alpha": 3.0}, status="diverged")]


def searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The section's claims, and the runs in the order in which they were asked for."""
    url = write_store(folder, trials(), config={"search": {"trials": 20, "seed": 0, **settings}})
    with Reader(url) as reader:
        page = report.render(reader.sweep(), folder / "out" / "study", reader.history)
    claims = json.loads((page.parent / "data" / "claims.json").read_text())["claims"]
    own = [one for one in claims if one["section"] == "Search"]
    return own, pd.read_csv(page.parent / "data" / "runs.csv")


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
    (one,), runs = searched(tmp_path, monkeypatch, kind="target", **settings)
    target, tolerance = settings.get("target") or settings["target_count"], settings["tolerance"]
    told = [one[name] for name in ("kind_of_search", "metric", "target", "trials", "at_most")]
    assert told == ["target", metric, target, len(runs), 20]
    met = [i for i, l0 in enumerate(runs[metric], 1) if abs(l0 - target) <= tolerance * target]
    assert one["tolerance"] == tolerance
    assert (one["hits"], one["first"]) == (len(met), met[0] if met else None)


@pytest.mark.parametrize("constraints", [[], ["fvu <= 0.5"]])
def test_objectives_and_how_many_are_undominated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constraints: list[str]
) -> None:
    settings = {"sampler": "nsga2", "objective": ["fvu", "l0"], "constraints": constraints}
    (one,), runs = searched(tmp_path, monkeypatch, kind="optuna", **settings)
    told = [one[name] for name in ("sampler", "objectives", "constraints", "trials", "at_most")]
    objectives = [["fvu", "down"], ["l0", "down"]]
    assert told == ["nsga2", objectives, constraints, len(runs), 20]
    ranked = runs[runs["ranked"]]
    undominated = [
        not ((ranked["fvu"] <= one.fvu) & (ranked["l0"] <= one.l0)
             & ((ranked["fvu"] < one.fvu) | (ranked["l0"] < one.l0))).any()
        for one in ranked.itertuples()
    ]  # fmt: skip
    assert one["undominated"] == sum(undominated)
