"""The largest of a member's batch, found in its pages, as the reference finds them."""

import pytest
import torch
from packed import DENSE, IDLE, NAN, PAGE, Packed, Trial, pack, poisoned
from torch import Tensor

from sae_sweep.kernels import reference
from sae_sweep.kernels.fused.batch_select import batch_select

pytestmark = pytest.mark.slow

TOKENS = 5
TRIALS = [
    Trial(37, 3, seed=1),
    Trial(5, 2, IDLE, seed=2),
    Trial(70, 9, DENSE, seed=4),
    Trial(33, 1, seed=6),
]


def found(packed: Packed, given: list[Tensor], selecting: list[int]) -> list[Tensor]:
    """What each member chooses, by its own latents: the activations, zeros included."""
    rows = len(packed.table.silent_tokens)
    pre = torch.full((TOKENS, rows), NAN)
    for mine, values in zip(packed.rows, given, strict=True):
        last = mine[-1] // PAGE * PAGE + PAGE
        pre[:, mine[-1] : last] = -torch.inf  # rows that are no latents
        pre[:, mine] = values
    largest = pre.view(TOKENS, -1, PAGE).amax(dim=2)
    members = len(packed.trials)
    batch_k = torch.tensor([one.k for one in packed.trials], dtype=torch.int32)
    settings = packed.settings._replace(batch_k=batch_k)
    threshold = poisoned(members, TOKENS)
    last_tie = poisoned(members, TOKENS, dtype=torch.int32)
    smallest = poisoned(members)
    batch_select(packed.table, settings, pre, largest, threshold, last_tie, smallest)
    chosen = []
    for slot, mine in enumerate(packed.rows):
        if slot not in selecting:
            assert smallest[slot].isnan()
            chosen.append(torch.zeros_like(given[slot]))
            continue
        assert (threshold[slot] == smallest[slot]).all()
        value = pre[:, mine]
        ties = (value == smallest[slot]) & (value > 0) & (mine <= last_tie[slot][:, None])
        above = (value > smallest[slot]) & (value > 0)
        chosen.append(torch.where(above | ties, value, 0.0))
    return chosen


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        lambda values: values.round(),  # ties, over tokens and within them
        lambda values: torch.full_like(values, 0.5),
        lambda values: values - 2,  # fewer are positive than are wanted
        lambda values: -values.abs(),
        lambda values: values * 1e-42,  # denormal
        lambda values: values * 1e30,
    ],
)
def test_the_choice_is_the_references(change) -> None:
    packed = pack(TRIALS, 4)
    make = torch.Generator().manual_seed(3)
    given = [change(torch.randn(TOKENS, one.n, generator=make)) for one in TRIALS]
    selecting = [0, 2, 3]
    chosen = found(packed, given, selecting)
    for slot in selecting:
        wanted = reference.batch_top_k(given[slot], TRIALS[slot].k).latents
        assert torch.equal(chosen[slot], wanted)
    alone = found(pack([TRIALS[2]], 4), [given[2]], [0])
    assert torch.equal(alone[0], chosen[2])
