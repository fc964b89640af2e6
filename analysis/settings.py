"""Recorded settings, flat and as text."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from analysis.hyperparameters import INACTIVE


def flattened(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def text(value: object) -> str:
    """A setting's value; one that has no effect is called inactive."""
    if value is None:
        return INACTIVE
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(value: object) -> str:
    """A value as a report shows it: a local file by its name, not by where somebody keeps it."""
    if isinstance(value, str) and PurePath(value).is_absolute():
        return f".../{PurePath(value).name}"
    return text(value)
