"""The reference operations against brute force and against PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_sweep import kernels
from sae_sweep.kernels import Adam, Moments, SparseLatents


def brute_top_k(pre: Tensor, k: int) -> list[set[int]]:
    """Sort each row by (value after relu, descending; index, ascending) and keep the first k."""
    rows = pre.relu().tolist()
    return [set(sorted(range(len(row)), key=lambda j, row=row: (-row[j], j))[:k]) for row in rows]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_top_k_keeps_the_largest_and_breaks_ties_to_the_lowest_index(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, m))
    row = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]), min_size=m, max_size=m)
    pre = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    found = kernels.top_k(pre, k)
    assert [set(indices) for indices in found.indices.tolist()] == brute_top_k(pre, k)
    torch.testing.assert_close(found.values, pre.relu().gather(1, found.indices))


@pytest.mark.parametrize(("n", "m", "k"), [(1, 5, 2), (7, 33, 33), (64, 257, 16)])
def test_top_k_of_distinct_values_is_the_brute_force_one(n: int, m: int, k: int) -> None:
    torch.manual_seed(0)
    pre = torch.randn(n, m)
    found = kernels.top_k(pre, k)
    assert [set(indices) for indices in found.indices.tolist()] == brute_top_k(pre, k)


def test_top_k_fills_up_with_zeros_that_carry_no_gradient() -> None:
    pre = torch.tensor([[-1.0, 2.0, -3.0, -4.0]], requires_grad=True)
    found = kernels.top_k(pre, 3)
    found.values.sum().backward()
    assert sorted(found.values[0].tolist()) == [0.0, 0.0, 2.0]
    assert pre.grad is not None
    assert pre.grad.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_top_k_lets_nan_through_beside_ties() -> None:
    found = kernels.top_k(torch.tensor([[1.0, 1.0, torch.nan, 1.0], [torch.nan] * 4]), 2)
    assert found.indices[0].tolist() == [0, 2]
    assert found.values[1].isnan().all()


def test_sparse_decode_is_the_dense_decode_of_the_scattered_latents() -> None:
    torch.manual_seed(0)
    w_dec, b_dec = torch.randn(9, 4), torch.randn(4)
    latents = kernels.top_k(torch.randn(5, 9), 3)
    dense = torch.zeros(5, 9).scatter(1, latents.indices, latents.values)
    expected = kernels.dense_decode(dense, w_dec, b_dec)
    torch.testing.assert_close(kernels.sparse_decode(latents, w_dec, b_dec), expected)
    torch.testing.assert_close(kernels.sparse_decode(latents, w_dec), expected - b_dec)


def test_a_latent_used_twice_collects_both_gradients() -> None:
    w_dec = torch.ones(3, 2, requires_grad=True)
    latents = SparseLatents(torch.tensor([[2.0, 5.0]]), torch.tensor([[1, 1]]))
    kernels.sparse_decode(latents, w_dec).sum().backward()
    assert w_dec.grad is not None
    assert w_dec.grad.tolist() == [[0.0, 0.0], [7.0, 7.0], [0.0, 0.0]]


def test_weighted_l1_is_plain_l1_where_decoder_rows_have_unit_norm() -> None:
    torch.manual_seed(0)
    latents, w_dec = torch.rand(6, 5), torch.randn(5, 3)
    kernels.normalise_rows(w_dec)
    torch.testing.assert_close(kernels.l1_penalty(latents, w_dec), kernels.l1_penalty(latents))


def aux_by_loops(residual: Tensor, pre: Tensor, dead: Tensor, w_dec: Tensor) -> float:
    n, d = residual.shape
    error = 0.0
    for i in range(n):
        ids = [j for j in range(len(dead)) if dead[j]]
        ids = sorted(ids, key=lambda j, i=i: -pre[i, j].item())[: d // 2]
        e_hat = torch.zeros(d)
        for j in ids:
            e_hat += max(0.0, pre[i, j].item()) * w_dec[j]
        error += (residual[i] - e_hat).square().sum().item()
    return error / (residual - residual.mean(dim=0)).square().sum().item()


@pytest.mark.parametrize("n_dead", [1, 2, 3, 7])
def test_aux_k_is_the_loop_over_tokens_and_dead_latents(n_dead: int) -> None:
    torch.manual_seed(0)
    residual, pre, w_dec = torch.randn(8, 6), torch.randn(8, 7), torch.randn(7, 6)
    dead = torch.arange(7) < n_dead
    found = kernels.aux_k_loss(residual, pre, dead, w_dec).item()
    assert found == pytest.approx(aux_by_loops(residual, pre, dead, w_dec), rel=1e-5)


def test_aux_k_is_zero_where_no_latent_is_dead() -> None:
    none = torch.zeros(4, dtype=torch.bool)
    loss = kernels.aux_k_loss(torch.randn(3, 2), torch.randn(3, 4), none, torch.randn(4, 2))
    assert loss.item() == 0


def test_aux_k_is_zero_without_bad_gradients_where_the_residual_does_not_vary() -> None:
    pre, w_dec = torch.randn(3, 4, requires_grad=True), torch.randn(4, 2)
    loss = kernels.aux_k_loss(torch.ones(3, 2), pre, torch.ones(4, dtype=torch.bool), w_dec)
    loss.backward()
    assert loss.item() == 0
    assert pre.grad is not None
    assert pre.grad.isfinite().all()


def test_aux_k_reaches_pre_activations_and_decoder_but_not_the_residual() -> None:
    torch.manual_seed(0)
    residual = torch.randn(8, 6, requires_grad=True)
    pre = torch.randn(8, 7, requires_grad=True)
    w_dec = torch.randn(7, 6, requires_grad=True)
    dead = torch.arange(7) < 3
    kernels.aux_k_loss(residual, pre, dead, w_dec).backward()
    assert residual.grad is None
    assert pre.grad is not None
    assert w_dec.grad is not None
    assert (pre.grad.abs().sum(dim=0) > 0).tolist() == dead.tolist()
    assert (w_dec.grad.abs().sum(dim=1) > 0).tolist() == dead.tolist()


def usage_by_formula(pre: Tensor, k: int) -> Tensor:
    threshold = pre.sort(dim=1, descending=True).values[:, k - 1 : k]
    width = kernels.reference.USAGE_WIDTH * pre.var(correction=0).sqrt()
    return (1 / (1 + torch.exp(-(pre - threshold) / width))).mean(dim=0)


def test_usage_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    pre = torch.randn(16, 10)
    usage = usage_by_formula(pre.double(), 3)
    expected = sum(max(0.0, 0.3 - share) ** 2 for share in usage.tolist()) / 10
    assert kernels.usage_loss(pre, 3, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_usage_loss_does_not_depend_on_the_scale_of_the_pre_activations() -> None:
    torch.manual_seed(0)
    pre = torch.randn(16, 10)
    once, scaled = (kernels.usage_loss(factor * pre, 3, 0.3) for factor in (1.0, 100.0))
    torch.testing.assert_close(once, scaled)


def test_usage_loss_pulls_up_exactly_the_latents_below_the_target() -> None:
    torch.manual_seed(0)
    pre = (torch.randn(64, 8) + torch.linspace(-2, 2, 8)).requires_grad_()
    below = usage_by_formula(pre.detach(), 4) < 0.3
    kernels.usage_loss(pre, 4, 0.3).backward()
    assert pre.grad is not None
    assert 0 < below.sum() < 8
    assert (pre.grad <= 0).all()
    assert (pre.grad < 0).any(dim=0).tolist() == below.tolist()


def test_jump_relu_and_mean_l0_have_the_papers_pseudo_derivatives() -> None:
    """Rajamanoharan et al. 2024, arXiv:2407.14435, eqs. 11 and 12, with a rectangular kernel."""
    torch.manual_seed(0)
    pre, threshold = torch.randn(16, 10).requires_grad_(), torch.rand(10).requires_grad_()
    upstream, width = torch.randn(16, 10), 0.7
    kept, passed = torch.zeros(16, 10), torch.zeros(16, 10)
    by_jump, by_count = torch.zeros(10), torch.zeros(10)
    for i in range(16):
        for j in range(10):
            z, theta = pre[i, j].item(), threshold[j].item()
            if z > theta:
                kept[i, j], passed[i, j] = z, upstream[i, j]
            if -0.5 < (z - theta) / width < 0.5:
                by_jump[j] -= theta / width * upstream[i, j]
                by_count[j] -= 1 / width / 16
    latents = kernels.jump_relu(pre, threshold, width)
    count = kernels.mean_l0(pre, threshold, width)
    assert torch.equal(latents, kept)
    assert count.item() == pytest.approx((kept > 0).sum().item() / 16)
    to_pre, to_threshold = torch.autograd.grad(latents, (pre, threshold), upstream)
    assert torch.equal(to_pre, passed)
    torch.testing.assert_close(to_threshold, by_jump)
    none, to_threshold = torch.autograd.grad(count, (pre, threshold), allow_unused=True)
    assert none is None
    torch.testing.assert_close(to_threshold, by_count)


def test_batch_top_k_keeps_the_largest_of_the_whole_batch() -> None:
    """Bussmann et al. 2024, arXiv:2412.06410: a token may have more than k, another none."""
    torch.manual_seed(0)
    pre = torch.randn(8, 10) + torch.linspace(-2, 2, 8)[:, None]
    places = sorted(((i, j) for i in range(8) for j in range(10)), key=lambda at: -pre[at].item())
    kept = torch.zeros(8, 10)
    for at in places[: 3 * 8]:
        kept[at] = pre[at]
    found = kernels.batch_top_k(pre, 3)
    assert torch.equal(found.latents, kept)
    assert found.threshold == pre[places[3 * 8 - 1]]
    assert len({int(count) for count in (kept > 0).sum(dim=1)}) > 2


def test_batch_top_k_breaks_ties_to_the_first_and_drops_negatives() -> None:
    pre = torch.tensor([[2.0, 1.0, 1.0], [1.0, -3.0, -4.0]])
    assert kernels.batch_top_k(pre, 1).latents.tolist() == [[2, 1, 0], [0, 0, 0]]
    assert kernels.batch_top_k(pre, 3).latents.tolist() == [[2, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lr", "beta1", "beta2"), [(1e-3, 0.9, 0.999), (0.1, 0.0, 0.5)])
def test_adam_step_is_torch_adam(dtype: torch.dtype, lr: float, beta1: float, beta2: float) -> None:
    torch.manual_seed(0)
    ours = torch.randn(5, 3, dtype=dtype)
    theirs = ours.clone().requires_grad_()
    moments = Moments(torch.zeros_like(ours), torch.zeros_like(ours))
    optimiser = torch.optim.Adam([theirs], lr=lr, betas=(beta1, beta2), foreach=False)
    for step in range(1, 51):
        gradient = torch.randn(5, 3, dtype=dtype)
        theirs.grad = gradient.clone()
        optimiser.step()
        kernels.reference.adam_step(ours, gradient, moments, step, Adam(lr, beta1, beta2))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_remove_parallel_leaves_a_gradient_tangential_to_unit_rows() -> None:
    torch.manual_seed(0)
    rows, gradient = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    kernels.normalise_rows(rows)
    tangential = gradient.clone()
    kernels.reference.remove_parallel(tangential, rows)
    torch.testing.assert_close((tangential * rows).sum(dim=1), torch.zeros(6).double())
    removed = gradient - tangential
    torch.testing.assert_close(removed, (gradient * rows).sum(dim=1, keepdim=True) * rows)


def test_normalise_rows_leaves_a_row_of_zeros() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    kernels.normalise_rows(rows)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
