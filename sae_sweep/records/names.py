"""What a sweep may be called: its name is a folder of outputs."""

import re

from sae_sweep.errors import BadInput

RESERVED_NAMES = ("activations", "trials", "cache", "sae_sweep.db", "optuna.db")


def checked_name(name: str, setting: str = "sweep.name") -> str:
    """Return the name if it can be a folder of outputs.

    Raises:
        BadInput: it cannot.
    """
    if name in RESERVED_NAMES or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadInput(
            f"{setting}={name} cannot name a folder of outputs: use at most 100 letters, "
            f"digits, '.', '_' and '-', and none of {', '.join(RESERVED_NAMES)}"
        )
    return name
