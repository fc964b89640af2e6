"""Dense losses against formulas written out in float64, without the project's operations."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae_sweep.config import (
    Architecture,
    GatedConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    TopKConfig,
)
from sae_sweep.sae import AbstractSae, build

N, D, M, K = 24, 6, 15, 3
Array = NDArray[np.float64]


def trained(config: Architecture) -> AbstractSae:
    """A module that is far from its start: every parameter random."""
    sae = build(config, D, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        sae.renormalise()
    return sae


def tokens() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2))


def arrays(sae: AbstractSae) -> dict[str, Array]:
    return {name: p.detach().numpy().astype(np.float64) for name, p in sae.named_parameters()}


def pre_activations(x: Array, p: dict[str, Array]) -> Array:
    return (x - p["b_dec"]) @ p["w_enc"].T + p["b_enc"]


def keep_largest(pre: Array, k: int) -> Array:
    kept = np.zeros_like(pre)
    for i, row in enumerate(np.maximum(pre, 0)):
        order = np.argsort(-row, kind="stable")[:k]
        kept[i, order] = row[order]
    return kept


def squared_error(x: Array, x_hat: Array) -> float:
    return float(((x_hat - x) ** 2).sum(axis=1).mean())


def test_topk_reconstruction_and_aux_are_their_formulas() -> None:
    sae = trained(TopKConfig(n_latents=M, k=K, aux_coeff=0.25))
    dead = np.arange(M) < 5
    out = sae(tokens(), torch.from_numpy(dead), 1.0)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    pre = pre_activations(x, p)
    x_hat = keep_largest(pre, K) @ p["w_dec"] + p["b_dec"]
    e = x - x_hat
    e_hat = keep_largest(np.where(dead, pre, 0), D // 2) @ p["w_dec"]
    aux = ((e - e_hat) ** 2).sum() / ((e - e.mean(axis=0)) ** 2).sum()

    assert out.loss_reconstruction.item() == pytest.approx(squared_error(x, x_hat), rel=1e-5)
    assert out.loss_aux.item() == pytest.approx(0.25 * aux, rel=1e-5)
    assert out.loss.item() == pytest.approx(squared_error(x, x_hat) + 0.25 * aux, rel=1e-5)
    assert out.loss_sparsity.item() == 0


def test_the_aux_gradient_of_a_whole_topk_module_reaches_dead_encoder_rows() -> None:
    sae = trained(TopKConfig(n_latents=M, k=K, aux_coeff=0.25))
    x, dead = tokens(), torch.zeros(M, dtype=torch.bool)
    with torch.no_grad():
        sae.b_enc[:4] = -3.0  # rarely among the K largest, yet positive for some tokens
    out = sae(x, dead, 1.0)
    silent = ~out.fired
    sae.zero_grad()
    sae(x, silent, 1.0).loss.backward()
    assert silent.any()
    assert sae.w_enc.grad is not None
    positive = (sae.w_enc @ (x - sae.b_dec).T + sae.b_enc[:, None] > 0).any(dim=1)
    reached = (sae.w_enc.grad.abs().sum(dim=1) > 0)[silent & positive]
    assert len(reached) > 0
    assert reached.all()


@pytest.mark.parametrize("l1_scale", [1.0, 0.25])
@pytest.mark.parametrize("l1_norm", ["decoder", "unit"])
def test_l1_losses_are_their_formulas(l1_norm: str, l1_scale: float) -> None:
    sae = trained(L1Config(n_latents=M, l1_alpha=3.0, l1_norm=l1_norm))
    out = sae(tokens(), torch.zeros(M, dtype=torch.bool), l1_scale)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    latents = np.maximum(pre_activations(x, p), 0)
    x_hat = latents @ p["w_dec"] + p["b_dec"]
    weights = np.linalg.norm(p["w_dec"], axis=1) if l1_norm == "decoder" else np.ones(M)
    penalty = 3.0 * l1_scale * float((latents * weights).sum(axis=1).mean())

    assert out.loss_reconstruction.item() == pytest.approx(squared_error(x, x_hat), rel=1e-5)
    assert out.loss_sparsity.item() == pytest.approx(penalty, rel=1e-5)
    assert out.l0.item() == pytest.approx((latents > 0).sum(axis=1).mean(), rel=1e-6)
    assert out.loss_aux.item() == 0


@pytest.mark.parametrize("threshold", [0.2, 0.6])
@pytest.mark.parametrize("l1_norm", ["decoder", "unit", None])
def test_latents_above_the_threshold_alone_pay_for_firing_often(
    l1_norm: str | None, threshold: float
) -> None:
    penalised = {"always_on_coeff": 0.7, "always_on_threshold": threshold}
    if l1_norm is None:
        sae = trained(TopKConfig(n_latents=M, k=K, aux_coeff=0, **penalised))
    else:
        sae = trained(L1Config(n_latents=M, l1_norm=l1_norm, **penalised))
    with torch.no_grad():
        sae.b_enc[2] = 20.0
    out = sae(tokens(), torch.zeros(M, dtype=torch.bool), 1.0)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    pre = pre_activations(x, p)
    latents = keep_largest(pre, K) if l1_norm is None else np.maximum(pre, 0)
    weights = np.linalg.norm(p["w_dec"], axis=1) if l1_norm == "decoder" else np.ones(M)
    penalty = 0.0
    for j in range(M):
        share = (latents[:, j] > 0).mean()
        if share > threshold:
            penalty += (share - threshold) / (1 - threshold) * latents[:, j].mean() * weights[j]
    assert penalty > 0
    assert out.loss_aux.item() == pytest.approx(0.7 * penalty, rel=1e-5)


def gradients(sae: AbstractSae, dead: Array, scale: float = 1.0) -> dict[str, Array]:
    sae(tokens(), torch.from_numpy(dead), scale).loss.backward()
    return {name: p.grad.numpy() for name, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "penalty", [{"target_l0": 4, "target_coeff": 0.5}, {"l0_coeff": 0.7}], ids=str
)
def test_jumprelu_losses_and_the_gradient_of_its_thresholds_are_their_formulas(penalty) -> None:
    """Rajamanoharan et al. 2024, arXiv:2407.14435, straight-through as in eqs. 11 and 12."""
    width, scale, dead = 2.0, 0.25, np.arange(M) < 5
    sae = trained(JumpReluConfig(n_latents=M, bandwidth=width, pre_act_coeff=0.3, **penalty))
    out = sae(tokens(), torch.from_numpy(dead), scale)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    pre, theta = pre_activations(x, p), p["threshold"]
    latents = pre * (pre > theta)
    x_hat = latents @ p["w_dec"] + p["b_dec"]
    l0 = (pre > theta).sum() / N
    if "target_l0" in penalty:
        sparsity, slope = 0.5 * D * (l0 / 4 - 1) ** 2, 0.5 * D * 2 * (l0 / 4 - 1) / 4
    else:
        sparsity, slope = 0.7 * l0, 0.7
    below = np.maximum(theta - pre, 0) * dead
    assert out.loss_reconstruction.item() == pytest.approx(squared_error(x, x_hat), rel=1e-5)
    assert out.loss_sparsity.item() == pytest.approx(scale * sparsity, rel=1e-5)
    assert out.loss_aux.item() == pytest.approx(0.3 * below.sum() / N, rel=1e-5)
    assert out.l0.item() == pytest.approx(l0, rel=1e-6)

    upstream = 2 / N * (x_hat - x) @ p["w_dec"].T
    near = np.abs((pre - theta) / width) < 0.5
    moved = near * (-theta / width * upstream - scale * slope / width / N)
    expected = moved.sum(axis=0) + 0.3 * (below > 0).sum(axis=0) / N
    found = gradients(sae, dead, scale)
    assert found["threshold"] == pytest.approx(expected, rel=1e-4)
    through = upstream * (pre > theta) - 0.3 * (below > 0) / N
    assert found["b_enc"] == pytest.approx(through.sum(axis=0), rel=1e-4)


def test_gated_losses_are_their_formulas_and_the_auxiliary_one_freezes_the_decoder() -> None:
    """Rajamanoharan et al. 2024, arXiv:2404.16014, eq. 8."""
    sae = trained(GatedConfig(n_latents=M, l1_alpha=0.6))
    nothing = np.zeros(M, dtype=bool)
    out = sae(tokens(), torch.from_numpy(nothing), 0.5)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    shared = (x - p["b_dec"]) @ p["w_enc"].T
    gate = shared + p["b_gate"]
    magnitude = np.exp(p["r_mag"]) * shared + p["b_mag"]
    x_hat = np.maximum(magnitude, 0) * (gate > 0) @ p["w_dec"] + p["b_dec"]
    by_gate = np.maximum(gate, 0) @ p["w_dec"] + p["b_dec"]
    sparsity = 0.6 * 0.5 * np.maximum(gate, 0).sum() / N
    assert out.loss_reconstruction.item() == pytest.approx(squared_error(x, x_hat), rel=1e-5)
    assert out.loss_sparsity.item() == pytest.approx(sparsity, rel=1e-5)
    assert out.loss_aux.item() == pytest.approx(squared_error(x, by_gate), rel=1e-5)

    found = gradients(sae, nothing, 0.5)
    error = 2 / N * (x_hat - x)
    to_gate = (gate > 0) * (2 / N * (by_gate - x) @ p["w_dec"].T + 0.6 * 0.5 / N)
    fires = (gate > 0) & (magnitude > 0)
    to_shared = to_gate + fires * np.exp(p["r_mag"]) * (error @ p["w_dec"].T)
    assert found["w_dec"] == pytest.approx((magnitude * fires).T @ error, rel=1e-4, abs=1e-5)
    assert found["b_gate"] == pytest.approx(to_gate.sum(axis=0), rel=1e-4)
    centred = error.sum(axis=0) - to_shared.sum(axis=0) @ p["w_enc"]
    assert found["b_dec"] == pytest.approx(centred, rel=1e-4)


def test_matryoshka_takes_the_mean_over_prefixes_where_the_paper_takes_the_sum() -> None:
    """Bussmann et al. 2025, arXiv:2503.17547, of the K N largest latents of the batch."""
    sae = trained(MatryoshkaConfig(n_latents=M, k=K, prefixes="3/7/15", aux_coeff=0))
    out = sae(tokens(), torch.zeros(M, dtype=torch.bool), 1.0)

    x, p = tokens().numpy().astype(np.float64), arrays(sae)
    latents = keep_largest(pre_activations(x, p).reshape(1, -1), K * N).reshape(N, M)
    errors = [
        squared_error(x, latents[:, :size] @ p["w_dec"][:size] + p["b_dec"]) for size in (3, 7, 15)
    ]
    assert 3 * out.loss_reconstruction.item() == pytest.approx(sum(errors), rel=1e-5)
    assert out.loss.item() == pytest.approx(sum(errors) / 3, rel=1e-5)
    assert out.l0.item() == K


def test_penalties_on_parameters_are_loops_over_rows_and_pairs_of_rows() -> None:
    sae = trained(L1Config(n_latents=M, encoder_l2_coeff=0.3, diversity_coeff=2.0))
    out = sae(tokens(), torch.zeros(M, dtype=torch.bool), 1.0)
    p = arrays(sae)
    squares = sum(float(row @ row) for row in p["w_enc"]) / M
    unit = [row / np.linalg.norm(row) for row in p["w_dec"]]
    cosines = [float(unit[a] @ unit[b]) for a in range(M) for b in range(M) if a != b]
    expected = 0.3 * squares + 2.0 * sum(one**2 for one in cosines) / len(cosines)
    assert out.loss_aux.item() == pytest.approx(expected, rel=1e-5)
