"""The section on stopping early: every sentence against figures computed anew."""

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
from analysis.page.blocks import markdown
from analysis.study.table import load as to_study
from analysis.topics.stopping.replay import good
from analysis.topics.stopping.section import stopping
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


def page(folder: Path, trials: list[Ran], **run: Any) -> tuple[str, pd.DataFrame]:
    """The section as the whole report shows it, and runs.csv."""
    with Reader(write_store(folder, trials, **run)) as reader:
        written = report.render(reader.sweep(), folder / "study", reader.history)
    [section] = re.findall(r"## Stopping early\n.*?(?=\n## )", written.read_text(), re.DOTALL)
    return section, pd.read_csv(folder / "study" / "data" / "runs.csv")


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
    section, table = page(tmp_path, trials, config=CONFIG)
    heard = {one.record.label: one for one in trials if one.status == "done" and one.reports}
    best = unbeaten(table[table.status == "done"]) & set(heard)
    bullets = re.findall(r"^- (.+)$", section.partition("### Early")[0], re.MULTILINE)
    first, second, *rules = bullets
    match = re.fullmatch(
        r"\*\*Good\*\* are (\d+) of (\d+) finished trials, than which no other is better in one of "
        r"fvu down and l0 down and not worse in another: (.+)", first
    )  # fmt: skip
    assert match
    assert (int(match[1]), int(match[2])) == (len(best), len(heard))
    assert set(re.findall(r"`([^`]+)`", match[3])) == best
    assert second == "Not replayed: 1 done without reports, 1 stopped"
    names = []
    for bullet in rules:
        match = re.fullmatch(
            r"`([^`]+)` would have ended (\d+) of (\d+) good trials?(?: \((.+)\))? and (\d+) of "
            r"(\d+) others?, and saved ([\d.]+) % of the tokens", bullet
        )  # fmt: skip
        assert match, bullet
        ended = stopped_at(match[1], heard)
        assert [int(match[i]) for i in (2, 3, 5, 6)] == [
            len(best & set(ended)),
            len(best),
            len(set(ended) - best),
            len(set(heard) - best),
        ]
        assert set(re.findall(r"`([^`]+)`", match[4] or "")) == best & set(ended)
        saved = sum(100 - step for step in ended.values()) / len(heard)
        assert match[7] == f"{saved:.1f}"
        [row] = [line for line in section.splitlines() if line.startswith(f"| `{match[1]}` |")]
        cells = [cell.strip() for cell in row.split("|")[3:-1]]
        good_ended, good_all, others_ended, others_all = (int(match[i]) for i in (2, 3, 5, 6))
        kept = good_all - good_ended, others_all - others_ended
        assert cells == [*map(str, (good_ended, kept[0], others_ended, kept[1])), f"{match[7]} %"]
        names.append(match[1])
    shipped = ["stop=early_warnings", "stop=plateau", "stop=halving"]
    own = ["the sweep's warnings", "the sweep's plateau", "the sweep's halving"]
    assert names == [*shipped, *own]
    assert {len(stopped_at(name, heard)) > 0 for name in [shipped[0], shipped[2], *own]} == {True}


def test_the_rules_are_named_with_their_moment_unit_and_and_or_or(tmp_path: Path) -> None:
    section, _ = page(tmp_path, made(), config=CONFIG)
    for words in [
        "fvu &gt; 2 or dead_features &gt; 0.95 at 10 % of the steps",
        "l0 &gt; 12 and fvu &gt; 0.25 at step 40",
        "sd of l0 over 40 steps below 1 latents/token with confidence 0.9, from step 60 on",
        "fvu not among the best 1/2 of those of equal sae.k so far, at step 30 and every 2 times",
    ]:
        assert words in section


def test_every_sentence_on_early_signals_is_what_the_trials_come_to(tmp_path: Path) -> None:
    trials = made()
    section, table = page(tmp_path, trials)
    bullets = re.findall(r"^- (.+)$", section.partition("### Early")[2], re.MULTILINE)
    heard = {one.record.uid: one for one in trials if one.status == "done" and one.reports}
    final = table.set_index("uid").loc[list(heard)]
    met = []
    for bullet, metric in zip(bullets, ["fvu", "dead_features", "l0"], strict=True):
        match = re.fullmatch(
            rf"{metric}: (?:Spearman with the final value lies above 0\.9 from (\d+) % of the "
            r"steps on \(|at no share up to (\d+) % of the steps does Spearman with the final "
            r"value certainly exceed 0\.9 \(at 50 %: )([-.\d]+), 95 % interval ([-.\d]+) to "
            r"([-.\d]+), (\d+) configurations\)", bullet
        )  # fmt: skip
        assert match, bullet
        share = int(match[1] or match[2])
        early = [one.reports[metric][share // 10 - 1] for one in heard.values()]
        spearman = stats.spearmanr(early, final[metric]).statistic
        assert float(match[3]) == float(f"{spearman:.3g}")
        assert int(match[6]) == len(heard)
        low, high = float(match[4]), float(match[5])
        assert low <= spearman <= high
        assert (low > 0.9) == (match[1] is not None)
        met.append(match[1] is not None)
        # the percentile bootstrap, by resampling and ranking anew; ends agree but for chance
        random, drawn = np.random.default_rng(1), []
        for _ in range(999):
            at = random.integers(0, len(early), len(early))
            drawn.append(
                stats.spearmanr(np.array(early)[at], final[metric].to_numpy()[at]).statistic
            )
        assert np.allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.15)
    assert met == [True, False, False]


def test_noise_is_allowed_for_in_what_is_good(tmp_path: Path) -> None:
    trials = made(8, seeds=3)
    section, table = page(tmp_path, trials)
    done = table[table.status == "done"]
    logs = np.log10(done[["fvu", "l0"]]).groupby([done["sae.k"], done["train.lr"]])
    freedom = int((logs.fvu.count() - 1).sum())
    detectable = [
        stats.t.ppf(0.975, freedom) * np.sqrt((of.var() * (of.count() - 1)).sum() / freedom * 2)
        for of in (logs.fvu, logs.l0)
    ]
    match = re.search(
        r"\*\*Good\*\* are (\d+) of \d+ finished trials, than which no other is better in one of "
        r"fvu down and l0 down by more than noise explains \(fvu: a factor of ([\d.]+) and l0: a "
        r"factor of ([\d.]+)\) and not worse in another by as much", section
    )  # fmt: skip
    assert match
    assert [match[2], match[3]] == [f"{10**one:.4g}" for one in detectable]
    heard = {one.record.label for one in trials if one.status == "done" and one.reports}
    told_apart = unbeaten(done, (detectable[0], detectable[1])) & heard
    assert int(match[1]) == len(told_apart)
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
