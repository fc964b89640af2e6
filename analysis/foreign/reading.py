"""Runs from a CSV, JSONL or Parquet file, or from a folder of run folders: cells as they stand."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from analysis.foreign import literals
from sae_sweep.errors import BadInput
from sae_sweep.inputs import (
    InputFile,
    csv_rows,
    edge,
    find_files,
    json_rows,
    parquet_rows,
    reason,
    sha256,
    visible,
    whole_text,
)

GIVEN_AS = "import "
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
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
    places: list[str]
    """Of each row in words, for messages."""
    skipped: list[str]
    """Names of what lies in a folder of runs and is none."""


def read(path: Path, ignored: Collection[str] = ()) -> Table:
    """Read every run; nested settings become columns with dotted names.

    Args:
        path: of a file or a folder of run folders.
        ignored: columns that are left as they stand.

    Raises:
        BadInput: nothing is there, it cannot be read as what its suffix says, or it is empty.
    """
    if not os.path.lexists(path):
        raise BadInput(f"import {path}: there is no such file or folder")
    with edge(f"{GIVEN_AS}{path}", "is it the right file?"):
        table = _folder(path, ignored) if path.is_dir() else _file(path, ignored)
    if not table.rows:
        raise BadInput(f"import {path}: it holds no run; is it the right file?")
    return table


def _file(path: Path, ignored: Collection[str]) -> Table:
    found = find_files(path, GIVEN_AS, KINDS)
    if not found.files:
        raise BadInput(
            f"import {path}: {path.suffix or 'no suffix'} is not known: give a .csv, .jsonl or "
            ".parquet file with a row a run, or a folder of run folders"
        )
    (file,) = found.files
    unit = "line"
    match file.kind:
        case ".csv" | ".tsv":
            unit, rows = "row", _csv(file)
        case ".parquet":
            unit, rows = "row", list(parquet_rows(file))
        case _:
            rows = list(json_rows(file))
    for number, row in rows:
        if not isinstance(row, dict):
            raise BadInput(
                f"import {path} line {number} is not a JSON object: a run is one object per line"
            )
    places = [f"{unit} {number}" for number, _ in rows]
    return _table(
        Source(path.name, sha256(path)), [row for _, row in rows], places, ignored=ignored
    )


def _csv(file: InputFile) -> list[tuple[int, dict[str, Any]]]:
    rows = csv_rows(file, "\t" if file.kind == ".tsv" else ",")
    _, header = next(rows, (0, []))
    # pandas writes its row numbers under no name
    header = [name.strip() or f"(column {i})" for i, name in enumerate(header, start=1)]
    if twice := {name for name in header if header.count(name) > 1}:
        raise BadInput(f"import {file.path}: two columns are called {sorted(twice)[0]}: rename one")
    found = []
    for i, (line, row) in enumerate(rows, start=1):
        if len(row) != len(header):
            raise BadInput(
                f"import {file.path}: row {i} has {len(row)} cells and the header {len(header)} "
                f"(line {line}): separate cells by commas and quote those that contain one"
            )
        found.append((i, dict(zip(header, row, strict=True))))
    return found


def _folder(path: Path, ignored: Collection[str]) -> Table:
    """One run per folder: its name, and the settings and metrics of its JSON files."""
    hashed = hashlib.sha256()
    rows, skipped = [], list[Path]()
    for folder in visible(path, GIVEN_AS, skipped):
        if not folder.is_dir():
            continue
        row: dict[str, Any] = {NAME: folder.name}
        for entry in visible(folder, GIVEN_AS, []):
            if entry.suffix.lower() == ".json":
                file = InputFile(entry, GIVEN_AS)
                text = whole_text(file)
                hashed.update(text.encode(errors="surrogatepass"))
                value = _json(text, file)
                if isinstance(value, dict):  # a list is a history, not a run's last word
                    row[entry.stem] = value
        rows.append(row)
    if not any(len(row) > 1 for row in rows):
        raise BadInput(
            f"import {path}: none of its {len(rows)} folders holds a JSON file: a run is a folder "
            "with e.g. config.json and metrics.json"
        )
    source = Source(path.resolve().name, hashed.hexdigest())
    places = [f"folder {row[NAME]}" for row in rows]
    return _table(source, rows, places, [one.name for one in skipped], ignored)


def _json(text: str, file: InputFile) -> Any:
    with edge(file.place(), "it is no JSON: mend or remove it"):
        return json.loads(text)


def _table(
    source: Source,
    rows: Iterable[dict[str, Any]],
    places: list[str],
    skipped: Collection[str] = (),
    ignored: Collection[str] = (),
) -> Table:
    rows = list(rows)
    nested = _nested(rows)
    flat = []
    for row, place in zip(rows, places, strict=True):
        cells = {key: cell for key, cell in row.items() if key not in ignored}
        left = {key: str(cell) for key, cell in row.items() if key in ignored}
        flat.append(dict(_flattened(cells, nested, f"import {source.name} {place}")) | left)
    columns = list(dict.fromkeys(name for row in flat for name in row))
    return Table(source, columns, flat, places, list(skipped))


def _nested(rows: Iterable[dict[str, Any]]) -> frozenset[str]:
    """Columns of text in which at least one cell is a dict."""
    found = set[str]()
    for row in rows:
        for key, cell in row.items():
            if key not in found and _looks_nested(cell):
                try:
                    if isinstance(literals.parse(cell), dict):
                        found.add(key)
                except ValueError:
                    continue
    return frozenset(found)


def _looks_nested(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip().startswith("{") and cell.strip().endswith("}")


def _flattened(
    row: dict[str, Any], nested: Collection[str], place: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Cells by dotted name; W&B wraps a setting as {"value": ...} and writes dicts as text."""
    for key, cell in row.items():
        value = cell
        if key in nested and _looks_nested(cell):
            try:
                value = literals.parse(cell)
            except ValueError as error:
                raise BadInput(
                    f"{place}: column {key} holds dicts, and this cell cannot be read as one "
                    f"({reason(error)}): mend it, or leave the column out with --map '{key}=ignore'"
                ) from None
        if isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, dict):
            inner = {str(name): one for name, one in value.items()}
            yield from _flattened(inner, _nested([inner]), place, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
