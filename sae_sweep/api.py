"""A sweep from Python, as the command line runs it: the same settings, store, trials and report."""

import base64
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_sweep.cli.compose import compose, validate_run
from sae_sweep.errors import BadInput
from sae_sweep.records import METRICS, TrialRecord
from sae_sweep.records.store import Reader, default_url
from sae_sweep.remote import fetch, local_folder

if TYPE_CHECKING:
    import pandas as pd

    from sae_sweep.sae import AbstractSae

L0_TOLERANCE = 0.1
"""How far a trial's l0 may be from the one that `best` is asked for, relative to it."""


class Sweep:
    """A sweep that was run: its trials, its report, its weights. Reads the store, writes nothing.

    Raises:
        BadInput: from every method, where the store knows no sweep of this name.
    """

    def __init__(self, name: str, outputs: Path, url: str) -> None:
        self.name = name
        self.outputs = outputs
        self._url = url

    def trials(self) -> "pd.DataFrame":
        """One row per trial: uid, label, status, settings by dotted key, final metrics, error."""
        from analysis.data import runs
        from analysis.study.table import load

        with Reader(self._url) as reader:
            return runs(load(reader.sweep(self.name)))

    def best(self, metric: str = "fvu", *, l0: float | None = None) -> TrialRecord:
        """The finished trial with the best value of a metric, at an L0 where one is given.

        One trial is no finding: `report()` says which differences exceed the noise.

        Args:
            metric: one of `sae_sweep.records.METRICS` that has a better direction.
            l0: latents per token; only trials within 10 % of it are looked at.

        Raises:
            BadInput: no such metric, or no trial that can be ranked.
        """
        known = [one.name for one in METRICS.values() if one.direction != "none"]
        if metric not in known:
            raise BadInput(
                f"best({metric!r}): there is no such metric to rank by; use one of "
                f"{', '.join(known)}"
            )
        with Reader(self._url) as reader:
            trials = reader.sweep(self.name).trials
        ranked = [
            (value, trial)
            for trial in trials
            if trial.status == "done" and not trial.worse_than_mean
            if (value := trial.final.get(metric)) is not None
            if l0 is None or _near(trial.final.get("l0"), l0)
        ]
        if not ranked:
            where = "" if l0 is None else f" with l0 within {L0_TOLERANCE:.0%} of {l0:g}"
            raise BadInput(f"{self.name} has no finished trial with {metric}{where}")
        choose = min if METRICS[metric].direction == "down" else max
        return choose(ranked, key=lambda one: (one[0], one[1].uid))[1]

    def load(self, trial: TrialRecord | str) -> "AbstractSae":
        """The trained autoencoder of a trial: a record, a label or the beginning of a uid.

        Raises:
            BadInput: no such trial, or its weights were not kept.
        """
        from sae_sweep.sae import load

        if isinstance(trial, str):
            with Reader(self._url) as reader:
                trial = reader.find(trial)
        return load(fetch(self.outputs, f"trials/{trial.folder}"))

    def report(self) -> str:
        """The report's Markdown; its figures lie in outputs/NAME/figures."""
        return (self.outputs / self.name / "report.md").read_text(encoding="utf-8")

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the report with its figures inside."""
        folder = self.outputs / self.name / "figures"
        return re.sub(
            r"\]\(figures/(\w+\.png)\)",
            lambda found: f"](data:image/png;base64,{_encoded(folder / found[1])})",
            self.report(),
        )


def _encoded(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()


def run(
    sweep: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    config_dir: str | Path | None = None,
) -> Sweep:
    """Run or continue a sweep and return it; progress goes to the standard error.

    Args:
        sweep: a name of conf/sweep, as in +sweep=NAME.
        settings: values and axes by dotted key; a list is an axis.
        config_dir: a folder with sweeps and other choices of your own.

    Raises:
        BadInput: before any work starts; the message names the setting, its value, the way out.
        KeyboardInterrupt: Ctrl-C; the same call continues.

    Example:
        >>> import sae_sweep
        >>> done = sae_sweep.run("smoke", {"sae.k": [4, 8], "executor": "inline"})
        report: outputs/smoke/report.md (figures/ and data/ beside it)
        >>> done.best("fvu", l0=8).config["sae"]["k"]
        8
    """
    from sae_sweep.cli.exit_codes import INTERRUPTED
    from sae_sweep.cli.run import run as run_sweep

    overrides = [] if sweep is None else [f"+sweep={sweep}"]
    overrides += [f"{key}={_hydra(value)}" for key, value in (settings or {}).items()]
    composed = compose(overrides, None if config_dir is None else Path(config_dir)).settings
    config = validate_run(composed)
    if run_sweep(composed, config, overrides) == INTERRUPTED:
        raise KeyboardInterrupt
    outputs = local_folder(config.outputs).absolute()
    return Sweep(config.sweep.name, outputs, config.store.url or default_url(outputs))


def _near(value: float | None, l0: float) -> bool:
    return value is not None and math.isclose(value, l0, rel_tol=L0_TOLERANCE)


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar."""
    match value:
        case str() | Path():
            return str(value)
        case Mapping():
            return "{" + ",".join(f"{key}:{_hydra(one)}" for key, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_hydra, value)) + "]"
        case None:
            return "null"
        case _:
            return json.dumps(value)
