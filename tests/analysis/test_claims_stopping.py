"""The section on stopping early: every claim against figures computed anew."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sweeps import Load, Ran, grid, write_store
from scipy import stats

from analysis import report
from analysis.context import ReportContext
from analysis.findings import noise
from analysis.page.blocks import markdown
from analysis.study.table import load as to_study
from analysis.topics.stopping.replay import good
from analysis.topics.stopping.section import stopping
from sae_sweep.records import METRICS
from sae_sweep.records.store import Reader

HALVING = {"metric": "fvu", "first_step": 30, "first_share": None, "factor": 2.0}
OWN: dict[str, Any] = {
    "warnings": [{"at_step": 40, "at_share": None, "any": None,
                  "all": ["l0 > 1.5 * target", "fvu > 0.25"]}],
    "plateau": {"metric": "l0", "after_step": 60, "after_share": None, "window_steps": 40,
                "sd_below": 1.0, "confidence": 0.9},
    "halving": HALVING | {"group_by": ["sae.k"], "l0_band": None},
    "budget": {"trials": None, "tokens": None, "seconds": None},
}  # fmt: skip
Told = dict[str, list[dict[str, Any]]]
CONFIG = {"stop": OWN, "search": {"target": None, "target_count": 8.0}}


def made(n: int = 24, seeds: int = 1) -> list[Ran]:
    """Trials of 100 steps that report every ten; two fall by the shipped warnings."""
    random = np.random.default_rng(0)
    trials = []
    for i in range(n):
        k, lr = [4, 8, 16][i % 3], float(f"{10 ** random.uniform(-4, -2):.3g}")
        fvu = 0.9 / k**0.5 * random.uniform(0.9, 1.4)
        for seed in range(seeds):
            end = fvu * random.uniform(0.98, 1.02)
            l0 = k * random.uniform(0.8, 1.2)
            steps = np.arange(1, 11)
            reports = {
                "fvu": end * (1 + 1 / steps) + 0.03 * random.normal(size=10),
                "dead_features": np.linspace(0.0, 0.3, 10) * random.uniform(0.5, 1.5, size=10),
                "l0": l0 + 5 / steps + random.choice([0.05, 2.0]) * random.normal(size=10),
            }
            if i in (4, 9):
                reports["fvu"][0] = 2.5
            final = {"fvu": end, "dead_features": random.uniform(0.1, 0.4), "l0": l0}
            assignment = {"sae.k": k, "train.lr": lr}
            told = {name: list(map(float, of)) for name, of in reports.items()}
            trials.append(Ran(assignment | {"train.seed_init": seed}, final, reports=told))
    trials[1].status, trials[1].final, trials[1].error = "stopped", {}, "early warning: loud"
    trials[2].reports = {}
    return trials


def page(folder: Path, trials: list[Ran], **run: Any) -> tuple[Told, pd.DataFrame]:
    """The section's claims by kind, and runs.csv."""
    with Reader(write_store(folder, trials, **run)) as reader:
        report.render(reader.sweep(), folder / "study", reader.history)
    data = folder / "study" / "data"
    told: Told = {}
    for one in json.loads((data / "claims.json").read_text())["claims"]:
        if one["section"] == "Stopping early":
            told.setdefault(one["kind"], []).append(one)
    return told, pd.read_csv(data / "runs.csv")


def unbeaten(table: pd.DataFrame, slack: tuple[float, float] = (0.0, 0.0)) -> set[str]:
    """Labels of the trials that none beats, pair by pair; slack on the logarithms."""
    points = [tuple(np.log10([one.fvu, one.l0])) for one in table.itertuples()]
    good = set()
    for label, own in zip(table.label, points, strict=True):
        beaten = any(
            all(o <= b + s for o, b, s in zip(other, own, slack, strict=True))
            and any(o < b - s for o, b, s in zip(other, own, slack, strict=True))
            for other in points
        )
        if not beaten:
            good.add(label)
    return good


def stopped_at(rule: str, trials: dict[str, Ran]) -> dict[str, int]:
    """The step at which each trial would have ended, the rule written out by hand."""
    found = {}
    reached: dict[object, list[float]] = {}
    for step in range(10, 100, 10):
        at = step // 10 - 1
        for label, trial in trials.items():
            fvu, dead, l0 = (trial.reports[name] for name in ("fvu", "dead_features", "l0"))
            if label in found:
                continue
            k = trial.assignment["sae.k"]
            rung = {"stop=halving": (10, 30, 90), "the sweep's halving": (30, 60)}.get(rule, ())
            if rule == "stop=early_warnings":
                ends = step == 10 and (fvu[at] > 2 or dead[at] > 0.95)
            elif rule == "the sweep's warnings":
                ends = step == 40 and fvu[at] > 0.25 and l0[at] > 12
            elif rule == "the sweep's plateau":
                window = l0[max(at - 3, 0) : at + 1]
                bound = 1 / np.sqrt(3 / stats.chi2.ppf(0.1, 3))
                ends = step >= 60 and np.std(window, ddof=1) < bound
            elif step in rung:
                shipped = rule == "stop=halving"
                group = (step, int(np.floor(np.log(l0[at]) / np.log(1.5))) if shipped else k)
                seen = reached.setdefault(group, [])
                seen.append(fvu[at])
                factor = 3 if shipped else 2
                kept = len(seen) // factor
                ends = len(seen) >= factor and sorted(seen).index(fvu[at]) >= kept
            else:
                ends = False  # a window of 1,000 steps never fills
            if ends:
                found[label] = step
    return found


def test_every_sentence_on_the_rules_is_what_the_trials_come_to(tmp_path: Path) -> None:
    trials = made()
    told, table = page(tmp_path, trials, config=CONFIG)
    heard = {one.record.label: one for one in trials if one.status == "done" and one.reports}
    best = unbeaten(table[table.status == "done"]) & set(heard)
    (first,) = told["GoodTrials"]
    assert first["objectives"] == [["fvu", "down"], ["l0", "down"]]
    assert (first["good"], first["trials"]) == (len(best), len(heard))
    assert set(first["labels"]) == best
    (second,) = told["NotReplayed"]
    assert second["statuses"] == [["done", 1], ["stopped", 1]]
    names = []
    for one in told["WouldEnd"]:
        ended = stopped_at(one["rule"], heard)
        assert [one[name] for name in ("good_ended", "good", "others_ended", "others")] == [
            len(best & set(ended)),
            len(best),
            len(set(ended) - best),
            len(set(heard) - best),
        ]
        assert set(one["labels"]) == best & set(ended)
        saved = sum(100 - step for step in ended.values()) / len(heard)
        assert one["saved"] == pytest.approx(saved / 100)
        names.append(one["rule"])
    shipped = ["stop=early_warnings", "stop=plateau", "stop=halving"]
    own = ["the sweep's warnings", "the sweep's plateau", "the sweep's halving"]
    assert names == [*shipped, *own]
    assert {len(stopped_at(name, heard)) > 0 for name in [shipped[0], shipped[2], *own]} == {True}


def test_the_rules_are_named_with_their_moment_unit_and_and_or_or(tmp_path: Path) -> None:
    with Reader(write_store(tmp_path, made(), config=CONFIG)) as reader:
        study = dataclasses.replace(to_study(reader.sweep()), history=reader.history)
        section = markdown(stopping(ReportContext(study)))
    for words in [
        "fvu &gt; 2 or dead_features &gt; 0.95 at 10 % of the steps",
        "l0 &gt; 12 and fvu &gt; 0.25 at step 40",
        "sd of l0 over 40 steps below 1 latents/token with confidence 0.9, from step 60 on",
        "fvu not among the best 1/2 of those of equal sae.k so far, at step 30 and every 2 times",
    ]:
        assert words in section


def within(early: np.ndarray, final: np.ndarray, k: np.ndarray) -> float:
    """Correlation of ranks within groups of equal k."""
    both = pd.DataFrame({"early": early, "final": final})
    ranks = both.groupby(k).rank()
    return float((ranks - ranks.groupby(k).transform("mean")).corr().iloc[0, 1])


@pytest.mark.slow
def test_every_sentence_on_early_signals_is_what_the_trials_come_to(tmp_path: Path) -> None:
    trials = made()
    told, table = page(tmp_path, trials)
    heard = {one.record.uid: one for one in trials if one.status == "done" and one.reports}
    final = table.set_index("uid").loc[list(heard)]
    k = final["sae.k"].to_numpy()
    met = []
    for one, metric in zip(told["KnownFrom"], ["fvu", "dead_features"], strict=True):
        assert one["metric"] == metric
        at = round(10 * one["share"]) - 1
        early = [trial.reports[metric][at] for trial in heard.values()]
        spearman = within(np.array(early), final[metric].to_numpy(), k)
        assert one["spearman"] == pytest.approx(spearman)
        assert one["n"] == len(heard)
        low, high = one["low"], one["high"]
        assert low <= spearman <= high
        assert (low > one["sure"]) == one["met"]
        met.append(one["met"])
        # the percentile bootstrap, by resampling and ranking anew; ends agree but for chance
        random, drawn = np.random.default_rng(1), []
        for _ in range(999):
            at = random.integers(0, len(early), len(early))
            drawn.append(within(np.array(early)[at], final[metric].to_numpy()[at], k[at]))
        assert np.allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.15)
    assert met == [False, False]


def test_noise_is_allowed_for_in_what_is_good(tmp_path: Path) -> None:
    trials = made(8, seeds=3)
    told, table = page(tmp_path, trials)
    done = table[table.status == "done"]
    (tmp_path / "again").mkdir()
    with Reader(write_store(tmp_path / "again", trials)) as reader:
        study = to_study(reader.sweep())
    floors = [noise.floor(study, METRICS[name]) for name in ("fvu", "l0")]
    detectable = [floor.detectable for floor in floors if floor is not None]
    (one,) = told["GoodTrials"]
    assert one["tolerances"] == [
        f"{name}: a factor of {10**each:.4g}"
        for name, each in zip(["fvu", "l0"], detectable, strict=True)
    ]
    heard = {one.record.label for one in trials if one.status == "done" and one.reports}
    told_apart = unbeaten(done, (detectable[0], detectable[1])) & heard
    assert one["good"] == len(told_apart)
    assert told_apart != unbeaten(done) & heard


def test_without_reports_there_is_nothing_to_replay(tmp_path: Path) -> None:
    for i, trials in enumerate([[], [Ran({"sae.k": 4}, {"fvu": 0.3})]]):
        (tmp_path / str(i)).mkdir()
        with Reader(write_store(tmp_path / str(i), trials)) as reader:
            assert stopping(ReportContext(to_study(reader.sweep()))) == []


def alike(final_fvu: float, **reports: list[float]) -> list[Ran]:
    final = {"fvu": final_fvu, "dead_features": 0.1, "l0": 8.0}
    return [Ran({"sae.k": k}, final, reports=reports) for k in (4, 8, 16, 32)]


NAN = float("nan")
POOR = {
    "one trial": alike(0.3, fvu=[0.5] * 10)[:1],
    "constant metrics": alike(0.3, fvu=[0.5] * 10, dead_features=[0.1] * 10, l0=[8.0] * 10),
    "no number": alike(0.3, fvu=[NAN] * 10, l0=[NAN, 8.0] * 5),
    "none ranked": alike(1.5, fvu=[0.5] * 10),
    "all diverged but one": [
        *alike(0.3, fvu=[0.5] * 10)[:1],
        *(Ran({"sae.k": k}, {}, "diverged", reports={"fvu": [NAN]}) for k in (5, 6)),
    ],
    "everything wrong": grid(),
}


@pytest.mark.parametrize("name", POOR)
def test_poor_sweeps_are_told_without_a_number_that_is_none(name: str, load: Load) -> None:
    sweep, reader = load(POOR[name], config=CONFIG)
    loaded = to_study(sweep)
    object.__setattr__(loaded, "history", reader.history)
    text = markdown(stopping(ReportContext(loaded)))
    assert text.startswith("## Stopping early")
    assert not re.search(r"\b(nan|inf)\b", text)
    assert "**Good** are" in text
    assert len(good(loaded).uids) <= int(loaded.trials["ranked"].sum())
