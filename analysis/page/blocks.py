"""Parts of a report section: fixed text, tables and computed sentences."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol


class Claim(Protocol):
    """A sentence about this sweep: a frozen dataclass that holds every figure that it tells.

    Only claims say anything about the sweep at hand in words; a section's other texts explain how
    its figures are made. A claim is built from the record that the section's table is built from,
    and its class alone turns it into words, so sentence and table cannot differ.
    """

    @property
    def words(self) -> str:
        """The sentence, as Markdown."""


Block = str | Claim
"""Markdown that stands by itself (a heading, a note, a table, a figure), or a claim."""

Blocks = Sequence[Block]

Section = Callable[..., Blocks]
"""From the study to its blocks, the first a heading; none where it has nothing to say."""


def markdown(blocks: Blocks) -> str:
    """Blocks as Markdown: paragraphs; neighbouring claims as one list."""
    parts: list[str] = []
    for are_texts, group in groupby(blocks, key=lambda block: isinstance(block, str)):
        members = [block if isinstance(block, str) else f"- {block.words}" for block in group]
        parts += members if are_texts else ["\n".join(members)]
    return "\n\n".join(parts)


def record(claim: Claim) -> dict[str, Any]:
    """A claim as plain values: its kind, its fields, its words."""
    fields = vars(claim)
    assert not {"kind", "words", "section"} & fields.keys(), f"{claim} hides its kind"
    return {"kind": type(claim).__name__, **fields, "words": claim.words}
