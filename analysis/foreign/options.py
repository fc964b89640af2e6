"""The command's options as a request, and the mapping as it is shown to the user."""

import math
from collections.abc import Sequence
from pathlib import Path

from analysis.foreign import terms
from analysis.foreign.imported import Imported
from analysis.foreign.sweep import Request
from sae_sweep.errors import BadInput


def request(
    path: Path, name: str, question: str, maps: Sequence[str], bounds: Sequence[str]
) -> Request:
    """Read `theirs=ours` and `metric=low:high`.

    Raises:
        BadInput: one is not written so.
    """
    overrides = {}
    for text in maps:
        theirs, equals, ours = text.rpartition("=")
        if not (theirs and equals and ours):
            raise BadInput(f"--map {text}: write THEIRS=OURS, e.g. --map death=dead_features")
        overrides[theirs] = ours
    return Request(path, name, question, overrides, dict(map(_bound, bounds)))


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    metric, _, ends = text.partition("=")
    known = sorted({form.metric for form in terms.FORMS.values()})
    if metric not in known:
        raise BadInput(f"--bounds {text}: {metric} is no metric; there are {', '.join(known)}")
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(f"--bounds {text}: write METRIC=LOW:HIGH, e.g. --bounds fvu=0.004:676")
    return metric, (low, high)


def shown(imported: Imported) -> str:
    """The mapping as aligned text, and how to change it."""
    header = ("column", "read as", "because of", "values")
    rows = [
        header,
        *((one.theirs, one.ours, one.rule, str(one.values)) for one in imported.columns),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "another reading: --map COLUMN=NAME, or --map COLUMN=ignore"])
