"""Runs from a CSV, JSONL or Parquet file, or from a folder of run folders: cells as they stand."""

import ast
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from sae_sweep.errors import BadInput

NAME = "name"
"""Column in which a folder of runs keeps the names of its folders."""


class Source(NamedTuple):
    """Where rows came from."""

    name: str
    """Of the file or folder, without its path."""
    sha256: str
    """Of the file; of a folder's JSON files one after another, in the order of their names."""


class Table(NamedTuple):
    """Runs as the foreign tool wrote them."""

    source: Source
    columns: list[str]
    rows: list[dict[str, Any]]
    """By column; CSV keeps text, so that the digits that were printed are known."""


def read(path: Path) -> Table:
    """Read every run; nested settings become columns with dotted names.

    Raises:
        BadInput: nothing is there, it cannot be read as what its suffix says, or it is empty.
    """
    if path.is_dir():
        table = _folder(path)
    elif not path.is_file():
        raise BadInput(f"import {path}: there is no such file or folder")
    else:
        table = _file(path)
    if not table.rows:
        raise BadInput(f"import {path}: it holds no run; is it the right file?")
    return table


def _file(path: Path) -> Table:
    content = path.read_bytes()
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv":
                rows = _csv(content.decode("utf-8-sig"), path)
            case ".jsonl" | ".ndjson":
                lines = content.decode("utf-8").splitlines()
                rows = [json.loads(line) for line in lines if line.strip()]
            case ".parquet":
                rows = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
            case other:
                raise BadInput(
                    f"import {path}: {other or 'no suffix'} is not known: give a .csv, .jsonl or "
                    ".parquet file with a row a run, or a folder of run folders"
                )
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pyarrow.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise BadInput(f"import {path}: it is no {path.suffix} file ({said})") from None
    if not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"import {path}: a line is not a JSON object; a run is one object a line")
    return _table(Source(path.name, hashlib.sha256(content).hexdigest()), rows)


def _csv(text: str, path: Path) -> list[dict[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, *rows = [row for row in lines if row] or [[]]
    if twice := {name for name in header if header.count(name) > 1}:
        raise BadInput(f"import {path}: two columns are called {sorted(twice)[0]}: rename one")
    for i, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise BadInput(
                f"import {path}: row {i} has {len(row)} cells and the header {len(header)}: "
                "separate cells by commas and quote those that contain one"
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def _folder(path: Path) -> Table:
    """A run a folder: its name, and every setting and metric of the JSON files in it."""
    hashed = hashlib.sha256()
    rows = []
    for folder in sorted(one for one in path.iterdir() if one.is_dir()):
        row: dict[str, Any] = {NAME: folder.name}
        for file in sorted(folder.glob("*.json")):
            content = file.read_bytes()
            hashed.update(content)
            try:
                value = json.loads(content)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise BadInput(f"import {file}: it is no JSON ({error})") from None
            if isinstance(value, dict):  # a list is a history, not a run's last word
                row[file.stem] = value
        rows.append(row)
    if not any(len(row) > 1 for row in rows):
        raise BadInput(
            f"import {path}: none of its {len(rows)} folders holds a JSON file: a run is a folder "
            "with e.g. config.json and metrics.json"
        )
    return _table(Source(path.resolve().name, hashed.hexdigest()), rows)


def _table(source: Source, rows: Iterable[dict[str, Any]]) -> Table:
    flat = [dict(_flattened(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    return Table(source, columns, flat)


def _flattened(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Cells by dotted name; W&B wraps a setting as {"value": ...} and writes dicts as text."""
    for key, cell in row.items():
        value = _parsed(cell)
        if isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parsed(cell: Any) -> Any:
    if not (isinstance(cell, str) and cell.startswith("{") and cell.endswith("}")):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return cell
