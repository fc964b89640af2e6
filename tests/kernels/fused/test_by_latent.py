"""The order of activations against a loop over tokens."""

import pytest
import torch

from sae_sweep.kernels.fused.by_latent import BLOCK, by_latent


@pytest.mark.parametrize(
    ("members", "tokens", "capacity", "n_rows"),
    [(1, 1, 1, 1), (2, 5, 3, 32), (1, BLOCK // 2, 3, 5), (2, 3, 0, 16)],
)
def test_activations_are_ordered_by_row_then_by_token(
    members: int, tokens: int, capacity: int, n_rows: int
) -> None:
    torch.manual_seed(0)
    choices = torch.rand(members, tokens, n_rows + capacity).argsort(dim=2)[:, :, :capacity]
    rows = choices.clamp(max=n_rows).sort(dim=2).values.int()
    values = torch.rand(rows.shape).where(rows < n_rows, 0.0)
    found = by_latent(rows, values, n_rows)
    lists: list[list[tuple[int, float]]] = [[] for _ in range(n_rows + 1)]
    flat = rows.view(members * tokens, capacity).tolist(), values.view(members * tokens, capacity)
    for token, (of_token, with_values) in enumerate(zip(flat[0], flat[1].tolist(), strict=True)):
        for row, value in zip(of_token, with_values, strict=True):
            lists[row].append((token, value))
    expected = [entry for entries in lists for entry in entries]
    assert list(zip(found.tokens.tolist(), found.values.tolist(), strict=True)) == expected
    ends = torch.tensor([len(entries) for entries in lists]).cumsum(0)
    assert found.start.tolist() == [0, *ends.tolist()[:-1]]
    assert found.rows.tolist() == [row for row, entries in enumerate(lists) for _ in entries]
    assert found.tokens.dtype == found.start.dtype == torch.int32


def test_a_latent_of_every_token_and_one_of_none() -> None:
    rows = torch.tensor([[[1, 3], [1, 4], [1, 4]]], dtype=torch.int32)
    values = torch.tensor([[[0.1, 0.2], [0.3, 0.0], [0.4, 0.0]]])
    found = by_latent(rows, values, 4)
    assert found.start.tolist() == [0, 0, 3, 3, 4]
    assert found.tokens.tolist()[:4] == [0, 1, 2, 0]
    torch.testing.assert_close(found.values, torch.tensor([0.1, 0.3, 0.4, 0.2, 0.0, 0.0]))
