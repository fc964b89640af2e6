"""What the model loses with an SAE in it, beside fvu."""

from pathlib import Path

import pytest
from made_sweeps import Ran, grid, in_model, write_store
from scipy import stats

from analysis import report
from analysis.context import ReportContext
from analysis.findings.beside_fvu import Agreement, Disagreement, SameOrder
from analysis.study.table import Study, load
from analysis.topics import in_model as topic
from analysis.topics.in_model import WithoutSae
from analysis.topics.recommended import recommendations
from sae_sweep.records.store import Reader

pytestmark = pytest.mark.figures


def study(folder: Path, trials: list) -> Study:
    with Reader(write_store(folder, trials)) as reader:
        return load(reader.sweep())


def test_a_sweep_without_the_metrics_has_no_such_topic(tmp_path: Path) -> None:
    made = study(tmp_path, grid())
    assert topic.in_model(ReportContext(made)) == []
    assert topic.draw(made, tmp_path) == []


def test_the_correlation_counts_better_as_better(tmp_path: Path) -> None:
    made = study(tmp_path, in_model())
    found = {
        one.metric: one for one in topic.in_model(ReportContext(made)) if isinstance(one, SameOrder)
    }
    assert found["output_cosine"].rho == pytest.approx(1)
    rows = made.configurations
    rho = stats.spearmanr(rows["fvu"], rows["ce_loss_increase"]).statistic
    assert found["ce_loss_increase"].rho == pytest.approx(rho)
    assert found["ce_loss_increase"].n == len(rows)
    assert set(found) == {"output_cosine", "ce_loss_increase", "kl"}


def test_pairs_of_equal_l0_that_disagree_are_found_by_brute_force(tmp_path: Path) -> None:
    made = study(tmp_path, in_model())
    (found,) = [
        one
        for one in topic.in_model(ReportContext(made))
        if isinstance(one, Disagreement) and one.metric == "ce_loss_increase"
    ]
    rows = made.configurations[["label", "l0", "fvu", "ce_loss_increase"]].to_numpy().tolist()
    pairs = [(a, b) for a in rows for b in rows if a[1] == b[1] and a[2] < b[2]]
    turned = [(a, b) for a, b in pairs if a[3] > b[3]]
    assert (found.pairs, found.other_order) == (len(pairs), len(turned))
    assert found.other_order > 0
    lower, higher = max(turned, key=lambda pair: pair[0][3] - pair[1][3])
    assert (found.lower, found.higher) == (lower[0], higher[0])
    assert found.apart is None, "one seed each: the noise is unknown"


@pytest.mark.parametrize(("noise", "apart"), [(1.001, 1), (2.0, 0)])
def test_a_disagreement_within_the_noise_of_fvu_is_told(
    tmp_path: Path, noise: float, apart: int
) -> None:
    trials = []
    made = [(8, 0.4, 0.4), (8.1, 0.3, 0.5), (16, 0.2, 0.2), (32, 0.1, 0.1)]
    for i, (k, fvu, loss) in enumerate(made):
        for seed in range(2):
            shift = noise ** ((-1) ** i * seed)
            final = {"fvu": fvu * shift, "l0": k, "ce_loss_increase": loss}
            seeds = {"train.seed_init": seed, "train.seed_data": seed}
            trials.append(Ran({"sae.k": k}, final, settings=seeds))
    blocks = topic.in_model(ReportContext(study(tmp_path, trials)))
    (found,) = [one for one in blocks if isinstance(one, Disagreement)]
    assert (found.pairs, found.other_order, found.apart) == (1, 1, apart)
    assert f", in {apart} of them with fvu that differ by more than the noise" in found.words


def test_pairs_of_equal_l0_that_all_agree_are_counted(tmp_path: Path) -> None:
    trials = in_model()
    for one in trials:
        if "fvu" in one.final:
            one.final["ce_loss_increase"] = 2 * one.final["fvu"]
    made = study(tmp_path, trials)
    (found,) = [
        one
        for one in topic.in_model(ReportContext(made))
        if isinstance(one, Agreement) and one.metric == "ce_loss_increase"
    ]
    rows = made.configurations[["l0", "fvu"]].to_numpy().tolist()
    assert found.pairs == sum(a[0] == b[0] and a[1] < b[1] for a in rows for b in rows)


@pytest.mark.slow
def test_a_question_about_the_loss_is_answered_on_the_first_page(tmp_path: Path) -> None:
    about = {"settings": ["sae.k"], "metrics": ["ce_loss_increase", "fvu"]}
    with Reader(write_store(tmp_path, in_model(), config={"sweep": {"about": about}})) as reader:
        page = report.render(reader.sweep(), tmp_path / "out" / "study", reader.history)
    answer = page.read_text().partition("**Answer**")[2].partition("**Can it be")[0]
    assert "fvu and ce_loss_increase" in answer
    assert "ce_loss_increase disagrees with fvu" in answer


def test_the_clean_and_ablated_figures_are_told_once(tmp_path: Path) -> None:
    blocks = topic.in_model(ReportContext(study(tmp_path, in_model())))
    (told,) = [one for one in blocks if isinstance(one, WithoutSae)]
    assert dict(told.figures)["ce_clean"] == 3.0
    assert dict(told.figures)["output_cosine_mean"] == 0.3


@pytest.mark.slow
def test_every_recommended_trial_shows_what_the_model_loses(tmp_path: Path) -> None:
    made = study(tmp_path, in_model())
    assert all("ce_loss_increase" in dict(one.values) for one in recommendations(made))
    with Reader(write_store(tmp_path, in_model())) as reader:
        page = report.render(reader.sweep(), tmp_path / "out" / "study", reader.history)
    assert "ce_loss_increase" in page.read_text().partition("**Front**")[2].splitlines()[4]
    details = (page.parent / "details.md").read_text()
    section = details.partition(f"## {topic.TITLE}")[2].partition("\n## ")[0]
    for one in recommendations(made):
        assert f"`{one.uid}`" in section
    assert "figures/in_model.png" in section
    assert (page.parent / "figures" / "in_model.png").exists()
