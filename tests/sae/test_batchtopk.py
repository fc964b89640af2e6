"""The threshold of BatchTopK: what training finds, what use does with it."""

import torch

from sae_sweep.config import BatchTopKConfig, MatryoshkaConfig
from sae_sweep.kernels import Adam, Moments, adam_step
from sae_sweep.sae import build, calibrate

N, D, M, K = 256, 16, 64, 4


def test_before_training_use_selects_as_training_does() -> None:
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    sae = build(BatchTopKConfig(n_latents=M, k=K), D, seed=0)
    assert int((sae.encode(x) != 0).sum()) == K * N


def test_l0_in_use_follows_the_k_of_training() -> None:
    """While training still moves: the threshold must not lag behind."""
    generator = torch.Generator().manual_seed(0)
    sae = build(BatchTopKConfig(n_latents=M, k=K), D, seed=0)
    mixing = torch.randn(24, D, generator=generator)

    def batch() -> torch.Tensor:
        chosen = torch.rand(N, 24, generator=generator).topk(2).indices
        x = torch.zeros(N, 24).scatter(1, chosen, torch.rand(N, 2, generator=generator)) @ mixing
        return x - x.mean(dim=0)

    calibrate(sae, batch(), "mean")
    moments = {
        name: Moments(torch.zeros_like(one), torch.zeros_like(one))
        for name, one in sae.named_parameters()
    }
    for step in range(1, 61):
        out = sae.step_gradients(batch(), torch.zeros(M, dtype=torch.bool), 1.0)
        assert out.l0 == K
        sae.project_gradient()
        for name, parameter in sae.named_parameters():
            assert parameter.grad is not None
            adam_step(parameter, parameter.grad, moments[name], step, Adam(3e-3, 0.9, 0.999))
        sae.renormalise()
        sae.observe(out)
    in_use = (sae.encode(batch()) != 0).sum().item() / N
    assert abs(in_use / K - 1) < 0.1


def test_prefixes_reconstruct_with_their_own_latents_alone() -> None:
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    sae = build(MatryoshkaConfig(n_latents=M, k=K, prefixes="8/32/64"), D, seed=0)
    latents = sae.encode(x)
    nested = sae.nested(latents)
    assert list(nested) == ["fvu_prefix_1", "fvu_prefix_2"]
    for found, size in zip(nested.values(), (8, 32), strict=True):
        alone = latents.clone()
        alone[:, size:] = 0
        torch.testing.assert_close(found, sae.decode(alone))
