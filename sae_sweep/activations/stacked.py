"""Tensors on disk, read as one."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


class Stacked:
    """Parts concatenated along the first dimension, without a copy."""

    def __init__(
        self, part: Callable[[int], Shaped[Tensor, "_ ..."]], sizes: Sequence[int]
    ) -> None:
        """Stack memory-mapped tensors of equal type and width.

        Args:
            part: gives one by its number, when it is read.
            sizes: their rows.
        """
        self._part = part
        self._ends = torch.tensor(list(accumulate(sizes)))
        self._sizes = sizes

    @classmethod
    def of(cls, parts: Sequence[Shaped[Tensor, "_ ..."]]) -> "Stacked":
        """Stack tensors that are all at hand."""
        return cls(parts.__getitem__, [len(part) for part in parts])

    def __len__(self) -> int:
        """Rows of all parts."""
        return int(self._ends[-1])

    def take(self, indices: Int64[Tensor, " n"]) -> Shaped[Tensor, "n ..."]:
        """Copy the rows at `indices`, in their order; nothing else is read."""
        numbers = torch.searchsorted(self._ends, indices.contiguous(), right=True)
        wanted = sorted(set(numbers.tolist())) or [0]
        parts = {number: self._part(number) for number in wanted}
        first = parts[wanted[0]]
        rows = first.new_empty((len(indices), *first.shape[1:]))
        for number, part in parts.items():
            places = (numbers == number).nonzero()[:, 0]
            rows[places] = part[indices[places] - (self._ends[number] - len(part))]
        return rows

    def slice(self, start: int, stop: int) -> Shaped[Tensor, "n ..."]:
        """Copy rows start to stop; fewer where the end comes first, as for a list."""
        return self.take(torch.arange(start, max(start, min(stop, len(self)))))
