"""Autoencoders that were trained elsewhere, measured on a sweep's rows: shown, never ranked."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae_sweep.inputs import edge

FOLDER = "references"
"""In a sweep's folder of outputs; a file per autoencoder."""


@dataclass(frozen=True)
class Reference:
    """One such autoencoder."""

    name: str
    """What it is called in the report."""
    layout: str
    """The library whose layout it was read from."""
    kind: str
    """Architecture, by our names."""
    n_latents: int
    checksum: str
    """Sha256 of its weights."""
    fingerprint: str
    """Of the activations whose validation rows it was measured on."""
    place: str | None = None
    """What it was trained on, as it says itself."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """By the names of `METRICS`; None where not finite."""
    notes: tuple[str, ...] = ()
    """What could not be checked or measured."""

    @property
    def file(self) -> str:
        """Name of its file: equal weights on equal rows have one."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-") or "reference"
        return f"{plain[:80]}-{self.checksum[:8]}-{self.fingerprint[:6]}.json"

    def value(self, metric: str) -> float:
        """A metric or `n_latents`; NaN where it was not measured or not finite."""
        if metric == "n_latents":
            return float(self.n_latents)
        found = self.metrics.get(metric)
        return math.nan if found is None else found

    def text(self) -> str:
        """Write it as JSON."""
        told: dict[str, Any] = asdict(self)
        told["metrics"] = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in self.metrics.items()
        }
        return json.dumps(told, indent=1, sort_keys=True) + "\n"


_REFERENCE = TypeAdapter(Reference)


def read_references(folder: Path) -> tuple[Reference, ...]:
    """The references of a sweep, by name.

    Args:
        folder: the sweep's, outputs/NAME.

    Raises:
        BadInput: for a file that is none.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        with edge(str(path), "delete it and evaluate again", "is not a reference"):
            found.append(_REFERENCE.validate_python(json.loads(path.read_text(encoding="utf-8"))))
    return tuple(sorted(found, key=lambda one: (one.name, one.file)))
