"""From a source to a complete folder of shards, shard by shard."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sae_sweep.activations.extraction import Extraction
from sae_sweep.activations.facts import FileFacts, checksums
from sae_sweep.activations.manifest import MANIFEST, Manifest, Shard, write_manifest
from sae_sweep.activations.plan import (
    Planned,
    Wanted,
    cache_bytes,
    shards,
    stored_bytes,
    window_rows,
    window_shards,
)
from sae_sweep.activations.presence import supplied
from sae_sweep.activations.shards import (
    KEPT,
    origins_path,
    read_origins,
    read_shard,
    write_columns,
    written,
)
from sae_sweep.disk import remove_abandoned, require_space
from sae_sweep.errors import BadInput
from sae_sweep.inputs import heard, note

SECONDS_BETWEEN_LOOKS = 0.2
"""Seconds between checks for shards of other processes."""
MASSIVE = 10.0
"""Times the median norm above which a row counts as massive (Sun et al. 2024, arXiv:2402.17762)."""
EQUAL = 1e-6
"""Rows that differ from their mean by less than this share of its norm differ by rounding."""
AT_ONCE = 1024
"""Rows of which statistics are taken at once: they stay in the processor's cache."""


def prepare(
    wanted: Sequence[Wanted], outputs: Path, *, supplies: bool = False
) -> Iterator[tuple[int, int]]:
    """Complete outputs/activations/<fingerprint>/ of the sources of one pass.

    Shards that are there are kept, so a killed run goes on where it was. Several processes may
    prepare one folder: each computes shards that no other is at work on, and equal settings give
    equal rows. Of a set that its cache cannot hold (`activations.cache_gb`) only validation and
    the first window are written; training computes the others as it comes to them.

    Args:
        wanted: the sources.
        outputs: folder below which all lies.
        supplies: whether to compute even where a supplier is there to do it.

    Yields:
        Rows done, at first those of earlier runs, and rows in all; nothing when all was there.

    Raises:
        BadInput: for a disk too small, too few rows, or rows that cannot be trained on.
    """
    wanted = [one for one in wanted if _missing(one, outputs)]
    if not wanted:
        return
    with heard() as notes:
        yield from _prepare(wanted, outputs, notes, supplies=supplies)


def _prepare(
    wanted: Sequence[Wanted], outputs: Path, notes: list[str], *, supplies: bool
) -> Iterator[tuple[int, int]]:
    folders = [one.folder(outputs) for one in wanted]
    need = [stored_bytes(one, missing_rows(one, outputs)) for one in wanted]
    require_space(folders[0], sum(need))
    extraction = Extraction(wanted, outputs)
    for folder in folders:
        remove_abandoned(folder)
    plan = _needed(wanted[0])
    everyone = range(len(wanted))
    total = sum(shard.rows for shard in plan)
    while left := _left(plan, folders):
        done = total - sum(shard.rows for shard in left)
        yield done, total
        if not supplies and supplied(wanted[0], outputs):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        for shard in left:
            rows = 0
            for rows in extraction.compute(shard, everyone):
                yield done + rows, total
            if rows:
                break
        else:  # others are at work on all of them
            time.sleep(SECONDS_BETWEEN_LOOKS)
    yield total, total
    for one, folder in zip(wanted, folders, strict=True):
        _complete(folder, one, extraction.group_names, outputs, notes)


def _left(plan: Sequence[Planned], folders: Sequence[Path]) -> list[Planned]:
    """Shards that one of the folders lacks."""
    there = set.intersection(*map(written, folders))
    return [shard for shard in plan if shard.name not in there]


def disk_bytes(one: Wanted) -> int:
    """Size of a folder of shards: complete, or with as much as its cache holds."""
    train = cache_bytes(one) or stored_bytes(one, one.config.train_tokens)
    return train + stored_bytes(one, one.config.validation_tokens)


def missing_rows(one: Wanted, outputs: Path) -> int:
    """Rows that `prepare` would compute."""
    return sum(shard.rows for shard in _left(_missing(one, outputs), [one.folder(outputs)]))


def _needed(one: Wanted) -> list[Planned]:
    """The shards that training begins with."""
    train = shards(one, "train") if cache_bytes(one) is None else window_shards(one, 0)
    return [*train, *shards(one, "validation")]


def _missing(one: Wanted, outputs: Path) -> list[Planned]:
    """Needed shards that are missing: all of them until there is a manifest."""
    folder = one.folder(outputs)
    described = (folder / MANIFEST).exists()
    if described and cache_bytes(one) is not None:
        return []
    needed = _needed(one)
    missing = _left(needed, [folder])
    return missing if described or missing else needed


def _complete(
    folder: Path, one: Wanted, group_names: list[str], outputs: Path, notes: list[str]
) -> None:
    """Write the manifest of a folder whose needed shards are all there."""
    source = one.source
    # all training rows, unless they come in windows: then the first is there before the others
    paths = [folder / shard.name for shard in window_shards(one, 0)]
    median, limit = _say_massive(one, paths), None
    if one.config.max_norm is not None:
        limit = one.config.max_norm * median
        _write_kept(folder, one, limit)
    mean, scale = _normalisation(lambda: (_used(path, limit)[0] for path in paths), source.d)
    figures: dict[str, Any] = {"mean": mean.tolist(), "scale": scale}
    if source.has_target:
        mean, scale = _normalisation(lambda: (_used(path, limit)[1] for path in paths), source.d)
        figures |= {"target_mean": mean.tolist(), "target_scale": scale}
    with checksums(outputs) as checksum:
        described = [
            _described(folder / shard.name, shard, checksum)
            for shard in [*shards(one, "train"), *shards(one, "validation")]
        ]
    manifest = Manifest(
        fingerprint=source.fingerprint,
        settings=source.settings,
        d=source.d,
        dtype=source.dtype,
        window_rows=window_rows(one) if one.config.windowed else None,
        **figures,
        group_names=group_names,
        notes=notes,
        shards=described,
    )
    write_manifest(folder, manifest)


def _say_massive(one: Wanted, paths: Sequence[Path]) -> float:
    """Note how many training rows are massive; returns the median norm."""
    norm = torch.cat([read_shard(path).activation.float().norm(dim=1) for path in paths])
    median = float(norm.median())
    massive = norm > MASSIVE * (median or math.inf)
    if massive.any():
        squares = norm.double().square()
        tokens = ""
        if all(origins_path(path).exists() for path in paths):
            ids = torch.cat([read_origins(path).token_id for path in paths])[massive]
            most = Counter(ids.tolist()).most_common(3)
            told = [f"{token} ({times} times)" for token, times in most]
            tokens = f", most often the token ids {', '.join(told)}"
        note(
            f"activations {one.source.fingerprint}: {int(massive.sum()):,} of {len(norm):,} "
            f"training rows have norms over {MASSIVE:g} times the median and carry "
            f"{float(squares[massive].sum() / squares.sum()):.0%} of the sum of squares{tokens}"
            + ("" if one.config.max_norm else "; activations.max_norm=10 drops such rows")
        )
    return median


def _write_kept(folder: Path, one: Wanted, limit: float) -> None:
    """Write which rows of either split are at most as long as a norm."""
    columns = {}
    for split in ("train", "validation"):
        found = [
            read_shard(folder / shard.name).activation.float().norm(dim=1) <= limit
            for shard in shards(one, split)
        ]
        columns[split] = torch.cat(found).nonzero()[:, 0]
        if not len(columns[split]):
            raise BadInput(
                f"activations.max_norm={one.config.max_norm:g} leaves no {split} rows: raise it"
            )
    write_columns(folder / KEPT, columns)


def _described(path: Path, shard: Planned, checksum: FileFacts) -> Shard:
    there = path.exists()
    return Shard(
        name=shard.name,
        split=shard.split,
        rows=shard.rows,
        size=path.stat().st_size if there else None,
        sha256=checksum(path) if there else None,
    )


def _used(path: Path, limit: float | None) -> list[Float[Tensor, "rows d"]]:
    """Rows of a shard that are at most as long as a norm, and their targets where there are any."""
    rows = read_shard(path)
    columns = [one for one in (rows.activation, rows.target) if one is not None]
    if limit is None:
        return columns
    kept = rows.activation.float().norm(dim=1) <= limit
    return [one[kept] for one in columns]


def _normalisation(
    parts: Callable[[], Iterable[Float[Tensor, "rows d"]]], d: int
) -> tuple[Float64[Tensor, " d"], float]:
    """Mean of all rows, and the factor that makes the mean norm of centred ones sqrt(d)."""
    n, mean, mean_norm = 0, torch.zeros(d, dtype=torch.float64), 0.0
    first, same = None, torch.ones(d, dtype=torch.bool)
    for x in parts():
        if first is None and len(x):
            first = x[0].clone()
        for some in torch.split(x, AT_ONCE):
            if first is None or not same.any():
                break
            # per dimension: one that is huge and constant says nothing of the others
            same &= ((some - first).abs() <= EQUAL * first.abs()).all(dim=0)
        n += len(x)
        mean += x.sum(0, dtype=torch.float64)
    if bool(same.all()):
        raise BadInput(
            f"all {n} training activations are equal: choose another source, layer or position"
        )
    mean /= n
    for x in parts():
        norms = [some.double().sub_(mean).norm(dim=1) for some in torch.split(x, AT_ONCE)]
        mean_norm += float(torch.cat(norms).sum()) / n
    return mean, math.sqrt(d) / mean_norm
