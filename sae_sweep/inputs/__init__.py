"""What users hand in: files opened in one way, foreign errors as one message."""

from sae_sweep.inputs.edge import Place, edge, reason
from sae_sweep.inputs.files import Found, InputFile, find_files, hidden, visible, whole_kind
from sae_sweep.inputs.notes import heard, note
from sae_sweep.inputs.tables import csv_rows, json_rows, parquet_columns, parquet_rows
from sae_sweep.inputs.text import lines, paragraphs, sha256, whole_text, without_surrogates

__all__ = [
    "Found",
    "InputFile",
    "Place",
    "csv_rows",
    "edge",
    "find_files",
    "heard",
    "hidden",
    "json_rows",
    "lines",
    "note",
    "paragraphs",
    "parquet_columns",
    "parquet_rows",
    "reason",
    "sha256",
    "visible",
    "whole_kind",
    "whole_text",
    "without_surrogates",
]
