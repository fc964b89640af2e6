import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_sweep.activations.stacked import Stacked


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), data=st.data())
def test_taking_rows_equals_indexing_the_concatenation(
    sizes: list[int], data: st.DataObject
) -> None:
    parts = [torch.rand(size, 3) for size in sizes]
    whole = torch.cat(parts)
    place = st.integers(0, len(whole) - 1)
    indices = torch.tensor(data.draw(st.lists(place, max_size=20)), dtype=torch.int64)
    stacked = Stacked.of(parts)
    assert len(stacked) == len(whole)
    assert torch.equal(stacked.take(indices), whole[indices])
    start, stop = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    assert torch.equal(stacked.slice(start, stop), whole[start:stop])


def test_taken_rows_are_a_copy() -> None:
    part = torch.zeros(4, 2)
    Stacked.of([part]).take(torch.tensor([1, 2])).fill_(1.0)
    assert not part.any()
