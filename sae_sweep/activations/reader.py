"""The interface of every source of activations: identity and rows."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int16, Int32
from torch import Tensor

Split = Literal["train", "validation"]


class Identity(NamedTuple):
    """Identity of a source."""

    d: int
    """Width of the activations."""
    settings: dict[str, Any]
    """The settings that act, for the record; no None."""
    content: Any
    """Checksums of the content, which the fingerprint has in place of paths and names."""
    has_target: bool = False
    """Whether every row comes with a second one, which a transcoder reconstructs."""
    dtype: str = "float32"
    """Precision in which rows are computed."""


class Origins(NamedTuple):
    """Origins of rows in the text; -1 where unknown."""

    token_id: Int32[Tensor, " rows"]
    """In the tokeniser's vocabulary."""
    position: Int32[Tensor, " rows"]
    """Place among the text tokens of the window, those that the tokeniser adds not counted."""
    window: Int32[Tensor, " rows"]
    """Number of the window, the model's input, within the split."""


class Rows(NamedTuple):
    """Consecutive rows of one split."""

    activation: Float[Tensor, "rows d"]
    document: Int32[Tensor, " rows"]
    group: Int16[Tensor, " rows"]
    target: Float[Tensor, "rows d"] | None = None
    """What a transcoder reconstructs, where the source has it."""
    origins: Origins | None = None
    """For sources that know them."""


def joined(pieces: Sequence[Rows]) -> Rows:
    """Concatenate rows."""
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
