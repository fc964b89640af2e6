"""Activations that a user already has: a folder of .safetensors and .npy files.

A .npy file is one array [tokens, d]. Of a .safetensors file the tensor `activation` is read, else
its first one of two dimensions and a floating type; `document` and `group` (or the tensor that
`activations.group` names) are integers, one a token, and optional.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_sweep.activations.facts import checksums
from sae_sweep.activations.groups import ONE_GROUP, number_groups
from sae_sweep.activations.reader import Identity, Rows, Split
from sae_sweep.activations.split import require_rows, split_rows
from sae_sweep.activations.stacked import Stacked
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

PIECE_ROWS = 8192
SUFFIXES = (".safetensors", ".npy")


class Table(NamedTuple):
    """One file, memory-mapped."""

    path: Path
    activation: Float[Tensor, "tokens d"]
    document: Int[Tensor, " tokens"] | None
    """Equal numbers belong together, across files too."""
    group: Int[Tensor, " tokens"] | None


def identify(config: ActivationsConfig, outputs: Path) -> Identity:
    """The identity of a folder of files.

    Raises:
        BadInput: for a folder without [tokens, d] arrays, files that do not fit together, or too
            few rows.
    """
    tables = _tables(config)
    n = sum(len(table.activation) for table in tables)
    require_rows(config, min(n, config.validation_tokens), n - config.validation_tokens)
    with checksums(outputs) as checksum:
        content = [[table.path.suffix, checksum(table.path)] for table in tables]
    acting = {"files", "group", "train_tokens", "validation_tokens"}
    settings = config.model_dump(include=acting, exclude_none=True)
    return Identity(tables[0].activation.shape[1], settings, content)


class FilesReader:
    """Reads rows of a folder of files, split by document or, without documents, by blocks."""

    def __init__(self, config: ActivationsConfig) -> None:
        """Map the files and split their rows.

        Raises:
            BadInput: as `identify`, and when too few rows are left in separate documents.
        """
        tables = _tables(config)
        self._activation = Stacked([table.activation for table in tables])
        n = len(self._activation)
        documents = _column([table.document for table in tables])
        groups = _column([table.group for table in tables])
        self._rows = split_rows(documents, n, config)
        self._documents = np.arange(n)
        if documents is not None:
            self._documents = np.unique(documents, return_inverse=True)[1]
        self._groups, self.group_names = np.zeros(n, np.int16), ONE_GROUP
        if groups is not None:
            self._groups, self.group_names = number_groups(groups, config)

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop of a split; there is one source."""
        assert tuple(sources) == (0,)
        for first in range(start, stop, PIECE_ROWS):
            rows = self._rows[split][first : min(first + PIECE_ROWS, stop)]
            yield [
                Rows(
                    self._activation.take(torch.from_numpy(rows)).float(),
                    torch.from_numpy(self._documents[rows]).int(),
                    torch.from_numpy(self._groups[rows]),
                )
            ]


def _tables(config: ActivationsConfig) -> list[Table]:
    tables = [_table(path, config) for path in _paths(config)]
    for table in tables[1:]:
        _require_alike(tables[0], table)
    return tables


def _paths(config: ActivationsConfig) -> list[Path]:
    folder = Path(config.files or "")
    if not folder.is_dir():
        raise BadInput(f"activations.files={folder} is not a folder: give one with your files")
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not paths:
        raise BadInput(f"activations.files={folder} holds no {' or '.join(SUFFIXES)} file")
    return paths


def _table(path: Path, config: ActivationsConfig) -> Table:
    arrays = _arrays(path)
    labels = {"document": "document", "group": config.group or "group"}
    found = {role: arrays.pop(name, None) for role, name in labels.items()}
    if config.group is not None and found["group"] is None:
        raise BadInput(f"activations.group={config.group}: {path} has no such tensor")
    fitting = [name for name, array in arrays.items() if _is_table(array)]
    if not fitting:
        shapes = ", ".join(f"{name} {list(a.shape)} {a.dtype}" for name, a in arrays.items())
        raise BadInput(
            f"activations.files: {path} holds no [tokens, d] array of floats but "
            f"{shapes or 'nothing'}: convert or remove it"
        )
    table = Table(path, arrays["activation" if "activation" in fitting else fitting[0]], **found)
    for role, labels_found in found.items():
        if labels_found is not None and not _labels(labels_found, len(table.activation)):
            raise BadInput(
                f"activations.files: {labels[role]} {list(labels_found.shape)} "
                f"{labels_found.dtype} of {path} does not label {len(table.activation)} tokens: "
                "give one integer a token"
            )
    return table


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file, memory-mapped."""
    try:
        if path.suffix == ".npy":
            # copy on write: torch warns of arrays that it could not write to
            return {"activation": torch.from_numpy(np.load(path, mmap_mode="c"))}
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, EOFError, ValueError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"activations.files: {path} cannot be read ({error}): write it again with "
            "safetensors or numpy.save, without pickled objects"
        ) from None


def _is_table(array: Tensor) -> bool:
    return array.ndim == 2 and array.is_floating_point() and array.numel() > 0


def _labels(array: Tensor, n: int) -> bool:
    return array.shape == (n,) and not array.is_floating_point()


def _require_alike(first: Table, other: Table) -> None:
    kinds = [f"[tokens, {t.activation.shape[1]}] {t.activation.dtype}" for t in (first, other)]
    if kinds[0] != kinds[1]:
        raise BadInput(
            f"activations.files: {first.path} is {kinds[0]} and {other.path} is {kinds[1]}: "
            "keep files of one width and type in the folder"
        )
    for name in ("document", "group"):
        if (getattr(first, name) is None) != (getattr(other, name) is None):
            raise BadInput(
                f"activations.files: of {first.path} and {other.path} only one has a tensor "
                f"`{name}`: give it to all files or none"
            )


def _column(parts: list[Tensor | None]) -> Int64[np.ndarray, " rows"] | None:
    present = [part.long().numpy() for part in parts if part is not None]
    return np.concatenate(present) if present else None
