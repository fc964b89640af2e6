"""The order of rows as the device finds it: that of the host."""

import pytest
import torch

from sae_sweep.activations.order import rows_between
from sae_sweep.kernels.fused.order import find_order


@pytest.mark.parametrize("n", [1, 2, 7, 600, 5978])
def test_the_devices_order_is_the_hosts(n: int) -> None:
    steps, batch = 3, 20
    seeds, begins = torch.tensor([0, 5, 2**31, 5]), torch.tensor([0, 7, 1000, 2**33])
    order = torch.full((steps + 1, 8, batch), -7, dtype=torch.int32)
    find_order(seeds, begins, order, (steps, len(seeds), n))
    for stream, (seed, begin) in enumerate(zip(seeds.tolist(), begins.tolist(), strict=True)):
        expected = rows_between(seed, begin * batch, (begin + steps) * batch, n)
        assert torch.equal(order[:steps, stream].flatten().long(), expected)
    assert (order[steps:] == -7).all()
    assert (order[:, len(seeds) :] == -7).all()
