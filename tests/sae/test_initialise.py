"""Where training starts."""

import torch

from sae_sweep.config import TopKConfig
from sae_sweep.sae import build, calibrate, geometric_median


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[:5] += 30
    median = geometric_median(x)

    def distance(point: torch.Tensor) -> float:
        return (x - point).norm(dim=1).sum().item()

    assert distance(median) < distance(x.mean(dim=0))
    for direction in torch.eye(3):
        assert distance(median) < distance(median + 0.05 * direction)
        assert distance(median) < distance(median - 0.05 * direction)


def test_the_geometric_median_of_equal_tokens_is_the_token() -> None:
    x = torch.tensor([[1.0, -2.0]]).expand(7, 2)
    torch.testing.assert_close(geometric_median(x), x[0])


def test_the_decoder_bias_starts_where_it_was_asked_to() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).exp()
    biases = {}
    for start in ("mean", "geometric_median"):
        sae = build(TopKConfig(n_latents=16, k=4), 8, seed=0)
        calibrate(sae, x, start)
        biases[start] = sae.b_dec.detach()
    assert torch.equal(biases["mean"], torch.zeros(8))
    torch.testing.assert_close(biases["geometric_median"], geometric_median(x))


def test_a_batch_of_zeros_leaves_the_encoder_as_it_is() -> None:
    sae = build(TopKConfig(n_latents=16, k=4), 8, seed=0)
    calibrate(sae, torch.zeros(5, 8), "mean")
    assert torch.equal(sae.w_enc, sae.w_dec)


def test_the_encoder_scale_falls_as_k_rises() -> None:
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    scales = []
    for k in (1, 4, 16, 64):
        sae = build(TopKConfig(n_latents=256, k=k), 64, seed=0)
        calibrate(sae, x, "mean")
        scales.append(sae.w_enc.norm(dim=1).mean().item())
    assert scales == sorted(scales, reverse=True)
