"""Documents to run a model over.

`activations.text` is one of:

- `python-docs`: the language's help topics and the docstrings of the standard library's top-level
  modules, which every Python carries;
- a file: .txt (a document is a paragraph; blank lines separate), .jsonl or .parquet (a document is
  a row, its text in `text_column`);
- a folder of such files, in the order of their names, where a .txt file is one document;
- else the name of a data set for the package `datasets`.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16

from sae_sweep.activations.groups import ONE_GROUP, number_groups
from sae_sweep.config import ActivationsConfig
from sae_sweep.errors import BadInput

PYTHON_DOCS = "python-docs"
SUFFIXES = (".txt", ".jsonl", ".parquet")

Record = tuple[str, str]
"""A document's text and the name of its group."""


class Texts(NamedTuple):
    """All documents of a source; some may be empty."""

    documents: Sequence[str]
    groups: Int16[np.ndarray, " documents"]
    group_names: list[str]


def identify(
    config: ActivationsConfig, checksum: Callable[[Path], str]
) -> tuple[dict[str, Any], Any]:
    """The settings that act on the text, and its checksums.

    Raises:
        BadInput: for a text that is missing, empty or cannot be read.
    """
    settings: dict[str, Any] = {"text": config.text}
    if config.text == PYTHON_DOCS:
        _refuse_group(config)
        topics = Path(str(import_module("pydoc_data.topics").__file__))
        python_files = [topics, *_standard_library()]
        return settings, [[path.suffix, checksum(path)] for path in python_files]
    if (path := Path(config.text)).exists():
        files = _files(path)
        records = (record for file in files for record in _records(file, config, whole=False))
        if not any(text.strip() for text, _ in records):
            raise BadInput(f"activations.text={config.text} is empty: give a file with text")
        columns = any(file.suffix != ".txt" for file in files)
    else:
        columns, settings["text_split"] = True, config.text_split
        dataset = _dataset(config)
        if not len(dataset):
            raise BadInput(f"activations.text={config.text} is empty: give another data set")
        files = [Path(file["filename"]) for file in dataset.cache_files]
    if columns:
        settings["text_column"] = config.text_column
    if config.group is not None:
        settings["group"] = config.group
    return settings, [[file.suffix, checksum(file)] for file in files]


def read(config: ActivationsConfig) -> Texts:
    """Read all documents; those of a data set stay on disk until they are asked for."""
    if config.text == PYTHON_DOCS:
        return _texts([(text, ONE_GROUP[0]) for text in _python_docs()], config)
    path = Path(config.text)
    if path.exists():
        whole = path.is_dir()
        records = [one for file in _files(path) for one in _records(file, config, whole=whole)]
        return _texts(records, config)
    dataset = _dataset(config)
    if config.group is None:
        return Texts(dataset[config.text_column], np.zeros(len(dataset), np.int16), ONE_GROUP)
    return Texts(
        dataset[config.text_column], *number_groups(map(str, dataset[config.group]), config)
    )


def _texts(records: list[Record], config: ActivationsConfig) -> Texts:
    groups, names = number_groups((group for _, group in records), config)
    return Texts([text for text, _ in records], groups, names)


def _standard_library() -> list[Path]:
    folder = Path(os.__file__).parent
    paths = [folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)]
    return [path for path in paths if path.exists()]


def _python_docs() -> Iterator[str]:
    topics = import_module("pydoc_data.topics").topics
    yield from (topics[name] for name in sorted(topics))
    for path in _standard_library():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring


def _refuse_group(config: ActivationsConfig) -> None:
    if config.group is not None:
        raise BadInput(
            f"activations.group={config.group}: activations.text={config.text} has no columns: "
            "use .jsonl, .parquet or a data set, or activations.group=null"
        )


def _files(path: Path) -> list[Path]:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in found if file.suffix in SUFFIXES]
    if not files:
        raise BadInput(f"activations.text={path}: no {', '.join(SUFFIXES)} file there")
    return files


def _records(file: Path, config: ActivationsConfig, *, whole: bool) -> Iterator[Record]:
    """Yield a file's documents; `whole` makes one document of a .txt file."""
    try:
        match file.suffix:
            case ".txt":
                _refuse_group(config)
                text = file.read_text(encoding="utf-8")
                paragraphs = [text] if whole else re.split(r"\n\s*\n", text)
                yield from ((paragraph, ONE_GROUP[0]) for paragraph in paragraphs)
            case ".jsonl":
                yield from _json_records(file, config)
            case _:
                yield from _parquet_records(file, config)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(
            f"activations.text={file} cannot be read: {error}: it has to be {file.suffix} in UTF-8"
        ) from None


def _json_records(file: Path, config: ActivationsConfig) -> Iterator[Record]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = json.loads(line)
                keys = list(row) if isinstance(row, dict) else []
                _require_columns(f"{file} line {number}", keys, config)
                yield _record(row, f"{file} line {number}", config)


def _parquet_records(file: Path, config: ActivationsConfig) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            _require_columns(str(file), table.schema_arrow.names, config)
            columns = [column for column in (config.text_column, config.group) if column]
            for batch in table.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    yield _record(row, str(file), config)
    except pa.ArrowInvalid as error:
        raise BadInput(
            f"activations.text={file} cannot be read: {error}: write the file again"
        ) from None


def _record(row: dict[str, Any], place: str, config: ActivationsConfig) -> Record:
    text = row[config.text_column]
    if not isinstance(text, str | None):
        raise BadInput(
            f"activations.text_column={config.text_column} of {place} holds {text!r}: "
            "choose a column of text"
        )
    return text or "", str(row[config.group]) if config.group else ONE_GROUP[0]


def _require_columns(place: str, columns: list[str], config: ActivationsConfig) -> None:
    for key in ("text_column", "group"):
        column = getattr(config, key)
        if column is not None and column not in columns:
            raise BadInput(
                f"activations.{key}={column}: {place} has no such column; "
                f"it has {', '.join(columns) or 'none'}"
            )


def _dataset(config: ActivationsConfig) -> Any:
    """Open a data set by name, downloading it where it is not on disk yet."""
    if Path(config.text).suffix in SUFFIXES or config.text.startswith((".", "/", "~")):
        raise BadInput(f"activations.text={config.text}: no such file: check the path")
    try:
        datasets = import_module("datasets")
    except ModuleNotFoundError:
        raise BadInput(
            f"activations.text={config.text} is no file here, and data sets need a package: "
            "check the path, or pip install sae-sweep[datasets]"
        ) from None
    try:
        dataset = datasets.load_dataset(config.text, split=config.text_split)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"activations.text={config.text} with activations.text_split={config.text_split} "
            f"cannot be loaded: {error}: give a local file instead"
        ) from None
    _require_columns(f"the data set {config.text}", dataset.column_names, config)
    return dataset
