"""What every source of activations gives: its identity at once, its rows when asked."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int16, Int32
from torch import Tensor

Split = Literal["train", "validation"]


class Identity(NamedTuple):
    """What tells one source from another."""

    d: int
    """Width of the activations."""
    settings: dict[str, Any]
    """The settings that act, for the record; no None."""
    content: Any
    """Checksums and the like: stands in the fingerprint in place of paths and names."""
    has_target: bool = False
    """Whether every row comes with a second one, which a transcoder reconstructs."""
    dtype: str = "float32"
    """What rows are computed in."""


class Origins(NamedTuple):
    """Where rows come from in the text; -1 where there is no such number."""

    token_id: Int32[Tensor, " rows"]
    """In the tokeniser's vocabulary."""
    position: Int32[Tensor, " rows"]
    """Place among the text tokens of the window, those that the tokeniser adds not counted."""
    window: Int32[Tensor, " rows"]
    """Number of the window, the model's input, within the split."""


class Rows(NamedTuple):
    """A run of rows of one split."""

    activation: Float[Tensor, "rows d"]
    document: Int32[Tensor, " rows"]
    group: Int16[Tensor, " rows"]
    target: Float[Tensor, "rows d"] | None = None
    """What a transcoder reconstructs, where the source has it."""
    origins: Origins | None = None
    """For sources that know them."""


def joined(pieces: Sequence[Rows]) -> Rows:
    """Put runs of rows one after the other."""
    activation, document, group, target, origins = zip(*pieces, strict=True)
    return Rows(
        torch.cat(activation),
        torch.cat(document),
        torch.cat(group),
        None if target[0] is None else torch.cat(target),
        None if origins[0] is None else Origins(*map(torch.cat, zip(*origins, strict=True))),
    )


@runtime_checkable
class Reader(Protocol):
    """A source that is ready to be read, or several that one pass of a model serves."""

    group_names: list[str]
    """Name of group 0, 1, ..."""

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop of a split in order, in pieces; equal calls, equal rows.

        Args:
            split: whose rows.
            start: first row.
            stop: after the last row.
            sources: which of the reader's sources; a piece has the rows of each, in this order.
        """
