"""Tables in files: rows with the number at which a user finds them."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sae_sweep.errors import BadInput
from sae_sweep.inputs.edge import Place, edge
from sae_sweep.inputs.files import InputFile
from sae_sweep.inputs.text import LONGEST, lines

BATCH_BYTES = 2**24
BATCH_ROWS = 1024
"""Bounds of what is unpacked of a Parquet file at once."""

BOMB_BYTES = 2**26
BOMB_RATIO = 1000
"""A column this large and this many times its compressed size was made to fill the memory."""


def json_rows(file: InputFile) -> Iterator[tuple[int, Any]]:
    """Yield the line number and value of every line that is not blank.

    Raises:
        BadInput: with the line, for what is no JSON; as `text.lines`.
    """
    place = file.place()
    with edge(place, f"a {file.kind} file holds one JSON object per line"):
        for number, line in lines(file):
            place.number = number
            if line.strip():
                yield number, json.loads(line)


def csv_rows(file: InputFile, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the line number (of its end) and cells of every row that is not empty.

    Raises:
        BadInput: with the line, for quotes that do not match; as `text.lines`.
    """
    place = file.place()
    csv.field_size_limit(LONGEST)
    with edge(place, "separate cells by commas and quote those that contain one"):
        read = csv.reader(_terminated(file, place), delimiter=delimiter, strict=True)
        for row in read:
            if row:
                yield read.line_num, row


def _terminated(file: InputFile, place: Place) -> Iterator[str]:
    for number, line in lines(file):
        place.number = number
        yield f"{line}\n"


def parquet_columns(file: InputFile) -> list[str]:
    """The names of a Parquet file's columns.

    Raises:
        BadInput: it cannot be read.
    """
    from pyarrow import parquet

    file.require_readable()
    with edge(file.place(), "write the file again"), parquet.ParquetFile(file.path) as table:
        return table.schema_arrow.names


def parquet_rows(
    file: InputFile, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and cells of every row, from 1; little is in memory at once.

    Raises:
        BadInput: it cannot be read, or a column would fill the memory.
    """
    from pyarrow import parquet

    file.require_readable()
    place = file.place("row")
    with edge(place, "write the file again"):
        # values that repeat stay one value in memory
        schema = parquet.read_schema(file.path)
        names = list(schema.names if columns is None else columns)
        texts = [name for name in names if str(schema.field(name).type) in _TEXTS]
        options = {"buffer_size": 2**20, "pre_buffer": False, "read_dictionary": texts}
        with parquet.ParquetFile(file.path, **options) as table:
            size = _batch_rows(table.metadata, set(names), place)
            number = 0
            for batch in table.iter_batches(batch_size=size, columns=names):
                cells = [batch.column(name) for name in names]
                for i in range(batch.num_rows):
                    number += 1
                    place.number = number
                    row = {
                        name: column[i].as_py() for name, column in zip(names, cells, strict=True)
                    }
                    yield number, row


_TEXTS = frozenset({"string", "large_string", "string_view"})


def _batch_rows(metadata: Any, names: set[str], place: Place) -> int:
    """Rows that may be unpacked at once."""
    most = BATCH_ROWS
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        for chunk in (one for one in chunks if one.path_in_schema.split(".")[0] in names):
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * max(packed, 1):
                raise BadInput(
                    f"{place}: {packed:,} bytes of column {chunk.path_in_schema} unpack to "
                    f"{unpacked:,}: write the file again with smaller values"
                )
            per_row = max(1, unpacked // max(group.num_rows, 1))
            most = min(most, max(1, BATCH_BYTES // per_row))
    return most
