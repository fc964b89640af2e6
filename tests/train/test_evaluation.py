"""Metrics against naive formulas over the whole matrix of latents."""

import numpy as np
import pytest
import torch

from sae_sweep.config import L1Config, TopKConfig
from sae_sweep.records import METRICS
from sae_sweep.sae import AbstractSae, build, calibrate
from sae_sweep.train import evaluate, report

M = 32


def module(activations, config=None) -> AbstractSae:
    sae = build(config or TopKConfig(n_latents=M, k=3), activations.d, seed=0)
    calibrate(sae, activations.train[:256], "mean")
    with torch.no_grad():
        sae.b_enc[:3] = -100.0  # dead
        sae.b_enc[3] = 50.0  # always on, and the largest
    return sae


def naive(sae: AbstractSae, activations) -> dict[str, float]:
    x = activations.validation
    with torch.no_grad():
        f = sae.encode(x)
        x_hat = sae.decode(f).double().numpy()
    x, f = x.double().numpy(), f.double().numpy()
    frequency = (f > 0).mean(axis=0)
    rows = sae.w_dec.detach().double().numpy()[frequency > 0]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T - 3 * np.eye(len(rows))
    strongest_tokens = np.argsort(-f.max(axis=1), kind="stable")[:10]
    fvu = ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    return {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": ((x - x_hat) ** 2).mean(),
        "l0": (f > 0).sum(axis=1).mean(),
        "l0_fraction": (f > 0).mean(),
        "dead_features": (frequency == 0).mean(),
        "rare_features": (frequency < 0.0005).mean(),
        "always_on": (frequency > 0.8).sum(),
        "mean_activation": f[f > 0].mean(),
        "max_activation": f.max(),
        "diversity": len(set(f[strongest_tokens].argmax(axis=1))),
        "similarity": cosine.max(axis=1).mean(),
        "decoder_cosine": np.abs(rows @ rows.T - np.eye(len(rows))).sum()
        / (len(rows) * (len(rows) - 1)),
    }


@pytest.mark.parametrize("entries", [2**22, 7 * M])
@pytest.mark.parametrize("config", [None, L1Config(n_latents=M)], ids=["topk", "l1"])
def test_every_metric_is_its_naive_formula_however_it_is_cut(
    activations, monkeypatch: pytest.MonkeyPatch, config, entries: int
) -> None:
    monkeypatch.setattr("sae_sweep.train.evaluation.CHUNK_ENTRIES", entries)
    sae = module(activations, config)
    found = evaluate(sae, activations)
    assert found.metrics == pytest.approx(naive(sae, activations), rel=1e-5)
    assert found.metrics["dead_features"] > 0
    assert found.always_on_ids[0] == 3
    assert found.metrics.keys() <= METRICS.keys()


def test_predicting_the_mean_scores_exactly_one(activations) -> None:
    sae = module(activations)
    with torch.no_grad():
        sae.w_dec.zero_()
        sae.b_dec.copy_(activations.validation.double().mean(dim=0))
    found = evaluate(sae, activations)
    assert found.metrics["fvu"] == pytest.approx(1, abs=1e-12)


def test_a_report_reads_the_first_tokens_only(activations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_sweep.train.evaluation.REPORT_TOKENS", 100)
    sae = module(activations)
    found = report(sae, activations)
    activations.validation = activations.validation[:100]
    expected = naive(sae, activations)
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5)
    assert {"fvu", "l0", "l0_fraction", "dead_features", "always_on"} <= found.keys()


@pytest.mark.parametrize("entries", [2**22, 7 * M])
def test_every_figure_of_a_group_is_its_naive_formula(
    activations, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    monkeypatch.setattr("sae_sweep.train.evaluation.CHUNK_ENTRIES", entries)
    activations.group_names = ["en", "fr", "de", "none"]
    monkeypatch.setattr(
        activations, "validation_groups", lambda start, stop: torch.arange(start, stop) % 3
    )
    sae = module(activations)
    found = evaluate(sae, activations).groups
    x = activations.validation.double()
    with torch.no_grad():
        latents = sae.encode(activations.validation)
        error = (x - sae.decode(latents).double()).square().sum(dim=1)
    spread = (x - x.mean(dim=0)).square().sum(dim=1)
    assert found.tokens.tolist() == [200, 200, 200, 0]
    for group in range(3):
        here = slice(group, None, 3)
        fired = (latents[here] > 0).double()
        expected = [error[here].sum() / spread[here].sum(), fired.sum(dim=1).mean()]
        expected.append((fired.sum(dim=0) == 0).double().mean())
        got = [found.fvu[group], found.l0[group], found.dead_features[group]]
        torch.testing.assert_close(torch.stack(got), torch.stack(expected), rtol=1e-5, atol=0)
        torch.testing.assert_close(found.frequency[group], fired.mean(dim=0))
    assert found.fvu[3].isnan()
    assert found.l0[3].isnan()
    assert found.dead_features[3].isnan()


def test_groups_change_no_bit_of_the_metrics(activations) -> None:
    sae = module(activations)
    without = evaluate(sae, activations)
    activations.group_names = ["en", "fr", "de"]
    found = evaluate(sae, activations)
    assert found.metrics == without.metrics
    assert torch.equal(found.frequency, without.frequency)
    torch.testing.assert_close(found.groups.frequency.mean(dim=0), found.frequency)
    assert without.groups.tokens.tolist() == []


def test_latents_that_never_fire_leave_undefined_metrics_undefined(activations) -> None:
    sae = module(activations)
    with torch.no_grad():
        sae.b_enc.fill_(-100)
    metrics = evaluate(sae, activations).metrics
    assert metrics["dead_features"] == 1
    assert metrics["max_activation"] == 0
    assert metrics["diversity"] == 0
    assert np.isnan(metrics["mean_activation"])
    assert np.isnan(metrics["similarity"])


@pytest.mark.parametrize("entries", [2**22, 7 * M])
@pytest.mark.parametrize(("every", "offset"), [(32, 0.0), (4, 0.0), (32, 500.0)])
def test_massive_rows_are_counted_and_their_error_left_out(
    activations, monkeypatch: pytest.MonkeyPatch, entries: int, every: int, offset: float
) -> None:
    monkeypatch.setattr("sae_sweep.train.evaluation.CHUNK_ENTRIES", entries)
    # one row in 4 moves the mean, so that none stands out when centred; an offset hides raw norms
    x = activations.validation
    x[::every] = 0
    x[::every, 5] = 150 * x.norm(dim=1).median()
    activations.mean = x.mean(dim=0) * (offset == 0) + offset
    activations.scale = 1.0
    activations.validation = x - x.mean(dim=0)
    sae = module(activations)
    found = evaluate(sae, activations).metrics
    x = activations.validation.double()
    with torch.no_grad():
        error = (x - sae.decode(sae.encode(activations.validation)).double()).square().sum(dim=1)
    ordinary = torch.arange(len(x)) % every != 0
    spread = (x - x.mean(dim=0)).square().sum(dim=1)
    rest = x[ordinary] - x[ordinary].mean(dim=0)
    expected = {
        "massive_rows": 1 - ordinary.double().mean(),
        "massive_variance": spread[~ordinary].sum() / spread.sum(),
        "fvu_ordinary": error[ordinary].sum() / rest.square().sum(),
        "fvu": error.sum() / spread.sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4), name
    assert found["massive_variance"] > 0.5


def test_without_massive_rows_nothing_is_said_of_them(activations) -> None:
    found = evaluate(module(activations), activations).metrics
    assert not {"fvu_ordinary", "massive_rows", "massive_variance"} & found.keys()


def test_looking_changes_nothing(activations) -> None:
    sae = module(activations)
    before = [parameter.clone() for parameter in sae.parameters()]
    random_state = torch.get_rng_state()
    evaluate(sae, activations)
    report(sae, activations)
    assert all(torch.equal(*pair) for pair in zip(before, sae.parameters(), strict=True))
    assert torch.equal(random_state, torch.get_rng_state())
