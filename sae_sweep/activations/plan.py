"""The shards of a source, planned from its settings and the width of its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sae_sweep.activations.reader import Origins, Split
from sae_sweep.config import ActivationsConfig, Source
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical

SHARD_BYTES = 2**26
READING = {"layer", "hook", "target_layer", "target_hook", "d"}
"""Settings that say where a model is read."""
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LABEL_BYTES = 4 + 2
"""Document and group of a row."""
ORIGIN_BYTES = 4 * len(Origins._fields)


class Wanted(NamedTuple):
    """Activations that are needed."""

    asked: ActivationsConfig
    """The settings as they are given."""
    source: Source

    @property
    def config(self) -> ActivationsConfig:
        """The settings, a model in the precision that the source is identified by.

        What activations.model_dtype=auto means differs between machines with and without a GPU.
        """
        if self.asked.kind != "model" or self.asked.model_dtype != "auto":
            return self.asked
        settled = self.source.settings.get("model_dtype", "float32")
        return self.asked.model_copy(update={"model_dtype": settled})

    def folder(self, outputs: Path) -> Path:
        """Where its shards lie."""
        return outputs / "activations" / self.source.fingerprint


class Planned(NamedTuple):
    """A planned shard."""

    name: str
    split: Split
    start: int
    """First row."""
    stop: int
    """After the last row."""

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


def shards(one: Wanted, split: Split) -> list[Planned]:
    """All shards of a split, in the order of their rows."""
    config, rows = one.config, shard_rows(one)
    size = config.train_tokens if split == "train" else config.validation_tokens
    return [
        Planned(f"{split}-{start // rows:05}.safetensors", split, start, min(start + rows, size))
        for start in range(0, size, rows)
    ]


def shard_rows(one: Wanted) -> int:
    """Rows of a shard."""
    rows = max(1, SHARD_BYTES // row_bytes(one.source))
    return min(rows, one.config.window_rows or rows) if one.config.windowed else rows


def window_rows(one: Wanted) -> int:
    """Training rows that are shuffled among each other: whole shards, or the whole set."""
    if not one.config.windowed:
        return one.config.train_tokens
    assert one.config.window_rows is not None
    rows = shard_rows(one)
    return one.config.window_rows // rows * rows


def window_shards(one: Wanted, window: int) -> list[Planned]:
    """The training shards of a window."""
    count = -(-window_rows(one) // shard_rows(one))
    return shards(one, "train")[window * count : (window + 1) * count]


def row_bytes(source: Source) -> int:
    """Bytes of a row in its shard, origins not counted."""
    values = source.d * (2 if source.has_target else 1)
    return VALUE_BYTES[source.dtype] * values + LABEL_BYTES


def stored_bytes(one: Wanted, rows: int) -> int:
    """Bytes of rows on disk, with their origins."""
    origins = ORIGIN_BYTES if one.config.kind == "model" else 0
    return rows * (row_bytes(one.source) + origins)


def cache_bytes(one: Wanted) -> int | None:
    """Bytes that the training shards may take; None where all of them may stay."""
    if one.config.cache_gb is None:
        return None
    bound = int(one.config.cache_gb * 1e9)
    return bound if bound < stored_bytes(one, one.config.train_tokens) else None


def require_two_windows(one: Wanted) -> None:
    """Check that what training reads at a time fits into the cache.

    Raises:
        BadInput: with what does.
    """
    bound, rows = cache_bytes(one), window_rows(one)
    each = stored_bytes(one, rows)
    if bound is not None and bound < 2 * each:
        raise BadInput(
            f"activations.cache_gb={one.config.cache_gb:g} holds {bound / each:.2g} windows of "
            f"{rows:,} training rows, and a batch may lie in two: raise it to "
            f"{2 * each / 1e9:.3g}, or lower activations.window_rows={one.config.window_rows}"
        )


def passes(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Group sources so that one pass of the model serves each group.

    They are of one model over one text and differ only in where it is read; their rows are equally
    large, so that their shards begin at the same rows.
    """
    groups: dict[str, list[Wanted]] = {}
    for one in wanted:
        if one.config.kind == "model":
            shared = one.config.model_dump(exclude=READING)
            key = canonical([shared, row_bytes(one.source)])
        else:
            key = one.source.fingerprint
        groups.setdefault(key, []).append(one)
    return list(groups.values())
