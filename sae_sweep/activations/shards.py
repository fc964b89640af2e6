"""Activations on disk: written once, verified, read in place."""

from pathlib import Path
from typing import final

import torch
from jaxtyping import Float32, Int16, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sae_sweep.activations.disk import replacing
from sae_sweep.activations.facts import checksums
from sae_sweep.activations.manifest import read_manifest
from sae_sweep.activations.reader import Rows
from sae_sweep.activations.stacked import Stacked
from sae_sweep.errors import BadInput


def write_shard(path: Path, pieces: list[Rows]) -> None:
    """Write rows to a file that is either whole or absent."""
    columns = [torch.cat(column).contiguous() for column in zip(*pieces, strict=True)]
    with replacing(path) as temporary:
        temporary.write_bytes(save(dict(zip(Rows._fields, columns, strict=True))))


def read_shard(path: Path) -> Rows:
    """Map a shard into memory: nothing is copied, pages are read when they are used."""
    with safe_open(path, framework="pt") as file:
        return Rows(*(file.get_tensor(name) for name in Rows._fields))


def verify(folder: Path, outputs: Path) -> None:
    """Check the manifest, and size and checksum of every shard.

    Checksums are remembered in outputs/cache by size and modification time.

    Raises:
        BadInput: for a manifest of another schema, or a shard that is missing or damaged.
    """
    with checksums(outputs) as checksum:
        for shard in read_manifest(folder).shards:
            path = folder / shard.name
            size = path.stat().st_size if path.exists() else None
            if size is None:
                wrong = "is missing"
            elif size != shard.size:
                wrong = f"has {size} bytes instead of {shard.size}"
            elif checksum(path) != shard.sha256:
                wrong = "has another checksum than when it was written"
            else:
                continue
            raise BadInput(
                f"activation shard {path} {wrong}: delete the folder {folder} and run again"
            )


def open_activations(folder: Path) -> "Activations":
    """Open a complete folder of shards.

    Raises:
        BadInput: when it is not complete, or of another schema.
    """
    return Activations(folder)


@final
class Activations:
    """Rows of both splits, left on disk, normalised when they are taken.

    A normalised row is (x - mean) * scale: over the training rows its mean is 0 and its mean norm
    the square root of d.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        self.fingerprint: str = manifest.fingerprint
        self.d: int = manifest.d
        self.n_train: int = manifest.rows("train")
        self.n_validation: int = manifest.rows("validation")
        self.mean: Float32[Tensor, " d"] = torch.tensor(manifest.mean, dtype=torch.float32)
        self.scale: float = manifest.scale
        self.group_names: list[str] = manifest.group_names
        rows: dict[str, list[Rows]] = {split: [] for split in ("train", "validation")}
        for shard in manifest.shards:
            rows[shard.split].append(read_shard(folder / shard.name))
        self._train = Stacked([one.activation for one in rows["train"]])
        self._validation = Stacked([one.activation for one in rows["validation"]])
        self._validation_groups = Stacked([one.group for one in rows["validation"]])

    def train_rows(self, indices: Int64[Tensor, " n"]) -> Float32[Tensor, "n d"]:
        """Training rows at `indices`, in their order, normalised."""
        return self._normalised(self._train.take(indices))

    def validation_rows(self, start: int, stop: int) -> Float32[Tensor, "n d"]:
        """Validation rows start to stop, normalised."""
        return self._normalised(self._validation.slice(start, stop))

    def validation_groups(self, start: int, stop: int) -> Int16[Tensor, " n"]:
        """Groups of validation rows start to stop, as places in `group_names`."""
        return self._validation_groups.slice(start, stop)

    def _normalised(self, x: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
        return x.sub_(self.mean).mul_(self.scale)
