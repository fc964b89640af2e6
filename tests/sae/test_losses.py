"""Dense losses against formulas written out in float64, without the project's operations."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae_sweep.config import L1Config, TopKConfig
from sae_sweep.sae import AbstractSae, build

N, D, M, K = 24, 6, 15, 3
Array = NDArray[np.float64]


def trained(config: TopKConfig | L1Config) -> AbstractSae:
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
