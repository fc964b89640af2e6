"""What may be the name of a folder: of a sweep in outputs, of a trial in outputs/trials."""

import re

from sae_sweep.errors import BadInput, printable

RESERVED_NAMES = ("activations", "trials", "cache", "sae_sweep.db", "optuna.db")

RESERVED_ENDS = ("-wal", "-shm", "-journal")
"""SQLite keeps files of such names beside a database, whatever it is called."""

LONGEST_NAME = 255
"""Bytes of one path component on common file systems."""

CONTEXTS_FILE = "contexts.json.gz"
"""In a trial's folder: where each of its latents fires, for the page of its latents."""
LATENTS_PAGE = "latents.html"
"""In a trial's folder: the page itself."""
PROBES_FILE = "probes.parquet"
"""In a trial's folder: how well each label is read off its latents."""


def checked_name(name: str, setting: str = "sweep.name") -> str:
    """Return the name if it can be a folder of outputs.

    Raises:
        BadInput: it cannot.
    """
    reserved = name in RESERVED_NAMES or name.endswith(RESERVED_ENDS)
    if reserved or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadInput(
            f"{setting}={name} cannot name a folder of outputs: use at most 100 letters, "
            f"digits, '.', '_' and '-', none of {', '.join(RESERVED_NAMES)}, and no end such as "
            f"{', '.join(RESERVED_ENDS)}"
        )
    return name


def checked_component(name: str) -> str:
    """Return the name if it is one plain component of a path, which no `..` or link leads out of.

    Raises:
        BadInput: it is not.
    """
    plain = name and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)
    if not plain or printable(name) != name or len(name.encode()) > LONGEST_NAME:
        raise BadInput(f"{name!r} is no name of a trial's folder: one plain path component")
    return name
