"""What synthetic activations tell of a dictionary, beside fvu."""

from pathlib import Path

import pytest
from made_sweeps import grid, ground_truth, write_store

from analysis import report
from analysis.context import ReportContext
from analysis.findings.beside_fvu import Disagreement, SameOrder
from analysis.study.table import Study, load
from analysis.topics import ground_truth as topic
from analysis.topics.ground_truth import NearestToTruth, TrueSparsity
from sae_sweep.records.metrics import GROUND_TRUTH
from sae_sweep.records.store import Reader

pytestmark = pytest.mark.figures


def study(folder: Path, trials: list) -> Study:
    with Reader(write_store(folder, trials)) as reader:
        return load(reader.sweep())


def test_a_sweep_without_truth_has_no_such_topic(tmp_path: Path) -> None:
    made = study(tmp_path, grid())
    assert topic.ground_truth(ReportContext(made)) == []
    assert topic.draw(made, tmp_path) == []


def test_the_true_l0_stands_beside_those_of_the_sweep(tmp_path: Path) -> None:
    made = study(tmp_path, ground_truth())
    (found,) = [
        one for one in topic.ground_truth(ReportContext(made)) if isinstance(one, TrueSparsity)
    ]
    l0 = made.configurations["l0"]
    assert found == TrueSparsity(7.5, l0.min(), l0.max(), int((l0 < 7.5).sum()), len(l0))
    assert 0 < found.below < found.n


def test_sources_with_another_truth_have_no_common_l0(tmp_path: Path) -> None:
    trials = ground_truth()
    trials[0].final["true_l0"] = 9.0
    blocks = topic.ground_truth(ReportContext(study(tmp_path, trials)))
    assert blocks
    assert not any(isinstance(one, TrueSparsity) for one in blocks)


def test_the_best_by_truth_is_named_beside_the_best_by_fvu(tmp_path: Path) -> None:
    made = study(tmp_path, ground_truth())
    blocks = topic.ground_truth(ReportContext(made))
    (found,) = [one for one in blocks if isinstance(one, NearestToTruth)]
    rows = made.configurations
    assert found.label == rows["label"][rows["f1"].idxmax()]
    assert found.value == rows["f1"].max()
    assert found.lowest_fvu == rows["label"][rows["fvu"].idxmin()]
    assert found.its_value == rows["f1"][rows["fvu"].idxmin()] < found.value
    assert {one.metric for one in blocks if isinstance(one, SameOrder)} == {"f1", "mcc"}
    assert any(isinstance(one, Disagreement) for one in blocks)


def test_one_that_is_best_by_both_is_told_once(tmp_path: Path) -> None:
    trials = ground_truth()
    for trial in trials:
        if "fvu" in trial.final:
            trial.final["f1"] = 1 - trial.final["fvu"] / 10
    blocks = topic.ground_truth(ReportContext(study(tmp_path, trials)))
    (found,) = [one for one in blocks if isinstance(one, NearestToTruth)]
    assert found.label == found.lowest_fvu
    assert found.words.endswith("it has the lowest fvu too.")


@pytest.mark.slow
def test_the_details_show_every_metric_and_the_figure(tmp_path: Path) -> None:
    with Reader(write_store(tmp_path, ground_truth())) as reader:
        page = report.render(reader.sweep(), tmp_path / "out" / "study", reader.history)
    details = (page.parent / "details.md").read_text()
    section = details.partition(f"## {topic.TITLE}")[2].partition("\n## ")[0]
    assert f"| fvu | l0 | {' | '.join(GROUND_TRUTH)} |" in section
    assert "figures/ground_truth.png" in section
    assert (page.parent / "figures" / "ground_truth.png").exists()
