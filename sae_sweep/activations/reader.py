"""What every source of activations gives: its identity at once, its rows when asked."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float32, Int16, Int32
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


class Rows(NamedTuple):
    """A run of rows of one split."""

    activation: Float32[Tensor, "rows d"]
    document: Int32[Tensor, " rows"]
    group: Int16[Tensor, " rows"]


@runtime_checkable
class Reader(Protocol):
    """A source that is ready to be read."""

    group_names: list[str]
    """Name of group 0, 1, ..."""

    def read(self, split: Split, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows start to stop of a split in order, in pieces; equal calls, equal rows."""
