"""Probes for labels that were planted, shuffled or missing."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from sae_sweep.cli.main import main
from sae_sweep.config import RunConfig, TopKConfig
from sae_sweep.evaluate import Prober, probing
from sae_sweep.evaluate.probing import examples, most_telling, obstacle
from sae_sweep.inputs import notes
from sae_sweep.records import METRICS
from sae_sweep.records.metrics import BY_PROBE
from sae_sweep.records.names import PROBES_FILE
from sae_sweep.records.store import Reader
from sae_sweep.sae import AbstractSae, build

D, M, ROWS = 16, 32, 6
"""Width, latents, rows of a document."""


class Labelled:
    """Documents of some rows each, every one with a label."""

    def __init__(self, x: Tensor, group: Tensor, rows: int = ROWS) -> None:
        self.x, self.group, self.rows = x, group.to(torch.int16), rows
        self.d, self.n_validation = D, len(x)
        self.group_names = ["de", "en", "fr"][: int(group.max()) + 1]

    def validation_rows(self, start: int, stop: int) -> Tensor:
        return self.x[start:stop]

    def validation_groups(self, start: int, stop: int) -> Tensor:
        return self.group[start:stop]

    def validation_documents(self, start: int, stop: int) -> Tensor:
        n = self.n_validation
        return (1000 - torch.arange(n) // self.rows).int()[start:stop]


def sae() -> AbstractSae:
    return build(TopKConfig(n_latents=M, k=4), D, seed=0)


def planted(n_documents: int = 240, n_labels: int = 3) -> Labelled:
    """Rows of noise, and in documents of label i now and then the direction of latent 5 + i."""
    torch.manual_seed(0)
    label = torch.randint(n_labels, (n_documents,)).repeat_interleave(ROWS)
    x = 0.3 * torch.randn(len(label), D)
    shown = torch.rand(len(x)) < 0.7
    x[shown] += 4 * sae().w_dec.detach()[5 + label[shown]]
    return Labelled(x, label)


def prober(made: Labelled, documents: int = 1024) -> Prober:
    return Prober(made, documents, torch.device("cpu"))  # type: ignore[arg-type]


def by_name(probes: list[probing.Probe]) -> dict[tuple[str, str], probing.Probe]:
    return {(one.label, one.features): one for one in probes}


def test_a_planted_label_is_found_by_the_latent_that_it_was_planted_in() -> None:
    found = by_name(prober(planted()).probes(sae()))
    for place, label in enumerate(("de", "en", "fr")):
        assert found[label, "1"].latents == (5 + place,)
        assert found[label, "5"].latents[0] == 5 + place
        for features in ("1", "5", "all", "raw"):
            assert found[label, features].accuracy.value > 0.95
        chance = found[label, "chance"].accuracy
        assert chance.low < 0.5 < chance.high


def test_shuffled_labels_are_told_no_better_than_by_guessing() -> None:
    made = planted(600)
    order = np.random.default_rng(3).permutation(600)
    made.group = made.group.reshape(600, ROWS)[torch.from_numpy(order)].reshape(-1)
    accuracies = [one.accuracy for one in prober(made).probes(sae())]
    assert np.mean([one.value for one in accuracies]) == pytest.approx(0.5, abs=0.03)
    outside = [one for one in accuracies if not one.low <= 0.5 <= one.high]
    assert len(outside) <= 2, "of 15 intervals of 95 %"


@pytest.mark.parametrize("documents", [1024, 100])
def test_no_document_is_on_both_sides(documents: int) -> None:
    made = planted()
    made.group[::ROWS] = (made.group[::ROWS] + 1) % 3  # a document's first row has another label
    found = examples(made, documents)  # type: ignore[arg-type]
    document = made.validation_documents(0, made.n_validation).numpy()[found.rows]
    tested = found.tested[found.example]
    assert not set(document[tested]) & set(document[~tested])
    assert len(set(document)) == min(documents, 240)
    assert len(set(document[tested])) == pytest.approx(min(documents, 240) / 3, abs=1)
    assert len(found.label) == 2 * min(documents, 240), "an example per document and label"
    assert (found.label[found.example] == made.group.numpy()[found.rows]).all()


def test_latents_are_chosen_on_the_examples_to_learn_from_alone() -> None:
    found = examples(planted(), 1024)  # type: ignore[arg-type]
    pooled = np.random.default_rng(0).random((len(found.label), M))
    before = most_telling(pooled, found, 1)
    ours = pooled[~found.tested & (found.label == 1)]
    others = pooled[~found.tested & (found.label != 1)]
    apart = [abs(ours[:, j].mean() - others[:, j].mean()) for j in range(M)]
    assert before.tolist() == sorted(range(M), key=lambda j: -apart[j])[:5]
    pooled[found.tested] = np.random.default_rng(1).random((int(found.tested.sum()), M))
    assert most_telling(pooled, found, 1).tolist() == before.tolist()


def test_fewer_dimensions_give_the_same_probe() -> None:
    made = prober(planted(60))
    found = made._examples
    x = np.random.default_rng(0).standard_normal((len(found.label), 500))
    x[:, 3] = 7.0  # a latent that never changes
    narrow = made._narrow(x)
    assert narrow.shape[1] < (~found.tested).sum()
    train, is_label = ~found.tested, found.label == 0
    z = probing._standardised(x, train)
    both = []
    for features in (z, narrow):
        probe = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-10)
        both.append(probe.fit(features[train], is_label[train]).decision_function(features))
    assert both[1] == pytest.approx(both[0], abs=1e-4)


def test_the_interval_of_a_mean_is_made_of_two_wilson_intervals() -> None:
    ours = np.array([True] * 45 + [False] * 5)
    others = np.array([True] * 300 + [False] * 20)
    found = probing._balanced(ours, others)
    shares = [0.9, 300 / 320]
    bounds = [proportion_confint(n, m, method="wilson") for n, m in [(45, 50), (300, 320)]]
    assert found.value == pytest.approx(np.mean(shares))
    below = [share - low for share, (low, _) in zip(shares, bounds, strict=True)]
    above = [high - share for share, (_, high) in zip(shares, bounds, strict=True)]
    assert found.low == pytest.approx(np.mean(shares) - np.hypot(*below) / 2)
    assert found.high == pytest.approx(np.mean(shares) + np.hypot(*above) / 2)


def test_metrics_are_means_over_the_labels_of_the_table(tmp_path: Path) -> None:
    metrics = prober(planted()).metrics(sae(), tmp_path)
    assert set(metrics) == {*BY_PROBE, "probe_accuracy_raw", "probe_chance"} <= set(METRICS)
    table = pd.read_parquet(tmp_path / PROBES_FILE)
    means = table.groupby("features")["accuracy"].mean()
    assert metrics["probe_accuracy_5"] == pytest.approx(means["5"])
    assert metrics["probe_chance"] == pytest.approx(means["chance"])
    assert metrics == prober(planted()).metrics(sae(), tmp_path), "the same again"
    rows = table[table["features"] == "1"]
    assert (rows["n_test"] + rows["n_others"]).unique().tolist() == [80]


def test_labels_with_few_documents_are_left_out() -> None:
    made = planted()
    rare = (made.group == 2).reshape(240, ROWS)[:, 0].nonzero()[8:, 0]
    made.group.reshape(240, ROWS)[rare] = 1
    assert {one.label for one in prober(made).probes(sae())} == {"de", "en"}


def test_what_cannot_be_probed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    one = planted(n_labels=1)
    assert obstacle(one, "lang", 1024) == (  # type: ignore[arg-type]
        "activations.group=lang names one group, de: no probe can be tested; name a column with "
        "two labels or more"
    )
    said = obstacle(planted(), "lang", 20)  # type: ignore[arg-type]
    assert said is not None
    assert "activations.group=lang: no label of 3 has 10 validation documents to learn" in said
    assert obstacle(planted(), "lang", 1024) is None  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    said = obstacle(planted(), "lang", 1024)  # type: ignore[arg-type]
    assert said == "probes need scikit-learn: pip install 'sae-sweep[probe]'"


def sweep(folder: Path, outputs: Path, *more: str) -> dict[str, tuple[Any, bytes]]:
    """Final metrics and weights of two small trials over files, by uid."""
    words = [f"activations.files={folder}", "activations.train_tokens=1000", "sae.n_latents=32"]
    words += ["activations.validation_tokens=1200", "train.batch_size=64", "sae.k=[2,4]"]
    words += ["sweep.name=small", "executor=inline", f"outputs={outputs}", "sae.aux_coeff=0"]
    assert main([*words, *more]) == 0
    with Reader(f"sqlite:///{outputs / 'sae_sweep.db'}") as reader:
        trials = [member.trial for member in reader.sweep("small").members]
    folders = {one.uid: outputs / "trials" / one.folder for one in trials}
    return {
        one.uid: (one.final, (folders[one.uid] / "sae.safetensors").read_bytes()) for one in trials
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    made = planted(400)
    columns = {"activation": made.x, "group": made.group, "document": torch.arange(2400) // ROWS}
    (tmp_path / "rows").mkdir()
    save_file(columns, tmp_path / "rows" / "a.safetensors")
    return tmp_path / "rows"


@pytest.mark.slow
def test_probing_changes_neither_uids_nor_weights_nor_other_metrics(
    files: Path, tmp_path: Path
) -> None:
    off = sweep(files, tmp_path / "off", "evaluate.probe_documents=0")
    on = sweep(files, tmp_path / "on")
    assert off.keys() == on.keys()
    for uid, (final, weights) in off.items():
        measured, same = on[uid]
        assert same == weights
        assert {name: measured[name] for name in final} == final
        assert set(measured) - set(final) == {*BY_PROBE, "probe_accuracy_raw", "probe_chance"}
        assert measured["probe_accuracy_raw"] > 0.9
    assert len(list((tmp_path / "on").glob(f"trials/*/{PROBES_FILE}"))) == 2
    assert not list((tmp_path / "off").glob(f"trials/*/{PROBES_FILE}"))


@pytest.mark.slow
def test_one_label_is_noted_and_refused_as_an_objective(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes._SAID.clear()  # a note is given once in a process
    made = planted(400)
    columns = {"activation": made.x, "lang": torch.zeros(2400), "document": torch.arange(2400) // 6}
    save_file({**columns, "lang": columns["lang"].long()}, files / "a.safetensors")
    (final, _), *_ = sweep(files, tmp_path / "out", "activations.group=lang").values()
    assert not set(BY_PROBE) & set(final)
    assert "note: activations.group=lang names one group, 0" in capsys.readouterr().err
    words = [f"activations.files={files}", "activations.train_tokens=1000", "sae.n_latents=32"]
    words += ["activations.validation_tokens=1200", "search=random", "search.trials=2"]
    words += ["search.objective=probe_accuracy_1", "sae.k={int:[2,4]}", "executor=inline"]
    words += ["activations.group=lang", "sweep.name=other", f"outputs={tmp_path / 'out'}"]
    assert main(words) == 2
    assert (
        "search.objective=probe_accuracy_1 is measured by probes: activations.group=lang names one"
        in capsys.readouterr().err
    )


def test_an_objective_that_is_switched_off_is_refused() -> None:
    settings: dict[str, Any] = {"activations": {"files": "x"}, "evaluate": {"probe_documents": 0}}
    with pytest.raises(ValueError, match=r"probe_accuracy_5 with evaluate\.probe_documents=0"):
        RunConfig(**settings, search={"objective": "probe_accuracy_5"})
