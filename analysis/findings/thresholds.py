"""Bands of metrics (good, warning, critical), from one validated table."""

import math
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from analysis.page.markdown import number
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records import METRICS

DEFAULT = Path(__file__).with_suffix(".toml")
REQUIRED = {"metric": str, "unit": str, "grade": str, "source": str}


class Band(NamedTuple):
    """Values from `low` to below `high`, and what they are called."""

    metric: str
    grade: str
    low: float
    high: float
    source: str

    @property
    def extent(self) -> str:
        """The band in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "any value"
        if math.isinf(self.low):
            return f"below {number(self.high)}"
        if math.isinf(self.high):
            return f"{number(self.low)} or more"
        return f"{number(self.low)} to below {number(self.high)}"


class Thresholds(NamedTuple):
    """Bands of graded metrics, and reasons for ungraded ones."""

    name: str
    """Of the file."""
    bands: dict[str, list[Band]]
    """By metric, ascending; they cover every number."""
    ungraded: dict[str, str]
    """Why a metric is shown without a grade, by its name."""

    def band(self, metric: str, value: float) -> Band | None:
        """The band of a finite value; None where the metric has no grades."""
        return next((b for b in self.bands.get(metric, []) if b.low <= value < b.high), None)


def load(path: Path = DEFAULT) -> Thresholds:
    """Read a table of bands.

    Raises:
        BadInput: it cannot be read, a row is malformed or of another unit, or the bands of a
            metric leave a gap or overlap; the message names file and row.
    """
    with edge(f"--thresholds={path}", "give a TOML file"):
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = told.keys() - {"band", "ungraded"}
    if unknown or not isinstance(told.get("band", []), list):
        names = ", ".join(sorted(unknown)) or "band"
        raise BadInput(f"--thresholds={path}: {names} is no list of rows: write [[band]] tables")
    rows: dict[str, list[tuple[int, Band]]] = {}
    for i, row in enumerate(told.get("band", []), start=1):
        band = _band(f"--thresholds={path}, band {i}", row)
        rows.setdefault(band.metric, []).append((i, band))
    if not rows:
        raise BadInput(f"--thresholds={path} has no band: write [[band]] tables")
    bands = {metric: _contiguous(path, metric, numbered) for metric, numbered in rows.items()}
    return Thresholds(path.name, bands, _ungraded(path, told.get("ungraded", []), bands))


def _band(where: str, row: Any) -> Band:
    if not isinstance(row, dict):
        raise BadInput(f"{where} is no table: write [[band]] and its keys below")
    for key, kind in REQUIRED.items():
        if not isinstance(row.get(key), kind) or not row[key].strip():
            raise BadInput(f"{where}: {key}={row.get(key)!r} is no text: write {key} = ...")
    if unknown := row.keys() - REQUIRED.keys() - {"from", "to"}:
        raise BadInput(f"{where}: unknown {', '.join(sorted(unknown))}: from and to are its ends")
    metric = METRICS.get(row["metric"])
    if metric is None:
        raise BadInput(f"{where}: no metric is called {row['metric']}: {', '.join(METRICS)}")
    if row["unit"] != metric.unit:
        raise BadInput(
            f"{where}: {metric.name} is in {row['unit']}, but measured in {metric.unit}: "
            "convert its ends"
        )
    ends = [row.get("from", -math.inf), row.get("to", math.inf)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise BadInput(f"{where}: from={ends[0]} and to={ends[1]} must be numbers")
    low, high = map(float, ends)
    if not low < high:
        raise BadInput(f"{where}: from={low:g} is not below to={high:g}: exchange or mend them")
    return Band(metric.name, row["grade"], low, high, row["source"])


def _contiguous(path: Path, metric: str, numbered: list[tuple[int, Band]]) -> list[Band]:
    """The bands of a metric in order; each must begin where the one below it ends."""
    ordered = sorted(numbered, key=lambda pair: pair[1].low)
    reached, last = -math.inf, ""
    for i, band in ordered:
        where = f"--thresholds={path}, band {i}: {metric} {band.grade} begins at {band.low:g}"
        if band.low > reached:
            before = f"the band below ends at {reached:g}" if last else "nothing stands below"
            raise BadInput(f"{where}, but {before}: a gap; let bands meet")
        if band.low < reached:
            raise BadInput(
                f"{where}, but {last} reaches to {reached:g}: they overlap; let them meet"
            )
        reached, last = band.high, f"band {i} ({band.grade})"
    if reached < math.inf:
        raise BadInput(
            f"--thresholds={path}: {metric} has no band from {reached:g} on: a gap; leave out the "
            f"`to` of {last}"
        )
    return [band for _, band in ordered]


def _ungraded(path: Path, rows: Any, bands: dict[str, list[Band]]) -> dict[str, str]:
    found = {}
    for i, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        where = f"--thresholds={path}, ungraded {i}"
        metric, reason = (
            row.get(key) if isinstance(row, dict) else None for key in ("metric", "reason")
        )
        if metric not in METRICS or not isinstance(reason, str) or not reason.strip():
            raise BadInput(f"{where}: give metric, one of the registry, and reason, a text")
        if metric in bands:
            raise BadInput(f"{where}: {metric} has bands too: remove one or the other")
        found[metric] = reason
    return found
