"""What trials were made with, as it was recorded."""

from collections import Counter
from collections.abc import Callable

from analysis.markdown import counted
from analysis.study import Study
from sae_sweep.records import TrialRecord


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
