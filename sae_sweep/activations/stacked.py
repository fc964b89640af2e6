"""Tensors on disk, read as if they were one."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


class Stacked:
    """Parts that follow each other along the first dimension and stay where they are."""

    def __init__(self, parts: Sequence[Shaped[Tensor, "_ ..."]]) -> None:
        """Stack memory-mapped tensors of equal type and width."""
        self._parts = parts
        self._ends = torch.tensor(list(accumulate(len(part) for part in parts)))

    def __len__(self) -> int:
        """Rows of all parts."""
        return int(self._ends[-1])

    def take(self, indices: Int64[Tensor, " n"]) -> Shaped[Tensor, "n ..."]:
        """Copy the rows at `indices`, in their order; nothing else is read."""
        numbers = torch.searchsorted(self._ends, indices.contiguous(), right=True)
        rows = self._parts[0].new_empty((len(indices), *self._parts[0].shape[1:]))
        for number in sorted(set(numbers.tolist())):
            part = self._parts[number]
            places = (numbers == number).nonzero()[:, 0]
            rows[places] = part[indices[places] - (self._ends[number] - len(part))]
        return rows

    def slice(self, start: int, stop: int) -> Shaped[Tensor, "n ..."]:
        """Copy rows start to stop; fewer where the end comes first, as for a list."""
        return self.take(torch.arange(start, max(start, min(stop, len(self)))))
