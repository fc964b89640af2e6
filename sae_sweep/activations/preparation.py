"""From a source to a complete folder of shards, shard by shard."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sae_sweep.activations.collect import ModelReader
from sae_sweep.activations.disk import claimed, remove_abandoned, require_space
from sae_sweep.activations.facts import checksums
from sae_sweep.activations.files import FilesReader
from sae_sweep.activations.manifest import MANIFEST, Manifest, Shard, write_manifest
from sae_sweep.activations.reader import Reader, Rows, Split, joined
from sae_sweep.activations.shards import read_shard, write_shard
from sae_sweep.activations.synthetic import SyntheticReader
from sae_sweep.config import ActivationsConfig, Source
from sae_sweep.errors import BadInput
from sae_sweep.records import canonical

SHARD_BYTES = 2**26
SECONDS_BETWEEN_LOOKS = 0.2
"""How often shards that other processes compute are looked for."""
READING = ("layer", "hook", "target_layer", "target_hook", "d")
"""Settings that say where a model is read."""
EQUAL = 1e-6
"""Rows that differ from their mean by less than this share of its norm differ by rounding."""


class Wanted(NamedTuple):
    """Activations that are to exist."""

    config: ActivationsConfig
    source: Source


class Planned(NamedTuple):
    """A shard that is to exist."""

    name: str
    split: Split
    start: int
    stop: int


def passes(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Group sources so that one pass of the model serves each group.

    They are of one model over one text and differ only in where it is read; their rows are equally
    large, so that their shards begin at the same rows.
    """
    groups: dict[str, list[Wanted]] = {}
    for one in wanted:
        if one.config.kind == "model":
            shared = one.config.model_dump(exclude=set(READING))
            key = canonical([shared, _row_bytes(one.source)])
        else:
            key = one.source.fingerprint
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def prepare(wanted: Sequence[Wanted], outputs: Path) -> Iterator[tuple[int, int]]:
    """Write what is missing of outputs/activations/<fingerprint>/ of the sources of one pass.

    Shards that are there are kept, so a killed run goes on where it was. Several processes may
    prepare one folder: each computes shards that no other is at work on, and equal settings give
    equal rows.

    Yields:
        Rows done, at first those of earlier runs, and rows in all; nothing when all was there.

    Raises:
        BadInput: for a disk too small, too few rows, or rows that cannot be trained on.
    """
    wanted = [one for one in wanted if not (_folder(one, outputs) / MANIFEST).exists()]
    if not wanted:
        return
    folders = [_folder(one, outputs) for one in wanted]
    plan = _plan(wanted[0])
    need = [
        (shard.stop - shard.start) * _row_bytes(one.source)
        for one, folder in zip(wanted, folders, strict=True)
        for shard in plan
        if not (folder / shard.name).exists()
    ]
    require_space(folders[0], sum(need))
    reader = _reader([one.config for one in wanted])
    for folder in folders:
        remove_abandoned(folder)
    total = sum(shard.stop - shard.start for shard in plan)
    locks = outputs / "cache" / "locks"
    while left := [shard for shard in plan if _lacking(shard, folders)]:
        done = total - sum(shard.stop - shard.start for shard in left)
        yield done, total
        for shard in left:
            with ExitStack() as held:
                mine = [
                    number
                    for number in _lacking(shard, folders)
                    if held.enter_context(claimed(locks / folders[number].name / shard.name))
                ]
                # another process may have written it since
                mine = [number for number in mine if number in _lacking(shard, folders)]
                if mine:
                    for rows in _compute(reader, shard, wanted, mine, folders):
                        yield done + rows, total
                    break
        else:  # others are at work on all of them
            time.sleep(SECONDS_BETWEEN_LOOKS)
    yield total, total
    for one, folder in zip(wanted, folders, strict=True):
        _complete(folder, plan, one.source, reader.group_names, outputs)


def _lacking(shard: Planned, folders: Sequence[Path]) -> list[int]:
    """Numbers of the folders in which a shard is missing."""
    return [n for n, folder in enumerate(folders) if not (folder / shard.name).exists()]


def _compute(
    reader: Reader,
    shard: Planned,
    wanted: Sequence[Wanted],
    numbers: Sequence[int],
    folders: Sequence[Path],
) -> Iterator[int]:
    """Write a shard of some of the reader's sources; yields rows read."""
    pieces: list[list[Rows]] = []
    done = 0
    for piece in reader.read(shard.split, shard.start, shard.stop, numbers):
        for number, rows in zip(numbers, piece, strict=True):
            _check(rows, shard.split, wanted[number])
        pieces.append(piece)
        done += len(piece[0].activation)
        yield done
    for number, parts in zip(numbers, zip(*pieces, strict=True), strict=True):
        write_shard(folders[number] / shard.name, joined(parts))


def disk_bytes(one: Wanted) -> int:
    """Size of a complete folder of shards."""
    return (one.config.train_tokens + one.config.validation_tokens) * _row_bytes(one.source)


def _folder(one: Wanted, outputs: Path) -> Path:
    return outputs / "activations" / one.source.fingerprint


def _plan(one: Wanted) -> list[Planned]:
    """All shards: they follow from the settings and the width alone."""
    rows = max(1, SHARD_BYTES // _row_bytes(one.source))
    sizes: dict[Split, int] = {
        "train": one.config.train_tokens,
        "validation": one.config.validation_tokens,
    }
    return [
        Planned(f"{split}-{start // rows:05}.safetensors", split, start, min(start + rows, size))
        for split, size in sizes.items()
        for start in range(0, size, rows)
    ]


def _row_bytes(source: Source) -> int:
    return 4 * source.d * (2 if source.has_target else 1) + 4 + 2


def _reader(configs: Sequence[ActivationsConfig]) -> Reader:
    match configs[0].kind:
        case "model":
            return ModelReader(configs)
        case "files":
            return FilesReader(configs[0])
        case "synthetic":
            return SyntheticReader(configs[0])
        case _:
            assert_never(configs[0].kind)


def _check(rows: Rows, split: Split, one: Wanted) -> None:
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
    for values in (rows.activation, rows.target):
        if values is not None and not values.isfinite().all():
            raise BadInput(
                f"{config.kind} activations: NaN or infinity in the {split} rows of documents "
                f"{rows.document[0]} to {rows.document[-1]}: choose another source or layer, or "
                "drop such rows"
            )


def _complete(
    folder: Path, plan: list[Planned], source: Source, group_names: list[str], outputs: Path
) -> None:
    """Write the manifest of a folder whose shards are all there."""
    paths = [folder / shard.name for shard in plan if shard.split == "train"]
    mean, scale = _normalisation(lambda: (read_shard(path).activation for path in paths), source.d)
    figures: dict[str, Any] = {"mean": mean.tolist(), "scale": scale}
    if source.has_target:
        mean, scale = _normalisation(lambda: (_target(path) for path in paths), source.d)
        figures |= {"target_mean": mean.tolist(), "target_scale": scale}
    with checksums(outputs) as checksum:
        shards = [
            Shard(
                name=shard.name,
                split=shard.split,
                rows=shard.stop - shard.start,
                size=(folder / shard.name).stat().st_size,
                sha256=checksum(folder / shard.name),
            )
            for shard in plan
        ]
    manifest = Manifest(
        fingerprint=source.fingerprint,
        settings=source.settings,
        d=source.d,
        **figures,
        group_names=group_names,
        shards=shards,
    )
    write_manifest(folder, manifest)


def _target(path: Path) -> Float[Tensor, "rows d"]:
    target = read_shard(path).target
    assert target is not None
    return target


def _normalisation(
    parts: Callable[[], Iterable[Float[Tensor, "rows d"]]], d: int
) -> tuple[Float64[Tensor, " d"], float]:
    """Mean of all rows, and the factor that makes the mean norm of centred ones sqrt(d)."""
    n, mean, mean_norm = 0, torch.zeros(d, dtype=torch.float64), 0.0
    for x in parts():
        n += len(x)
        mean += x.sum(0, dtype=torch.float64)
    mean /= n
    for x in parts():
        mean_norm += float((x - mean).norm(dim=1).sum()) / n
    if mean_norm <= EQUAL * float(mean.norm()):
        raise BadInput(
            f"all {n} training activations are equal: choose another source, layer or position"
        )
    return mean, math.sqrt(d) / mean_norm
