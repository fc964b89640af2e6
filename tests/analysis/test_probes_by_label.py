"""Probes by label in the report."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from made_sweeps import Ran, grid, write_store

from analysis import report
from analysis.context import ReportContext
from analysis.findings.ranking import leaders
from analysis.page.blocks import markdown
from analysis.study.table import Study, load
from analysis.topics import probing as topic
from analysis.topics.probing import LabelsRead, WeakestLabel
from sae_sweep.errors import BadInput
from sae_sweep.records.names import PROBES_FILE
from sae_sweep.records.store import Reader

pytestmark = pytest.mark.figures

LABELS = ("de", "en", "fr|<b>")


def probes(trial: int) -> pd.DataFrame:
    """A row per label and kind of probe; the later the trial, the worse."""
    rows = []
    for place, label in enumerate(LABELS):
        for bonus, features in enumerate(("1", "5", "all", "raw", "chance")):
            accuracy = 0.5 if features == "chance" else 0.54 + 0.1 * bonus - 0.01 * (place + trial)
            latents = {"1": [place], "5": [place, 7, 8, 9, 10]}.get(features, [])
            rows.append(
                {
                    "label": label,
                    "features": features,
                    "latents": latents,
                    "n_train": 20 + place,
                    "n_test": 10,
                    "n_others": 20,
                    "accuracy": accuracy,
                    "low": accuracy - 0.03,
                    "high": accuracy + 0.03,
                }
            )
    return pd.DataFrame(rows)


def probed(folder: Path) -> list[Ran]:
    """A grid whose trials' folders hold probes."""
    trials = grid()
    for i, trial in enumerate(trials):
        if "fvu" in trial.final:
            table = probes(i)
            means = table.groupby("features")["accuracy"].mean()
            trial.final |= {
                "probe_accuracy_1": means["1"],
                "probe_accuracy_5": means["5"],
                "probe_accuracy_all": means["all"],
                "probe_accuracy_raw": means["raw"],
                "probe_chance": means["chance"],
            }
            place = folder / "trials" / trial.record.folder
            place.mkdir(parents=True)
            table.to_parquet(place / PROBES_FILE)
    return trials


@pytest.fixture
def study(tmp_path: Path) -> Study:
    with Reader(write_store(tmp_path, probed(tmp_path))) as reader:
        made = load(reader.sweep())
    return dataclasses.replace(made, trials_folder=tmp_path / "trials")


def test_a_sweep_without_probes_has_no_such_topic(tmp_path: Path) -> None:
    with Reader(write_store(tmp_path, grid())) as reader:
        made = load(reader.sweep())
    assert topic.probing(ReportContext(made)) == []
    assert topic.draw(made, tmp_path) == []


def test_claims_are_the_means_and_the_worst_label_of_the_file(study: Study) -> None:
    blocks = topic.probing(ReportContext(study))
    read = [one for one in blocks if isinstance(one, LabelsRead)]
    weakest = [one for one in blocks if isinstance(one, WeakestLabel)]
    assert [one.uid for one in read] == leaders(study)[:3] == [one.uid for one in weakest]
    for mean, worst in zip(read, weakest, strict=True):
        assert study.trials_folder is not None
        folder = study.trials_folder / study.member(mean.uid).trial.folder
        table = pd.read_parquet(folder / PROBES_FILE)
        by = table.groupby("features")["accuracy"].mean()
        assert mean.few == pytest.approx((by["1"], by["5"]))
        told = (mean.all_latents, mean.raw, mean.dealt_out)
        assert told == pytest.approx((by["all"], by["raw"], by["chance"]))
        single = table[table["features"] == "1"]
        assert (worst.label, worst.accuracy) == ("fr|<b>", pytest.approx(single["accuracy"].min()))
        assert worst.not_told == (single["low"] <= 0.5).sum()
        assert f"{worst.not_told} of 3 labels" in worst.words
    assert "over 3 labels, a probe tells one from the others with a balanced" in read[0].words


def test_every_shown_trial_has_its_row_and_labels_are_text(study: Study) -> None:
    text = markdown(topic.probing(ReportContext(study)))
    for uid in leaders(study):
        assert f"| `{study.member(uid).trial.label}` |" in text
    assert "<b>" not in text
    assert "fr\\|&lt;b&gt;" in text
    assert "| de | 20 | 10 | 0." in text
    assert "| 0, 7, 8, 9, 10 |" in text


@pytest.mark.slow
def test_the_report_draws_the_first_and_shows_it(tmp_path: Path) -> None:
    with Reader(write_store(tmp_path, probed(tmp_path))) as reader:
        report.render(reader.sweep(), tmp_path / "report", reader.history)
    assert (tmp_path / "report" / "figures" / "probing.png").exists()
    details = (tmp_path / "report" / "details.md").read_text()
    assert "## Probes by label" in details
    assert "(figures/probing.png)" in details


def test_a_damaged_file_is_one_message(study: Study) -> None:
    assert study.trials_folder is not None
    folder = study.trials_folder / study.member(leaders(study)[0]).trial.folder
    probes(0).drop(columns="low").to_parquet(folder / PROBES_FILE)
    with pytest.raises(BadInput, match=r"probes\.parquet cannot be read \(it lacks low\): delete"):
        topic.probing(ReportContext(study))
