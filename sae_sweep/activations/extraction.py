"""Extraction of shards, of one source or of several that one forward pass serves."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from sae_sweep.activations.collect import ModelReader
from sae_sweep.activations.files import FilesReader
from sae_sweep.activations.plan import Planned, Wanted
from sae_sweep.activations.reader import Reader, Rows, Split, joined
from sae_sweep.activations.shards import write_shard
from sae_sweep.activations.synthetic import SyntheticReader
from sae_sweep.disk import claimed
from sae_sweep.errors import BadInput, BadRows

LARGEST_HALF = 65504.0
WRITTEN_AT_ONCE = 4
"""Shards of several sources."""


class Extraction:
    """Computes and writes shards that no other process is writing."""

    def __init__(self, wanted: Sequence[Wanted], outputs: Path) -> None:
        """Plan the rows; a model is loaded when the first shard is computed.

        Args:
            wanted: sources that one pass serves.
            outputs: folder below which all lies.

        Raises:
            BadInput: for a source with too few rows, or one that cannot be read.
        """
        self._wanted = wanted
        self._folders = [one.folder(outputs) for one in wanted]
        self._locks = outputs / "cache" / "locks"
        self._reader = _reader(wanted, outputs)

    @property
    def group_names(self) -> list[str]:
        """Names of the groups of rows."""
        return self._reader.group_names

    def lacking(self, shard: Planned) -> list[int]:
        """Numbers of the sources of which a shard is missing."""
        return [n for n, one in enumerate(self._folders) if not (one / shard.name).exists()]

    def compute(self, shard: Planned, sources: Sequence[int]) -> Iterator[int]:
        """Write a shard of the sources that lack it, unless another process is writing it.

        Yields:
            Rows read so far; nothing where there is nothing to write.

        Raises:
            BadRows: for rows that cannot be trained on or stored.
            BadInput: for a source that cannot be read, or rows of another width.
        """
        with ExitStack() as held:
            mine = [
                number
                for number in sources
                if held.enter_context(claimed(self._lock(number, shard)))
            ]
            # another process may have written it before it was claimed
            lacking = self.lacking(shard)
            mine = [number for number in mine if number in lacking]
            if not mine:
                return
            done, pieces = 0, []
            for piece in self._reader.read(shard.split, shard.start, shard.stop, mine):
                stored = [
                    _stored(rows, shard.split, self._wanted[number])
                    for number, rows in zip(mine, piece, strict=True)
                ]
                pieces.append(stored)
                done += len(stored[0].activation)
                yield done
            paths = [self._folders[number] / shard.name for number in mine]
            rows = map(joined, zip(*pieces, strict=True))
            with ThreadPoolExecutor(WRITTEN_AT_ONCE) as pool:  # a disk is waited for
                list(pool.map(write_shard, paths, rows))

    def _lock(self, number: int, shard: Planned) -> Path:
        return self._locks / self._folders[number].name / shard.name


def _reader(wanted: Sequence[Wanted], outputs: Path) -> Reader:
    config = wanted[0].config
    match config.kind:
        case "model":
            return ModelReader([one.config for one in wanted], outputs)
        case "files":
            return FilesReader(config)
        case "synthetic":
            return SyntheticReader(config)
        case _:
            assert_never(config.kind)


def _stored(rows: Rows, split: Split, one: Wanted) -> Rows:
    """Rows in the precision that shards keep, checked."""
    config, d = one.config, one.source.d
    if rows.activation.shape[1] != d:
        raise BadInput(
            f"activations.d={d}, but activations.hook={config.hook} gives "
            f"{rows.activation.shape[1]}: set activations.d={rows.activation.shape[1]}"
        )
    if rows.target is not None and rows.target.shape[1] != d:
        raise BadInput(
            f"activations.target_hook={config.target_hook} gives {rows.target.shape[1]} dimensions "
            f"and activations.hook={config.hook} {d}: a transcoder needs two hooks of one width"
        )
    where = f"the {split} rows of documents {rows.document[0]} to {rows.document[-1]}"

    def cast(values: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        # one number that is not finite makes the sum so, a sum too large is looked at again
        if not values.sum().isfinite() and not values.isfinite().all():
            raise BadRows(
                f"{config.kind} activations: {_not_finite(values, rows)} in {where}: choose "
                "another source or layer, or drop such rows"
            )
        if one.source.dtype == "float16" and (over := int((values.abs() > LARGEST_HALF).sum())):
            raise BadRows(
                f"activations.dtype=float16: {over} of {values.numel()} values in {where} exceed "
                f"{LARGEST_HALF:g}, the largest that it holds: use activations.dtype=bfloat16"
            )
        return values.to(getattr(torch, one.source.dtype))

    target = None if rows.target is None else cast(rows.target)
    return rows._replace(activation=cast(rows.activation), target=target)


def _not_finite(values: Float[Tensor, "rows d"], rows: Rows) -> str:
    """Describe the non-finite values and the place of the first."""
    wrong = ~values.isfinite().all(dim=1)
    kinds = [
        f"{name} in {n} rows"
        for name, found in (("NaN", values.isnan()), ("infinity", values.isinf()))
        if (n := int(found.any(dim=1).sum()))
    ]
    return f"{' and '.join(kinds)}, first of document {int(rows.document[wrong][0])},"
