"""Selection proposed in bfloat16 and ranked exactly, against selection in full precision."""

import pytest
import torch
from torch import Tensor

from sae_sweep.kernels import SparseLatents, cpu, reference
from sae_sweep.kernels.cpu import latents as selection

N, D, M = 2048, 96, 1024


def activations(seed: int) -> Tensor:
    """Rows as language models have them: a falling spectrum, heavy tails, two huge dimensions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    sizes = torch.arange(1, D + 1).pow(-0.7)
    tails = torch.randn(N, 1, generator=generator).mul(0.5).exp()
    rows = (torch.randn(N, D, generator=generator) * sizes * tails) @ directions
    rows[:, [3, 17]] *= 20
    return rows * (D**0.5 / rows.norm(dim=1).mean())


def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and biases that lie along the data, many of them close to another."""
    generator = torch.Generator().manual_seed(1)
    rows = x[torch.randint(N, (M,), generator=generator)]
    rows = rows / rows.norm(dim=1, keepdim=True) + 0.05 * torch.randn(M, D, generator=generator)
    reference.normalise_rows(rows)
    return rows, 0.1 * torch.randn(M, generator=generator)


def pairs(latents: SparseLatents) -> set[tuple[int, int]]:
    """The token and the latent of every positive activation."""
    return {
        (token, latent)
        for token, row in enumerate(zip(*(part.tolist() for part in latents), strict=True))
        for value, latent in zip(*row, strict=True)
        if value > 0
    }


def recall(k: int) -> float:
    """Share of what full precision selects that is selected."""
    x = activations(0)
    weights = encoder(x)
    wanted = pairs(cpu.encode(x, *weights, k))
    assert len(wanted) > N * k / 2
    return len(wanted & pairs(cpu.encode(x, *weights, k, bf16_select=True))) / len(wanted)


@pytest.mark.parametrize("k", [5, 32, 100])
def test_what_full_precision_selects_is_selected(k: int) -> None:
    assert recall(k) >= 0.9999


def test_without_a_margin_bfloat16_would_miss_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "margin", lambda k: 0)
    assert recall(32) < 0.999


@pytest.mark.parametrize(("n", "m", "k"), [(1, 40, 1), (7, 65, 11), (9, 1024, 3)])
@pytest.mark.parametrize("shift", [0.0, -4.0])
def test_values_are_exact_pre_activations_and_the_largest(
    n: int, m: int, k: int, shift: float
) -> None:
    torch.manual_seed(0)
    centred, w_enc, b_enc = torch.randn(n, 12), torch.randn(m, 12), torch.randn(m) + shift
    assert k + selection.margin(k) < m
    found = cpu.encode(centred, w_enc, b_enc, k, bf16_select=True)
    pre = centred.double() @ w_enc.double().T + b_enc.double()
    expected = reference.top_k(pre, k)
    assert pairs(found) == pairs(expected)
    assert (found.indices.diff(dim=1) > 0).all()
    torch.testing.assert_close(found.values, pre.gather(1, found.indices).relu().float())


def test_exact_ties_go_to_the_lowest_index() -> None:
    torch.manual_seed(0)
    centred, rows = torch.randn(50, 12), torch.randn(12, 12)
    w_enc, b_enc = rows.repeat(4, 1), torch.zeros(48)
    found = cpu.encode(centred, w_enc, b_enc, 5, bf16_select=True)
    expected = reference.top_k(centred @ rows.T, 12)
    for indices, values, order in zip(found.indices, found.values, expected.indices, strict=True):
        by_value = [latent + 12 * copy for latent in order.tolist() for copy in range(4)]
        assert set(indices[values > 0].tolist()) <= set(by_value[:5])


def test_all_latents_in_reach_are_ranked_in_full_precision() -> None:
    torch.manual_seed(0)
    centred, w_enc, b_enc = torch.randn(30, 8), torch.randn(20, 8), torch.randn(20)
    assert 12 + selection.margin(12) >= 20
    found = cpu.encode(centred, w_enc, b_enc, 12, bf16_select=True)
    for part, expected in zip(found, cpu.encode(centred, w_enc, b_enc, 12), strict=True):
        assert torch.equal(part, expected)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    centred, w_enc, b_enc = torch.randn(23, 6), torch.randn(70, 6), torch.randn(70)
    expected = cpu.encode(centred, w_enc, b_enc, 4, bf16_select=True)
    monkeypatch.setattr(selection, "CHUNK_ENTRIES", 2 * 70)
    found = cpu.encode(centred, w_enc, b_enc, 4, bf16_select=True)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.values, expected.values)


def test_nan_is_selected_and_stays() -> None:
    torch.manual_seed(0)
    centred, w_enc, b_enc = torch.randn(5, 6), torch.randn(70, 6), torch.zeros(70)
    w_enc[9, 2] = torch.nan
    found = cpu.encode(centred, w_enc, b_enc, 4, bf16_select=True)
    assert (found.indices == 9).any(dim=1).all()
    assert found.values.isnan().any(dim=1).all()
