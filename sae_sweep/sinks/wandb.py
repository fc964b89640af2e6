"""Weights & Biases: one run per trial, the sweep as group; offline with WANDB_MODE=offline."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import wandb

from sae_sweep.errors import BadInput
from sae_sweep.records import TrialRecord
from sae_sweep.records.uid import digest
from sae_sweep.sinks import Sink

PROJECT = "sae_sweep"
"""Where WANDB_PROJECT names no other."""


def open_sink(sweep: str, outputs: Path) -> Sink:
    """Check that runs can be sent, or are kept on this machine.

    Raises:
        BadInput: nobody is logged in.
    """
    offline = os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun")
    if not offline and not wandb.api.api_key:
        raise BadInput(
            "sinks=[wandb] and nobody is logged in: run `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline and upload later with `wandb sync`"
        )
    folder = outputs / sweep / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    return WandbSink(sweep, folder)


@final
class WandbSink:
    """Runs whose id is made of sweep and uid, so that a resumed trial goes on in its run."""

    def __init__(self, sweep: str, folder: Path) -> None:
        self._sweep = sweep
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def begin(self, trial: TrialRecord) -> None:
        """Open or resume the trial's run."""
        run = self._init(digest([self._sweep, trial.uid]), trial.folder, "trial", trial.config)
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        self._runs[trial.uid] = run

    def log(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        """Add a row of the run's history."""
        self._runs[trial.uid].log({**values, "tokens": tokens}, step=tokens)

    def end(self, trial: TrialRecord, tokens: int) -> None:
        """Write the summary; W&B shows any end but done or stopped as failed."""
        run = self._runs.pop(trial.uid)
        final = {name: math.nan if value is None else value for name, value in trial.final.items()}
        reason = {"error": trial.error} if trial.error else {}
        run.summary.update({**final, **reason, "status": trial.status, "tokens": tokens})
        run.finish(exit_code=0 if trial.status in ("done", "stopped") else 1)

    def attach(self, report: Path) -> None:
        """Add the report's folder as an artifact of a run of its own."""
        run = self._init(digest([self._sweep, "report"]), f"{self._sweep} report", "report", {})
        artifact = wandb.Artifact(f"{self._sweep}-report", type="report")
        for path in [report / "report.md", report / "figures", report / "data"]:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            elif path.exists():
                artifact.add_file(str(path))
        run.log_artifact(artifact)
        run.finish()

    def close(self) -> None:
        """Mark what did not end as crashed; it is resumed with its trial."""
        for run in self._runs.values():
            run.finish(exit_code=1)

    def _init(self, run_id: str, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=name,
            group=self._sweep,
            job_type=kind,
            config=dict(config),
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
            ),
        )
