"""Activations on disk: written once, verified, read in place."""

import functools
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Float32, Int16, Int32, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sae_sweep.activations.facts import checksums
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.order import visits
from sae_sweep.activations.readahead import ReadAhead
from sae_sweep.activations.reader import Origins, Rows, Split
from sae_sweep.activations.stacked import Stacked
from sae_sweep.activations.synthetic import Truth
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge

if TYPE_CHECKING:
    from sae_sweep.activations.cache import Cache


def write_shard(path: Path, rows: Rows) -> None:
    """Write rows to a file that is either whole or absent; their origins, before it, beside it."""
    if rows.origins is not None:
        write_columns(origins_path(path), rows.origins._asdict())
    columns = rows._replace(origins=None)._asdict()
    write_columns(path, {name: column for name, column in columns.items() if column is not None})


def read_shard(path: Path) -> Rows:
    """Map a shard into memory: nothing is copied, pages are read when they are used.

    Origins stay in their own file: `read_origins`.

    Raises:
        FileNotFoundError: it is not there, or a bounded cache has just evicted it.
    """
    with safe_open(path, framework="pt") as file:
        return Rows(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def written(folder: Path) -> set[str]:
    """Names of the files in a folder of shards, which need not exist."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def origins_path(shard: Path) -> Path:
    """Where the origins of a shard's rows lie."""
    return shard.with_suffix(".origins.safetensors")


def read_origins(shard: Path) -> Origins:
    """Map the origins of a shard's rows.

    Raises:
        BadInput: for a shard that has none.
    """
    path = origins_path(shard)
    if not path.exists():
        raise BadInput(
            f"activations in {shard.parent} do not say which tokens their rows come from: delete "
            "the folder and run the sweep again, which extracts them with token ids (activations "
            "of a model always have them, activations.files need a tensor `token_ids`)"
        )
    with edge(str(path), _again(path.parent)), safe_open(path, framework="pt") as file:
        return Origins(*(file.get_tensor(name) for name in Origins._fields))


KEPT = "kept.safetensors"
"""Beside the shards: which rows of either split are used, where `activations.max_norm` is set."""


def write_columns(path: Path, columns: dict[str, Tensor]) -> None:
    """Write tensors to a file that is either whole or absent."""
    with replacing(path) as temporary:
        temporary.write_bytes(save({name: one.contiguous() for name, one in columns.items()}))


def verify(folder: Path, outputs: Path) -> list[str]:
    """Check the manifest, and size and checksum of every shard that is to be there.

    Checksums are remembered in outputs/cache by size and modification time.

    Returns:
        What was noted when the rows were made.

    Raises:
        BadInput: for a manifest of another schema, or a shard that is missing or damaged.
    """
    manifest = read_manifest(folder)
    with checksums(outputs) as checksum:
        for shard in manifest.shards:
            path = folder / shard.name
            size = path.stat().st_size if path.exists() else None
            if size is None and manifest.window_rows is not None and shard.split == "train":
                continue  # it can be computed when it is read
            if size is None:
                wrong = "is missing"
            elif shard.size is None:
                continue
            elif size != shard.size:
                wrong = f"has {size} bytes instead of {shard.size}"
            elif checksum(path) != shard.sha256:
                wrong = "has another checksum than when it was written"
            else:
                continue
            raise BadInput(f"activation shard {path} {wrong}: {_again(folder)}")
    return manifest.notes


def _again(folder: Path) -> str:
    return f"delete the folder {folder} and run again"


def open_activations(folder: Path, cache: "Cache | None" = None) -> "Activations":
    """Open a complete folder of shards, or one whose training shards come from a cache.

    Raises:
        BadInput: when it is not complete, or of another schema.
    """
    return Activations(folder, cache)


@final
class Activations:
    """Rows of both splits, left on disk, normalised when they are taken.

    A normalised row is (x - mean) * scale: over the training rows its mean is 0 and its mean norm
    the square root of d. A transcoder's targets are normalised likewise, by their own figures.
    """

    def __init__(self, folder: Path, cache: "Cache | None" = None) -> None:
        manifest = read_manifest(folder)
        self.fingerprint: str = manifest.fingerprint
        self.d: int = manifest.d
        self.n_train: int = manifest.rows("train")
        self.n_validation: int = manifest.rows("validation")
        self.window_rows: int = manifest.window_rows or self.n_train
        self.mean: Float32[Tensor, " d"] = torch.tensor(manifest.mean, dtype=torch.float32)
        self.scale: float = manifest.scale
        self.group_names: list[str] = manifest.group_names
        self.has_target = manifest.target_mean is not None
        self.target_mean: Float32[Tensor, " d"] | None = None
        self.target_scale: float | None = manifest.target_scale
        if manifest.target_mean is not None:
            self.target_mean = torch.tensor(manifest.target_mean, dtype=torch.float32)
        self._kept: dict[Split, Tensor] = {}
        if (folder / KEPT).exists():
            kept = folder / KEPT
            with edge(str(kept), _again(folder)), safe_open(kept, framework="pt") as file:
                self._kept = {"train": file.get_tensor("train")}
                self._kept["validation"] = file.get_tensor("validation")
            self.n_train = self.window_rows = len(self._kept["train"])
            self.n_validation = len(self._kept["validation"])
        self._cache = cache
        paths: dict[Split, list[Path]] = {"train": [], "validation": []}
        for shard in manifest.shards:
            paths[shard.split].append(folder / shard.name)
        self._validation_paths = paths["validation"]
        validation = list(map(read_shard, paths["validation"]))
        mapped = functools.cache(lambda number: read_shard(paths["train"][number]))
        shard_at = cache.shard if cache else mapped  # an evicted shard is computed when it is read
        sizes = [shard.rows for shard in manifest.shards if shard.split == "train"]
        self._train = Stacked(lambda number: shard_at(number).activation, sizes)
        windowed = self.window_rows < self.n_train
        window_shards = -(-self.window_rows // sizes[0]) if windowed else len(sizes)
        self._read_ahead = ReadAhead(paths["train"], window_shards)
        self._validation = Stacked.of([one.activation for one in validation])
        self._validation_groups = Stacked.of([one.group for one in validation])
        self._synthetic: dict[str, Any] | None = manifest.settings.get("synthetic")
        self._drawn = [shard.rows for shard in manifest.shards if shard.split == "validation"]
        self._validation_documents = Stacked.of([one.document for one in validation])
        self._train_targets = Stacked(lambda number: _target(shard_at(number)), sizes)
        if self.has_target:
            self._validation_targets = Stacked.of([_target(one) for one in validation])

    def reach(self, spans: Sequence[tuple[int, int]]) -> int:
        """Bring the rows of some positions of training closer.

        Args:
            spans: positions from and to before which rows are about to be read.

        Returns:
            How many rows can be read from each span's beginning on; 0 where some are still to
            come from a cache, which the next call brings closer.
        """
        visited = [list(visits(*span, self.n_train, self.window_rows)) for span in spans]
        if self._cache is None:
            self._read_ahead.reach(chain.from_iterable(visited))
            return sys.maxsize
        windows = [visit.window for each in visited for visit in each]
        ends = [
            stop - start + each[-1].rows - each[-1].stop
            for (start, stop), each in zip(spans, visited, strict=True)
        ]
        self._cache.hold(list(dict.fromkeys(windows)))
        return min(ends) if self._cache.bring() else 0

    def close(self) -> None:
        """Release what was read, so that it can be evicted."""
        if self._cache is not None:
            self._cache.close()

    def train_rows(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Training rows at `indices`, in their order, normalised."""
        return self._normalised(self._train.take(self._place("train", indices)))

    def train_targets(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Targets of these training rows, normalised."""
        return self._normalised_targets(self._train_targets.take(self._place("train", indices)))

    def validation_rows(self, start: int, stop: int) -> Float32[Tensor, "n d"]:
        """Validation rows start to stop, normalised."""
        return self._normalised(self._validation.take(self._run(start, stop)))

    def validation_targets(self, start: int, stop: int) -> Float32[Tensor, "n d"]:
        """Targets of these validation rows, normalised."""
        return self._normalised_targets(self._validation_targets.take(self._run(start, stop)))

    def validation_groups(self, start: int, stop: int) -> Int16[Tensor, " n"]:
        """Groups of validation rows start to stop, as places in `group_names`."""
        return self._validation_groups.take(self._run(start, stop))

    @functools.cached_property
    def _truth(self) -> Truth | None:
        """The ground truth, made on first use."""
        if self._synthetic is None:
            return None
        return Truth(self._synthetic, self.d, self._drawn)

    @property
    def true_features(self) -> Float[Tensor, "features d"] | None:
        """Unit directions that rows are sums of, for synthetic activations."""
        return None if self._truth is None else self._truth.features

    def validation_truth(self, start: int, stop: int) -> Bool[Tensor, "n features"]:
        """Which of these features each of the validation rows start to stop sums."""
        assert self._truth is not None
        return self._truth.active(self._run(start, stop))

    def validation_documents(self, start: int, stop: int) -> Int32[Tensor, " n"]:
        """Numbers of the documents of validation rows start to stop; without documents, rows'."""
        return self._validation_documents.take(self._run(start, stop))

    def validation_origins(self) -> Origins:
        """Token, position and window of every validation row.

        Raises:
            BadInput: for activations that do not know them.
        """
        parts = [read_origins(path) for path in self._validation_paths]
        whole = map(torch.cat, zip(*parts, strict=True))
        return Origins(*(column[self._run(0, self.n_validation)] for column in whole))

    def _place(self, split: Split, indices: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Positions of rows in the shards, which also hold rows that are left out."""
        return self._kept[split][indices] if self._kept else indices

    def _run(self, start: int, stop: int) -> Int64[Tensor, " n"]:
        stop = min(stop, self.n_validation)
        return self._place("validation", torch.arange(start, max(start, stop)))

    def _normalised(self, x: Float[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
        return x.float().sub_(self.mean).mul_(self.scale)

    def _normalised_targets(self, y: Float[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
        assert self.target_mean is not None
        assert self.target_scale is not None
        return y.float().sub_(self.target_mean).mul_(self.target_scale)


def _target(rows: Rows) -> Float[Tensor, "rows d"]:
    assert rows.target is not None
    return rows.target
