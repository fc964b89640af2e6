"""The choice between sparse and dense: what was measured decides."""

import pytest
import torch

from sae_sweep.kernels import SparseLatents, cpu
from sae_sweep.kernels.cpu import forms
from sae_sweep.kernels.cpu.gradients import Pairs


def test_a_measured_shape_takes_the_form_that_was_faster() -> None:
    for timing in forms.timings():
        assert forms.is_sparse_faster(*timing[:4]) == (timing.sparse < timing.dense)


def test_the_table_holds_both_forms_and_no_shape_twice() -> None:
    assert {timing.sparse < timing.dense for timing in forms.timings()} == {True, False}
    assert len({timing[:4] for timing in forms.timings()}) == len(forms.timings())


@pytest.mark.parametrize(("k", "sparse"), [(1, True), (32, True), (3000, False), (3072, False)])
def test_a_shape_between_takes_the_nearest_density(k: int, sparse: bool) -> None:
    assert forms.is_sparse_faster(400, 3072, k, 1000) == sparse


@pytest.mark.parametrize("sparse", [True, False])
def test_a_form_changes_how_latents_are_written_not_what_they_are(
    sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "is_sparse_faster", lambda *shape: sparse)
    torch.manual_seed(0)
    dense, w_dec = torch.randn(6, 12).relu(), torch.randn(12, 5)
    packed = cpu.compact(dense, cpu.count_active(dense), 5)
    assert isinstance(packed, Pairs) == sparse
    torch.testing.assert_close(cpu.decode(packed, w_dec), dense @ w_dec)
    chosen = cpu.top_k(dense, 4)
    written = cpu.in_form(chosen, w_dec)
    assert isinstance(written, SparseLatents) == sparse
    torch.testing.assert_close(cpu.decode(written, w_dec), cpu.decode(chosen, w_dec))


def test_latents_that_are_all_zero_can_be_packed() -> None:
    packed = cpu.compact(torch.zeros(3, 64), torch.zeros(3), 5)
    assert isinstance(packed, Pairs)
    assert len(packed.values) == 0
    assert torch.equal(cpu.decode(packed, torch.ones(64, 5)), torch.zeros(3, 5))


def test_tokens_may_have_as_many_active_latents_as_they_like() -> None:
    torch.manual_seed(0)
    dense = torch.randn(9, 40).relu()
    dense[1:] *= torch.rand(8, 40) < 0.1  # one token has ten times as many as the others
    dense[4] = 0
    upstream, centred, w_dec = torch.randn(9, 5), torch.randn(9, 5), torch.randn(40, 5)
    packed = cpu.compact(dense, cpu.count_active(dense), 5, "sparse")
    assert isinstance(packed, Pairs)
    assert len(packed.values) == (dense > 0).sum()
    torch.testing.assert_close(cpu.decode(packed, w_dec), dense @ w_dec)
    l1_weight = torch.rand(40)
    expected = cpu.gradients(dense, upstream, centred, w_dec, l1_weight)
    found = cpu.gradients(packed, upstream, centred, w_dec, l1_weight)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    filled = SparseLatents(dense, torch.arange(40).repeat(9, 1))
    assert torch.equal(cpu.decode(filled, w_dec), cpu.decode(packed, w_dec))
    for ours, theirs in zip(
        cpu.gradients(filled, upstream, centred, w_dec, l1_weight), found, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_what_is_not_a_number_is_not_taken_for_a_zero() -> None:
    latents = SparseLatents(
        torch.tensor([[torch.nan, 0.0], [1.0, 2.0]]), torch.tensor([[3, 0]] * 2)
    )
    assert cpu.decode(latents, torch.ones(4, 2))[0].isnan().all()
    found = cpu.gradients(latents, torch.ones(2, 2), torch.ones(2, 2), torch.ones(4, 2))
    assert found.w_dec[3].isnan().all()
