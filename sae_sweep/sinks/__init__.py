"""Trackers that a sweep is copied to: TensorBoard, W&B, trackio, MLflow.

A sink is fed from the store, by a process of its own: a tracker that fails or hangs holds up
nothing, and what it has missed is sent the next time.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records import TrialRecord

PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
"""The package that each sink imports; the extra has the sink's name."""


class Sink(Protocol):
    """One tracker. A trial is one run of it, also where many trials train together."""

    def begin(self, trial: TrialRecord) -> None:
        """Open the trial's run, or go on with it, and say its settings."""

    def log(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        """Add the metrics of one report, at the tokens trained so far; NaN where not finite."""

    def end(self, trial: TrialRecord, tokens: int) -> None:
        """Close the run, after so many tokens: final metrics, status, the reason of a failure."""

    def attach(self, report: Path) -> None:
        """Add the folder of the sweep's report, where the tracker takes files."""

    def close(self) -> None:
        """Close the tracker; a run that is still open did not end."""


def require(names: Sequence[str]) -> None:
    """Check that the packages of some sinks are installed.

    Raises:
        BadInput: names the extra that brings a missing one.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise BadInput(
                f"sinks=[{name}] needs the package {PACKAGES[name]}, which is not installed: "
                f"pip install 'sae-sweep[{name}]'"
            )


def open_sink(name: str, sweep: str, outputs: Path) -> Sink:
    """Open a tracker for one sweep.

    Raises:
        BadInput: it cannot be used here, e.g. nobody is logged in.
    """
    with edge(f"sinks=[{name}]", "mend that, or leave the sink out", "cannot be opened"):
        module = importlib.import_module(f"sae_sweep.sinks.{name}")
        sink: Sink = module.open_sink(sweep, outputs)
        return sink


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Settings by dotted key, as trackers list them."""
    found: dict[str, object] = {}
    for name, value in config.items():
        key = prefix + name
        found |= flat(value, key + ".") if isinstance(value, Mapping) else {key: value}
    return found
