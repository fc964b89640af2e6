"""A whole training step by hand against forward and backward of the reference in float64."""

import copy
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor

from sae_sweep.config import (
    ARCHITECTURES,
    Architecture,
    BatchTopKConfig,
    JumpReluConfig,
    L1Config,
    MatryoshkaConfig,
    TopKConfig,
)
from sae_sweep.kernels import Adam, Moments, adam_step, cpu, reference
from sae_sweep.kernels.cpu import forms
from sae_sweep.sae import AbstractSae, build, calibrate

M = 60
CONFIGS = {
    "topk": TopKConfig(n_latents=M, k=7, aux_coeff=0),
    "k of 1": TopKConfig(n_latents=M, k=1, aux_coeff=0),
    "every latent": TopKConfig(n_latents=M, k=M, aux_coeff=0),
    "auxk": TopKConfig(n_latents=M, k=7, aux_coeff=0.25),
    "usage": TopKConfig(n_latents=M, k=7, aux_kind="usage", aux_coeff=1, aux_target=0.2),
    "topk always on": TopKConfig(n_latents=M, k=7, aux_coeff=0.25, always_on_coeff=2),
    "l1 always on": L1Config(n_latents=M, l1_alpha=0.5, always_on_coeff=2, always_on_threshold=0.5),
    "l1 unit always on": L1Config(
        n_latents=M, l1_alpha=0.5, l1_norm="unit", always_on_coeff=2, always_on_threshold=0.5
    ),
    "l1": L1Config(n_latents=M, l1_alpha=0.5),
    "l1 unit": L1Config(n_latents=M, l1_alpha=0.5, l1_norm="unit"),
    "topk and l1": TopKConfig(n_latents=M, k=7, l1_coeff=0.3, encoder_l2_coeff=0.2),
    "batchtopk": BatchTopKConfig(n_latents=M, k=7, aux_coeff=0.25, l1_coeff=0.3),
    "batchtopk always on": BatchTopKConfig(
        n_latents=M, k=7, aux_coeff=0, always_on_coeff=2, diversity_coeff=3
    ),
    "every latent of a batch": BatchTopKConfig(n_latents=M, k=M, aux_coeff=0),
    "matryoshka": MatryoshkaConfig(n_latents=M, k=7, prefixes="3/30/45/60", always_on_coeff=2),
    "transcoder": L1Config(n_latents=M, l1_alpha=0.5, transcoder=True),
    "topk transcoder": TopKConfig(n_latents=M, k=7, aux_coeff=0.25, transcoder=True),
    "matryoshka transcoder": MatryoshkaConfig(
        n_latents=M, k=7, prefixes="3/30/60", transcoder=True
    ),
    "jumprelu": JumpReluConfig(n_latents=M, target_l0=9, pre_act_coeff=0.5),
    "jumprelu without target": JumpReluConfig(n_latents=M, l0_coeff=0.7, bandwidth=0.4),
}
SHAPES = [(1, 5), (33, 7), (64, 24)]
"""Tokens, width."""


def test_every_form_by_hand_that_is_declared_is_tested() -> None:
    declared = {kind for kind, one in ARCHITECTURES.items() if "by_hand" in one.forms}
    assert {config.kind for config in CONFIGS.values()} == declared


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that what is not written shows."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Architecture:
    return CONFIGS[request.param]


@pytest.fixture(params=[True, False], ids=["sparse", "dense"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "is_sparse_faster", lambda *shape: request.param)


def trained(config: Architecture, d: int) -> AbstractSae:
    """A module that is far from its start, with a latent on every token and some on none."""
    sae = build(config, d, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        sae.renormalise()
        sae.b_enc[0] = 50.0
        sae.b_enc[-5:] = -50.0
    return sae


def tokens(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(2))


def distance(found: Tensor, expected: Tensor) -> float:
    """Of two tensors, in norms of the second; 0 where both are 0."""
    norm = expected.detach().norm()
    return ((found.detach().double() - expected.detach()).norm() / norm.clamp_min(1e-30)).item()


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outputs_and_gradients_are_the_references(
    config: Architecture, n: int, d: int, dtype: torch.dtype
) -> None:
    exact = trained(config, d).double()
    sae = copy.deepcopy(exact).to(dtype)
    x, dead = tokens(n, d), torch.arange(M) % 4 == 0
    target = tokens(n, d).flip(0) if config.transcoder else x
    expected = exact(x.double(), dead, 0.5, target.double())
    expected.loss.backward()
    found = sae.step_gradients(x.to(dtype), dead, 0.5, target=target.to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for name in ("loss", "loss_reconstruction", "loss_sparsity", "loss_aux", "x_hat", "l0"):
        assert distance(getattr(found, name), getattr(expected, name)) <= tolerance, name
    assert torch.equal(found.fired, expected.fired)
    wanted = dict(exact.named_parameters())
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        assert wanted[name].grad is not None
        assert parameter.grad.shape == parameter.shape
        assert distance(parameter.grad, wanted[name].grad) <= tolerance, name


def test_gradients_of_what_bfloat16_proposed_are_the_references() -> None:
    exact = trained(CONFIGS["topk"], 24).double()
    sae = copy.deepcopy(exact).float()
    x, dead = tokens(64, 24), torch.zeros(M, dtype=torch.bool)
    exact(x.double(), dead, 1.0).loss.backward()
    sae.step_gradients(x, dead, 1.0, cpu.StepOptions(bf16_select=True))
    wanted = dict(exact.named_parameters())
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        assert wanted[name].grad is not None
        assert distance(parameter.grad, wanted[name].grad) <= 1e-5, name


@pytest.mark.parametrize("latents", ["sparse", "dense"])
def test_a_form_that_is_set_is_taken_without_looking_up(
    config: Architecture, latents: Literal["sparse", "dense"], monkeypatch
) -> None:
    sae, x, dead = trained(config, 24), tokens(64, 24), torch.zeros(M, dtype=torch.bool)
    expected = sae.step_gradients(x, dead, 1.0)
    taken = [parameter.grad for parameter in sae.parameters()]
    monkeypatch.setattr(forms, "is_sparse_faster", None)
    decode, written = cpu.decode, []

    def watched(given: cpu.Latents, *others: Tensor) -> Tensor:
        written.append("dense" if isinstance(given, Tensor) else "sparse")
        return decode(given, *others)

    monkeypatch.setattr(cpu, "decode", watched)
    found = sae.step_gradients(x, dead, 1.0, cpu.StepOptions(latents=latents))
    assert set(written) == {latents}
    torch.testing.assert_close(found.loss, expected.loss)
    for parameter, gradient in zip(sae.parameters(), taken, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_step_by_hand_leaves_no_graph_and_no_sum_with_earlier_gradients(
    config: Architecture,
) -> None:
    sae, x, dead = trained(config, 7), tokens(33, 7), torch.arange(M) < 5
    before = [parameter.detach().clone() for parameter in sae.parameters()]
    first = sae.step_gradients(x, dead, 1.0)
    once = [parameter.grad for parameter in sae.parameters()]
    sae.step_gradients(x, dead, 1.0)
    assert not any(part.requires_grad for part in first if part is not None)
    for parameter, start, gradient in zip(sae.parameters(), before, once, strict=True):
        assert torch.equal(parameter, start)
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_a_decoder_row_of_zeros_keeps_the_gradient_finite() -> None:
    sae = trained(CONFIGS["l1"], 7)
    with torch.no_grad():
        sae.w_dec[3] = 0
    exact = copy.deepcopy(sae).double()
    x, dead = tokens(33, 7), torch.zeros(M, dtype=torch.bool)
    sae.step_gradients(x, dead, 1.0)
    exact(x.double(), dead, 1.0).loss.backward()
    assert sae.w_dec.grad is not None
    assert exact.w_dec.grad is not None
    assert distance(sae.w_dec.grad, exact.w_dec.grad) <= 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_the_loss(config: Architecture, bad: float) -> None:
    sae, x = trained(config, 7), tokens(33, 7)
    with torch.no_grad():
        sae.w_enc[0, 0] = bad
    out = sae.step_gradients(x, torch.arange(M) < 5, 1.0)
    assert not out.loss.isfinite()


def moments_of(sae: AbstractSae) -> dict[str, Moments]:
    return {
        name: Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
        for name, parameter in sae.named_parameters()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("form")
def test_fifty_steps_drift_by_rounding_alone(config: Architecture) -> None:
    d, n = 12, 48
    sae = build(config, d, seed=0)
    calibrate(sae, tokens(n, d), "mean")
    with torch.no_grad():
        # with k = 1 the calibrated encoder's gradient is exactly 0, and Adam makes rounding large
        sae.w_enc.mul_(0.9)
    exact = copy.deepcopy(sae).double()
    moments, exact_moments = moments_of(sae), moments_of(exact)
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 51):
        x, dead = torch.randn(n, d, generator=generator), torch.arange(M) % 4 == 0
        adam = Adam(1e-3, 0.9, 0.999)
        sae.step_gradients(x, dead, 1.0)
        sae.project_gradient()
        exact.zero_grad()
        exact(x.double(), dead, 1.0).loss.backward()
        assert exact.w_dec.grad is not None
        if config.unit_rows:
            reference.remove_parallel(exact.w_dec.grad, exact.w_dec)
        for name, parameter in sae.named_parameters():
            assert parameter.grad is not None
            adam_step(parameter, parameter.grad, moments[name], step, adam)
        for name, parameter in exact.named_parameters():
            assert parameter.grad is not None
            reference.adam_step(parameter, parameter.grad, exact_moments[name], step, adam)
        sae.renormalise()
        exact.renormalise()
    wanted = dict(exact.named_parameters())
    for name, parameter in sae.named_parameters():
        assert distance(parameter, wanted[name]) <= 1e-4, name
        assert distance(moments[name].first, exact_moments[name].first) <= 1e-4, name
        assert distance(moments[name].second, exact_moments[name].second) <= 1e-4, name


@pytest.mark.gpu
def test_autograd_takes_the_step_on_a_gpu(config: Architecture) -> None:
    sae, x, dead = trained(config, 24), tokens(64, 24), torch.arange(M) < 5
    on_gpu = copy.deepcopy(sae).cuda()
    expected = sae.step_gradients(x, dead, 1.0)
    found = on_gpu.step_gradients(x.cuda(), dead.cuda(), 1.0)
    assert distance(found.loss.cpu(), expected.loss.double()) <= 1e-4
    for ours, theirs in zip(on_gpu.parameters(), sae.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert distance(ours.grad.cpu(), theirs.grad.double()) <= 1e-4


@pytest.mark.parametrize("name", ["l1", "l1 unit"])
def test_a_scale_known_on_the_device_alone_is_worth_the_same_number(name: str) -> None:
    sae, x, dead = trained(CONFIGS[name], 24), tokens(64, 24), torch.zeros(M, dtype=torch.bool)
    exact = copy.deepcopy(sae)
    found = sae.step_gradients(x, dead, torch.tensor(0.37))
    expected = exact(x, dead, torch.tensor(0.37))
    expected.loss.backward()
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.loss, exact(x, dead, 0.37).loss)
    for ours, theirs in zip(sae.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
