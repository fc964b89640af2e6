"""Recorded settings, flat and as text."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from analysis.page.markdown import counted
from analysis.study.hyperparameters import INACTIVE
from analysis.study.table import Study
from sae_sweep.records import TrialRecord


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


def distinct(study: Study, of: Callable[[TrialRecord], str | None]) -> dict[str, int]:
    """The values of something recorded, each with its trials; in order."""
    found = Counter(str(value) for one in study.records if (value := of(one)) is not None)
    return dict(sorted(found.items()))


def device(record: TrialRecord) -> str | None:
    """The device, with its threads."""
    if record.device is None or record.threads is None:
        return record.device
    return f"{record.device}, {counted(record.threads, 'thread')}"


def versions(of: dict[str, str]) -> str:
    """Packages with their versions."""
    return ", ".join(f"{name} {version}" for name, version in sorted(of.items()))
