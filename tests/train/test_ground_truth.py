"""Metrics against the true dictionary: SAELens' numbers, naive formulas, nothing changed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_sweep.activations import Wanted, describe, open_activations, prepare
from sae_sweep.config import ActivationsConfig, SyntheticConfig, TopKConfig, Trial
from sae_sweep.records import METRICS
from sae_sweep.records.metrics import GROUND_TRUTH
from sae_sweep.sae import build
from sae_sweep.train import Engine, evaluate, ground_truth
from sae_sweep.train.ground_truth import GroundTruth

RECORDED = Path(__file__).parents[1] / "data" / "ground_truth.safetensors"
"""By `python -m benchmarks.ground_truth --record`, with SAELens."""


def test_metrics_are_what_saelens_finds_on_its_own_model() -> None:
    with safe_open(RECORDED, framework="pt") as file:
        theirs = json.loads(file.metadata()["metrics"])
        w_dec, features, latents, truth = map(
            file.get_tensor, ("w_dec", "features", "latents", "truth")
        )
    found = GroundTruth(w_dec, features)
    for some in range(0, len(latents), 150):
        found.add(latents[some : some + 150], truth[some : some + 150])
    assert found.metrics() == pytest.approx(theirs, abs=1e-6)
    assert set(theirs) == {*GROUND_TRUTH, "true_l0"}
    assert 0.1 < theirs["f1"] < 0.95  # neither a perfect nor a broken dictionary says much


def naive(w_dec: Tensor, features: Tensor, latents: Tensor, truth: Tensor) -> dict[str, float]:
    """Latent by latent, in plain words of the definitions."""
    a, b = w_dec.double().numpy(), features.double().numpy()
    cosine = abs(a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    scores, found = [], set()
    for j, row in enumerate(cosine):
        nearest = int(row.argmax())
        found.add(nearest)
        fires, true = latents[:, j] != 0, truth[:, nearest]
        tp = int((fires & true).sum())
        precision = tp / int(fires.sum()) if fires.any() else 0.0
        recall = tp / int(true.sum()) if true.any() else 0.0
        f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
        scores.append((f1, precision, recall))
    f1, precision, recall = np.mean(scores, axis=0)
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "uniqueness": len(found) / len(a),
        "mcc": cosine[linear_sum_assignment(-cosine)].mean(),
        "true_l0": float(truth.sum()) / len(truth),
    }


@pytest.mark.parametrize(("m", "n_features"), [(12, 12), (7, 20), (20, 7), (1, 3)])
def test_every_metric_is_its_naive_formula(m: int, n_features: int) -> None:
    generator = torch.Generator().manual_seed(m)
    w_dec, features = (torch.randn(n, 6, generator=generator) for n in (m, n_features))
    latents = torch.randn(50, m, generator=generator)
    latents[latents.abs() < 0.8] = 0  # negative latents fire too
    latents[:, 0] = 0  # a dead one
    truth = torch.rand(50, n_features, generator=generator) < 0.3
    truth[:, 1] = False  # a feature that no token has
    found = GroundTruth(w_dec, features)
    found.add(latents[:13], truth[:13])
    found.add(latents[13:], truth[13:])
    assert found.metrics() == pytest.approx(naive(w_dec, features, latents, truth), abs=1e-6)


def test_the_true_dictionary_scores_one() -> None:
    features = torch.nn.functional.normalize(torch.randn(9, 5), dim=1)
    truth = torch.rand(40, 9) < 0.5
    found = GroundTruth(-3 * features, features)  # neither sign nor norm of a row counts
    found.add(truth * 0.7, truth)
    metrics = found.metrics()
    assert [metrics[name] for name in GROUND_TRUTH] == pytest.approx([1.0] * 5)


def test_what_takes_too_long_to_match_has_no_mcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_truth, "MOST_WORK", 4 * 6 * 4 - 1)
    found = GroundTruth(torch.randn(4, 5), torch.randn(6, 5))
    found.add(torch.ones(2, 4), torch.ones(2, 6, dtype=torch.bool))
    assert set(found.metrics()) == {*GROUND_TRUTH, "true_l0"} - {"mcc"}


@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_synthetic_shards_are_evaluated_against_their_own_features(
    tmp_path: Path, max_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_sweep.activations.plan.SHARD_BYTES", 700 * (4 * 16 + 6))
    monkeypatch.setattr("sae_sweep.activations.synthetic.PIECE_ROWS", 300)
    synthetic = SyntheticConfig(n_features=20, n_active=3, zipf=1, roots=3, noise=0.01)
    config = ActivationsConfig(
        synthetic=synthetic, d=16, train_tokens=2000, validation_tokens=1500, max_norm=max_norm
    )
    wanted = Wanted(config, describe(config, tmp_path))
    for _ in prepare([wanted], tmp_path):
        pass
    activations = open_activations(wanted.folder(tmp_path))
    truth = activations.validation_truth(0, activations.n_validation)
    assert (len(truth) < 1500) == (max_norm is not None)
    # what the true features leave of a row is noise: rows and truth belong together
    raw = activations.validation_rows(0, len(truth)) / activations.scale + activations.mean
    features = activations.true_features
    assert features is not None
    for row, active in list(zip(raw, truth, strict=True))[::97]:
        some = features[active]
        codes = torch.linalg.lstsq(some.T, row[:, None]).solution[:, 0]
        assert (codes @ some - row).norm() < 0.1
        assert ((codes > 0.3) & (codes < 1.7)).all()
    sae = build(TopKConfig(n_latents=20, k=3), 16, seed=0)
    with torch.no_grad():
        sae.w_dec.copy_(features)
        sae.w_enc.copy_(features)
    found = evaluate(sae, activations).metrics
    assert {*GROUND_TRUTH, "true_l0"} <= found.keys() <= METRICS.keys()
    assert (found["mcc"], found["uniqueness"]) == pytest.approx((1, 1))
    assert found["true_l0"] == pytest.approx(truth.sum(1).double().mean().item())
    assert 0.5 < found["f1"] < 1


class Known:
    """Activations in memory that say which features they are made of."""

    def __init__(self, activations: object) -> None:
        self._inner = activations
        self.true_features = activations.dictionary  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def validation_truth(self, start: int, stop: int) -> Tensor:
        return torch.ones(stop - start, len(self.true_features), dtype=torch.bool)


def test_they_change_neither_weights_nor_other_metrics(
    activations, trials: dict[str, Trial], tmp_path: Path, name: str, start: Callable
) -> None:
    ended = {}
    for place, rows in (("without", activations), ("with", Known(activations))):
        engine = Engine(rows, tmp_path / place)
        engine.add(trials[name])
        *_, outcome = engine.advance(1000)
        folder = tmp_path / place / trials[name].folder
        ended[place] = outcome, (folder / "sae.safetensors").read_bytes()
    (before, weights), (after, same) = ended["without"], ended["with"]
    assert weights == same
    added = {*GROUND_TRUTH, "true_l0"}
    assert set(after.final) - set(before.final) == added
    assert {k: v for k, v in after.final.items() if k not in added} == before.final
