"""Every differentiable operation against finite differences in float64."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck

from sae_sweep import kernels
from sae_sweep.kernels import SparseLatents


def checked(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> bool:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return gradcheck(function, inputs)


def test_pre_activations() -> None:
    assert checked(kernels.pre_activations, (5, 4), (6, 4), (6,), (4,))


def test_relu_encode() -> None:
    assert checked(kernels.relu_encode, (5, 4), (6, 4), (6,), (4,))


def test_top_k() -> None:
    assert checked(lambda pre: kernels.top_k(pre, 3).values, (5, 8))


def test_top_k_with_fewer_than_k_positive() -> None:
    assert checked(lambda pre: kernels.top_k(pre - 1, 6).values, (5, 8))


def test_sparse_decode() -> None:
    indices = torch.tensor([[0, 5], [5, 2], [1, 1]])

    def decode(values: Tensor, w_dec: Tensor, b_dec: Tensor) -> Tensor:
        return kernels.sparse_decode(SparseLatents(values, indices), w_dec, b_dec)

    assert checked(decode, (3, 2), (6, 4), (4,))


def test_dense_decode() -> None:
    assert checked(kernels.dense_decode, (3, 6), (6, 4), (4,))


def test_reconstruction_loss() -> None:
    assert checked(kernels.reconstruction_loss, (5, 4), (5, 4))


def test_l1_penalty_with_and_without_decoder_norms() -> None:
    assert checked(kernels.l1_penalty, (5, 6), (6, 4))
    assert checked(kernels.l1_penalty, (5, 6))


def test_always_on_penalty_at_a_share_that_does_not_change() -> None:
    def penalty(latents: Tensor, *decoder: Tensor) -> Tensor:
        return kernels.always_on_penalty(latents.abs() + 0.1, 0.3, *decoder)

    assert checked(penalty, (5, 6), (6, 4))
    assert checked(penalty, (5, 6))


def test_aux_k_loss() -> None:
    torch.manual_seed(1)
    residual, dead = torch.randn(5, 4).double(), torch.arange(8) < 5
    assert checked(
        lambda pre, w_dec: kernels.aux_k_loss(residual, pre, dead, w_dec), (5, 8), (8, 4)
    )


def test_batch_top_k() -> None:
    assert checked(lambda pre: kernels.batch_top_k(pre, 3).latents, (5, 8))


def test_nested_errors() -> None:
    def joined(*inputs: Tensor) -> Tensor:
        return torch.stack(kernels.nested_errors(*inputs, prefixes=[2, 6]))

    assert checked(joined, (5, 4), (5, 6), (6, 4), (4,))


def test_pre_activation_loss() -> None:
    dead = torch.arange(8) < 5
    assert checked(lambda pre, level: kernels.pre_activation_loss(pre, level, dead), (5, 8), (8,))


def test_diversity_penalty() -> None:
    assert checked(kernels.diversity_penalty, (6, 4))


def test_usage_loss_with_threshold_and_spread_held() -> None:
    torch.manual_seed(1)
    pre = torch.randn(5, 8).double()
    threshold = pre.topk(3).values[:, -1:]
    width = kernels.reference.USAGE_WIDTH * pre.std(correction=0)

    def held(change: Tensor) -> Tensor:
        usage = torch.sigmoid((pre + change - threshold) / width).mean(dim=0)
        return (0.4 - usage).relu().square().mean()

    change = torch.zeros(5, 8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(held, change)
    (expected,) = torch.autograd.grad(held(change), change)
    (ours,) = torch.autograd.grad(kernels.usage_loss(pre + change, 3, 0.4), change)
    torch.testing.assert_close(ours, expected)
