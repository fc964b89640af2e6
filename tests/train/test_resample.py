"""Restarting silent latents."""

import pytest
import torch

from sae_sweep.config import L1Config
from sae_sweep.kernels import Moments
from sae_sweep.sae import AbstractSae, build
from sae_sweep.train.resample import generator_at, resample

D, M = 6, 10
SILENT = torch.arange(M) < 4


def module() -> tuple[AbstractSae, dict[str, Moments]]:
    sae = build(L1Config(n_latents=M), D, seed=0)
    with torch.no_grad():
        sae.b_dec.fill_(0.5)
        sae.b_enc.fill_(0.25)
    moments = {
        name: Moments(torch.ones_like(p), torch.ones_like(p)) for name, p in sae.named_parameters()
    }
    return sae, moments


def tokens() -> torch.Tensor:
    return 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(0))


def test_silent_latents_restart_at_inputs_and_the_others_stay() -> None:
    sae, moments = module()
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    x = tokens()
    resample(sae, moments, SILENT, x, generator_at(0, 100))

    directions = torch.nn.functional.normalize(x - sae.b_dec, dim=1)
    rows = sae.w_dec[SILENT]
    torch.testing.assert_close((rows @ directions.T).amax(dim=1), torch.ones(4))
    norm = 0.2 * before["w_enc"][~SILENT].norm(dim=1).mean()
    torch.testing.assert_close(sae.w_enc[SILENT], rows * norm)
    assert (sae.b_enc[SILENT] == 0).all()
    assert torch.equal(sae.b_dec, before["b_dec"])
    for name in ("w_enc", "b_enc", "w_dec"):
        assert torch.equal(getattr(sae, name)[~SILENT], before[name][~SILENT])
        for moment in moments[name]:
            assert (moment[SILENT] == 0).all()
            assert (moment[~SILENT] == 1).all()


def test_inputs_are_drawn_by_the_square_of_their_loss() -> None:
    sae, moments = module()
    with torch.no_grad():
        sae.w_enc.zero_()
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    x = torch.eye(D)[:2] * torch.tensor([[1.0], [2.0]])  # losses 1 and 4, weights 1 and 16
    drawn = torch.zeros(2)
    for step in range(500):
        resample(sae, moments, SILENT, x, generator_at(0, step))
        drawn += sae.w_dec.detach()[SILENT][:, :2].sum(dim=0)
    assert (drawn[1] / drawn.sum()).item() == pytest.approx(16 / 17, abs=0.02)


def test_equal_seed_and_step_restart_alike_and_others_do_not() -> None:
    results = []
    for seed, step in [(0, 100), (0, 100), (1, 100), (0, 101)]:
        sae, moments = module()
        resample(sae, moments, SILENT, tokens(), generator_at(seed, step))
        results.append(sae.w_dec.detach())
    first, again, other_seed, other_step = results
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    assert not torch.equal(first, other_step)


def test_all_latents_may_restart() -> None:
    sae, moments = module()
    resample(sae, moments, torch.ones(M, dtype=torch.bool), tokens(), generator_at(0, 1))
    torch.testing.assert_close(sae.w_enc.norm(dim=1), torch.full((M,), 0.2))


@pytest.mark.parametrize(
    "bad", [torch.nan, 0.0], ids=["losses that are not finite", "losses of zero"]
)
def test_without_usable_losses_nothing_restarts(bad: float) -> None:
    sae, moments = module()
    with torch.no_grad():
        sae.w_dec.fill_(bad)
        sae.b_dec.fill_(1.0)
    before = sae.w_enc.detach().clone()
    resample(sae, moments, SILENT, torch.ones(20, D), generator_at(0, 1))
    assert torch.equal(sae.w_enc, before)
