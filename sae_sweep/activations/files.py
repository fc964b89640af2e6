"""Activations that a user already has: a folder of .safetensors and .npy files.

A .npy file is one array [tokens, d]. Of a .safetensors file the tensor `activation` is read, or the
one that `activations.tensor` names, else its only one of two dimensions and a floating type. Beside
it may lie

- `target`, of its shape: what a transcoder reconstructs;
- `document` and `group` (or the tensor that `activations.group` names), integers, one per token;
- `token_ids` and `position`, integers, one per token.

Two layouts of three dimensions are read as well:

- [tokens, layers, d] with `token_ids` [tokens], as vLLM's `extract_hidden_states` writes it: a file
  is a document and `activations.layer` says which of its layers is read, 0 being the first;
- [batch, sequence, d] with `attention_mask` [batch, sequence]: a sequence is a document, padding is
  left out; labels are [batch] or [batch, sequence], `input_ids` is another name of `token_ids`.
"""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_sweep.activations.facts import checksums
from sae_sweep.activations.groups import ONE_GROUP, number_groups
from sae_sweep.activations.reader import Identity, Origins, Rows, Split
from sae_sweep.activations.split import require_rows, split_rows
from sae_sweep.activations.stacked import Stacked
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput, BadRows
from sae_sweep.inputs import InputFile, edge, note, visible

PIECE_ROWS = 8192
SUFFIXES = (".safetensors", ".npy")
LARGEST_HEADER = 10**8
"""Bytes that safetensors allows."""
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}
"""Names of the supported types in safetensors."""


class Table(NamedTuple):
    """One file, memory-mapped."""

    path: Path
    activation: Float[Tensor, "places d"]
    target: Float[Tensor, "places d"] | None
    kept: Int64[np.ndarray, " tokens"]
    """Which places hold tokens, not padding."""
    labels: dict[str, Int64[np.ndarray, " tokens"]]
    """`document`, `group`, `token_ids` and `position`, where they are known; equal documents belong
    together, across files too."""
    sequences: Int64[np.ndarray, " tokens"] | None
    """Number of each token's sequence, where the layout says it."""


def identify(config: ActivationsConfig, outputs: Path) -> Identity:
    """The identity of a folder of files.

    Raises:
        BadInput: for a folder without [tokens, d] arrays, files that do not fit together, or too
            few rows.
    """
    tables = _tables(config)
    n = sum(len(table.kept) for table in tables)
    require_rows(config, min(n, config.validation_tokens), n - config.validation_tokens)
    with checksums(outputs) as checksum:
        content = [[table.path.suffix.lower(), checksum(table.path)] for table in tables]
    acting = {"files", "group", "train_tokens", "validation_tokens"}
    acting |= {"max_norm", "tensor"}
    if tables[0].activation.stride(0) > tables[0].activation.shape[1]:
        acting.add("layer")  # one of several
    settings = config.model_dump(include=acting, exclude_none=True)
    has_target = tables[0].target is not None
    return Identity(tables[0].activation.shape[1], settings, content, has_target)


class FilesReader:
    """Reads rows of a folder of files, split by document or, without documents, by blocks."""

    def __init__(self, config: ActivationsConfig) -> None:
        """Map the files and split their rows.

        Raises:
            BadInput: as `identify`, and when too few rows are left in separate documents.
        """
        tables = _tables(config)
        self._tables = tables
        self._activation = Stacked.of([table.activation for table in tables])
        targets = [table.target for table in tables if table.target is not None]
        self._target = Stacked.of(targets) if targets else None
        begins = np.cumsum([0, *(len(table.activation) for table in tables)])
        self._places = np.concatenate(
            [table.kept + begin for table, begin in zip(tables, begins, strict=False)]
        )
        n = len(self._places)
        documents = _column(tables, "document")
        self._sequences = _sequences(tables)
        if documents is None:
            documents = self._sequences
        self._rows = split_rows(documents, n, config)
        self._documents = np.arange(n)
        if documents is not None:
            self._documents = np.unique(documents, return_inverse=True)[1]
        groups = _column(tables, "group")
        self._groups, self.group_names = np.zeros(n, np.int16), ONE_GROUP
        if groups is not None:
            self._groups, self.group_names = number_groups(groups, config)
        self._token_ids = _column(tables, "token_ids")
        self._positions = _column(tables, "position")

    def read(
        self, split: Split, start: int, stop: int, sources: Sequence[int] = (0,)
    ) -> Iterator[list[Rows]]:
        """Yield rows start to stop of a split; there is one source."""
        assert tuple(sources) == (0,)
        for first in range(start, stop, PIECE_ROWS):
            rows = self._rows[split][first : min(first + PIECE_ROWS, stop)]
            places = torch.from_numpy(self._places[rows])
            yield [
                Rows(
                    self._finite(self._activation.take(places), places),
                    torch.from_numpy(self._documents[rows]).int(),
                    torch.from_numpy(self._groups[rows]),
                    None if self._target is None else self._target.take(places).float(),
                    self._origins(rows),
                )
            ]

    def _finite(
        self, values: Float[Tensor, "rows d"], places: Int64[Tensor, " rows"]
    ) -> Float[Tensor, "rows d"]:
        """Rows in float32.

        Raises:
            BadRows: with file and row, for one that is not finite or not in float32.
        """
        single = values.float()
        wrong = ~single.isfinite().all(dim=1)
        if not wrong.any():
            return single
        first = int(places[wrong].min())
        value = values[places == first][0]
        if value.isnan().any():
            reason = "holds NaN"
        elif value.isinf().any():
            reason = f"holds an infinity in {str(value.dtype).removeprefix('torch.')}"
        else:
            reason = f"holds {float(value.abs().max()):.3g}, beyond float32"
        for table in self._tables:
            if first < len(table.activation):
                raise BadRows(
                    f"activations.files: row {first} (from 0) of {table.path} {reason}; "
                    f"{int(wrong.sum())} such rows among {len(wrong)}: drop them or write the file "
                    "again"
                )
            first -= len(table.activation)
        raise AssertionError(first)

    def _origins(self, rows: Int64[np.ndarray, " rows"]) -> Origins | None:
        """Tokens of rows, where the files bring them; a sequence is a window."""
        if self._token_ids is None:
            return None
        columns = (self._token_ids, self._positions, self._sequences)
        nothing = np.full(len(rows), -1)
        found = [nothing if column is None else column[rows] for column in columns]
        return Origins(*(torch.from_numpy(column.astype(np.int32)) for column in found))


def _tables(config: ActivationsConfig) -> list[Table]:
    tables = [_table(path, config) for path in _paths(config)]
    for table in tables[1:]:
        _require_alike(tables[0], table)
    return tables


def _paths(config: ActivationsConfig) -> list[Path]:
    folder = Path(config.files or "")
    if not folder.is_dir():
        raise BadInput(f"activations.files={folder} is not a folder: give one with your files")
    skipped: list[Path] = []
    entries = visible(folder, "activations.files=", skipped)
    paths = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise BadInput(f"activations.files={folder} holds no {' or '.join(SUFFIXES)} file")
    if left_out := [path for path in skipped if path.suffix.lower() in SUFFIXES]:
        note(
            f"activations.files={folder}: {len(left_out)} hidden files or links to what is there "
            f"anyway left out, e.g. {left_out[0]}"
        )
    return paths


def _table(path: Path, config: ActivationsConfig) -> Table:
    arrays = _arrays(path)
    names = {
        "document": "document",
        "group": config.group or "group",
        "token_ids": "input_ids" if "input_ids" in arrays else "token_ids",
        "position": "position",
    }
    found = {role: arrays.pop(name) for role, name in names.items() if name in arrays}
    if config.group is not None and "group" not in found:
        raise BadInput(f"activations.group={config.group}: {path} has no such tensor")
    mask = arrays.pop("attention_mask", None)
    target = arrays.pop("target", None) if len(arrays) > 1 else None
    activation = _activation(path, arrays, config)
    if target is not None and target.shape != activation.shape:
        raise BadInput(
            f"activations.files: `target` {list(target.shape)} of {path} has not the shape "
            f"{list(activation.shape)} of its activations: give every token one target of its width"
        )
    sequences: Int64[np.ndarray, " tokens"] | None = None
    shape = tuple(activation.shape[:1])
    kept = np.arange(len(activation))
    if activation.ndim == 3 and mask is not None and mask.shape == activation.shape[:2]:
        shape = tuple(mask.shape)
        kept = mask.bool().flatten().numpy().nonzero()[0]
        sequences = kept // shape[1]
        activation = activation.flatten(0, 1)
        target = None if target is None else target.flatten(0, 1)
    elif activation.ndim == 3 and found.get("token_ids", activation).shape == shape:
        layer = _layer(path, config, activation.shape[1])
        activation, target = activation[:, layer], None if target is None else target[:, layer]
        sequences = np.zeros(len(kept), dtype=np.int64)
    elif activation.ndim == 3:
        raise BadInput(
            f"activations.files: {path} holds {list(activation.shape)}: three dimensions are read "
            "as [batch, sequence, d] with `attention_mask` [batch, sequence], or as "
            "[tokens, layers, d] with `token_ids` [tokens]: add the one or the other"
        )
    labels = {}
    for role, label in found.items():
        if label.shape == shape and not label.is_floating_point():
            labels[role] = label.flatten().long().numpy()[kept]
        elif label.shape == shape[:1] and sequences is not None and not label.is_floating_point():
            labels[role] = label.long().numpy()[sequences]
        else:
            raise BadInput(
                f"activations.files: {names[role]} {list(label.shape)} {label.dtype} of {path} "
                f"does not label {len(kept)} tokens: give one integer per token"
            )
    if sequences is not None and "position" not in labels:
        begins = np.unique(sequences, return_index=True)[1]
        counts = np.diff([*begins, len(kept)])
        labels["position"] = np.arange(len(kept)) - begins.repeat(counts)
    return Table(path, activation, target, kept, labels, sequences)


def _activation(path: Path, arrays: dict[str, Tensor], config: ActivationsConfig) -> Tensor:
    """The array of activations among those of a file."""
    kinds = ([name for name, one in arrays.items() if _is_table(one, n)] for n in (2, 3))
    fitting = [name for names in kinds for name in names]
    if not fitting:
        shapes = ", ".join(f"{name} {list(a.shape)} {a.dtype}" for name, a in arrays.items())
        raise BadInput(
            f"activations.files: {path} holds no [tokens, d] array of floats but "
            f"{shapes or 'nothing'}: convert or remove it"
        )
    if config.tensor is not None and config.tensor not in fitting:
        raise BadInput(
            f"activations.tensor={config.tensor}: {path} has no such array of floats; it has "
            f"{', '.join(fitting)}"
        )
    if config.tensor is None and "activation" not in fitting and len(fitting) > 1:
        raise BadInput(
            f"activations.files: {path} holds {len(fitting)} arrays of floats, "
            f"{', '.join(fitting)}: say which with activations.tensor={fitting[0]}"
        )
    return arrays[config.tensor or ("activation" if "activation" in fitting else fitting[0])]


def _layer(path: Path, config: ActivationsConfig, n_layers: int) -> int:
    layer = 0 if config.layer is None and n_layers == 1 else config.layer
    if layer is None or layer >= n_layers:
        raise BadInput(
            f"activations.layer={config.layer}: {path} holds {n_layers} layers, 0 to "
            f"{n_layers - 1}: choose one of them"
        )
    return layer


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file, mapped read-only: of whatever size, only what is read is in memory."""
    InputFile(path, "activations.files: ").require_readable()
    way_out = "write it again with safetensors or numpy.save, without pickled objects"
    # torch warns of arrays that it could not write to
    with edge(f"activations.files: {path}", way_out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix.lower() == ".npy":
            return {"activation": torch.from_numpy(np.load(path, mmap_mode="r"))}
        return _safetensors(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; safetensors itself maps them writably, which needs as much memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    arrays = {}
    for name, one in header.items():
        if name == "__metadata__" or one["dtype"] not in DTYPES:
            continue
        dtype, shape, (begin, end) = DTYPES[one["dtype"]], one["shape"], one["data_offsets"]
        need = math.prod(shape) * dtype.itemsize
        if (
            not (0 <= begin <= end <= size - 8 - length and need == end - begin)
            or min(shape, default=0) < 0
        ):
            raise ValueError(f"tensor {name} lies at {begin} to {end} and needs {need} bytes")
        if not need:
            arrays[name] = torch.empty(shape, dtype=dtype)
            continue
        raw = np.memmap(path, np.uint8, "r", offset=8 + length + begin, shape=(need,))
        arrays[name] = torch.from_numpy(raw).view(dtype).reshape(shape)
    return arrays


def _is_table(array: Tensor, dimensions: int) -> bool:
    return array.ndim == dimensions and array.is_floating_point() and array.numel() > 0


def _require_alike(first: Table, other: Table) -> None:
    kinds = [f"[tokens, {t.activation.shape[1]}] {t.activation.dtype}" for t in (first, other)]
    if kinds[0] != kinds[1]:
        raise BadInput(
            f"activations.files: {first.path} is {kinds[0]} and {other.path} is {kinds[1]}: "
            "keep files of one width and type in the folder"
        )
    tensors = [
        {*one.labels, *(() if one.target is None else ("target",))} for one in (first, other)
    ]
    for name in sorted(tensors[0] ^ tensors[1]):
        raise BadInput(
            f"activations.files: of {first.path} and {other.path} only one has a tensor "
            f"`{name}`: give it to all files or none"
        )


def _column(tables: list[Table], name: str) -> Int64[np.ndarray, " rows"] | None:
    """A label of all rows."""
    if name not in tables[0].labels:
        return None
    return np.concatenate([table.labels[name] for table in tables])


def _sequences(tables: list[Table]) -> Int64[np.ndarray, " rows"] | None:
    """Numbers of sequences, counted on from file to file."""
    parts, begin = [], 0
    for table in tables:
        if table.sequences is None:
            return None
        parts.append(table.sequences + begin)
        begin += int(table.sequences.max(initial=-1)) + 1
    return np.concatenate(parts)
