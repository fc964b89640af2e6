"""From a source to a complete folder of shards, shard by shard."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float64
from torch import Tensor

from sae_sweep.activations.collect import ModelReader
from sae_sweep.activations.disk import remove_abandoned, require_space
from sae_sweep.activations.facts import checksums
from sae_sweep.activations.files import FilesReader
from sae_sweep.activations.manifest import MANIFEST, Manifest, Shard, write_manifest
from sae_sweep.activations.reader import Reader, Rows, Split
from sae_sweep.activations.shards import read_shard, write_shard
from sae_sweep.activations.synthetic import SyntheticReader
from sae_sweep.config import ActivationsConfig, Source
from sae_sweep.errors import BadInput

SHARD_BYTES = 2**26
EQUAL = 1e-6
"""Rows that differ from their mean by less than this share of its norm differ by rounding."""


class Planned(NamedTuple):
    """A shard that is to exist."""

    path: Path
    split: Split
    start: int
    stop: int


def prepare(config: ActivationsConfig, source: Source, outputs: Path) -> Iterator[tuple[int, int]]:
    """Write what is missing of outputs/activations/<fingerprint>/.

    Shards that are there are kept, so a killed run goes on where it was. Several processes may
    prepare one folder: each shard is renamed into place whole, and equal settings give equal rows.

    Yields:
        Rows done, at first those of earlier runs, and rows in all; nothing when all was there.

    Raises:
        BadInput: for a disk too small, too few rows, or rows that cannot be trained on.
    """
    folder = outputs / "activations" / source.fingerprint
    if (folder / MANIFEST).exists():
        return
    plan = _plan(folder, config, source.d)
    missing = [shard for shard in plan if not shard.path.exists()]
    to_do = sum(shard.stop - shard.start for shard in missing)
    require_space(folder, to_do * _row_bytes(source.d))
    reader = _reader(config)
    remove_abandoned(folder)
    total = config.train_tokens + config.validation_tokens
    yield total - to_do, total
    for shard in missing:
        pieces = []
        for rows in reader.read(shard.split, shard.start, shard.stop):
            _check(rows, shard.split, source.d, config)
            pieces.append(rows)
            to_do -= len(rows.activation)
            yield total - to_do, total
        write_shard(shard.path, pieces)
    _complete(folder, plan, source, reader.group_names, outputs)


def disk_bytes(config: ActivationsConfig, d: int) -> int:
    """Size of a complete folder of shards."""
    return (config.train_tokens + config.validation_tokens) * _row_bytes(d)


def _plan(folder: Path, config: ActivationsConfig, d: int) -> list[Planned]:
    """All shards: it follows from the settings and the width alone."""
    rows = max(1, SHARD_BYTES // _row_bytes(d))
    sizes: dict[Split, int] = {"train": config.train_tokens, "validation": config.validation_tokens}
    return [
        Planned(
            folder / f"{split}-{start // rows:05}.safetensors",
            split,
            start,
            min(start + rows, size),
        )
        for split, size in sizes.items()
        for start in range(0, size, rows)
    ]


def _row_bytes(d: int) -> int:
    return 4 * d + 4 + 2


def _reader(config: ActivationsConfig) -> Reader:
    match config.kind:
        case "model":
            return ModelReader(config)
        case "files":
            return FilesReader(config)
        case "synthetic":
            return SyntheticReader(config)
        case _:
            assert_never(config.kind)


def _check(rows: Rows, split: Split, d: int, config: ActivationsConfig) -> None:
    if rows.activation.shape[1] != d:
        raise BadInput(
            f"activations.d={d}, but activations.hook={config.hook} gives "
            f"{rows.activation.shape[1]}: set activations.d={rows.activation.shape[1]}"
        )
    if not rows.activation.isfinite().all():
        raise BadInput(
            f"{config.kind} activations: NaN or infinity in the {split} rows of documents "
            f"{rows.document[0]} to {rows.document[-1]}: choose another source or layer, or drop "
            "such rows"
        )


def _complete(
    folder: Path, plan: list[Planned], source: Source, group_names: list[str], outputs: Path
) -> None:
    """Write the manifest of a folder whose shards are all there."""
    mean, scale = _normalisation([shard.path for shard in plan if shard.split == "train"], source.d)
    with checksums(outputs) as checksum:
        shards = [
            Shard(
                name=shard.path.name,
                split=shard.split,
                rows=shard.stop - shard.start,
                size=shard.path.stat().st_size,
                sha256=checksum(shard.path),
            )
            for shard in plan
        ]
    manifest = Manifest(
        fingerprint=source.fingerprint,
        settings=source.settings,
        d=source.d,
        mean=mean.tolist(),
        scale=scale,
        group_names=group_names,
        shards=shards,
    )
    write_manifest(folder, manifest)


def _normalisation(paths: list[Path], d: int) -> tuple[Float64[Tensor, " d"], float]:
    """Mean of all rows, and the factor that makes the mean norm of centred ones sqrt(d)."""
    n, mean, mean_norm = 0, torch.zeros(d, dtype=torch.float64), 0.0
    for x in (read_shard(path).activation for path in paths):
        n += len(x)
        mean += x.sum(0, dtype=torch.float64)
    mean /= n
    for x in (read_shard(path).activation for path in paths):
        mean_norm += float((x - mean).norm(dim=1).sum()) / n
    if mean_norm <= EQUAL * float(mean.norm()):
        raise BadInput(
            f"all {n} training activations are equal: choose another source, layer or position"
        )
    return mean, math.sqrt(d) / mean_norm
