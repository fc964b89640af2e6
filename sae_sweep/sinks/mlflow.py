"""MLflow: one experiment per sweep, one run per trial; a local database without a server."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from sae_sweep.inputs import edge
from sae_sweep.records import TrialRecord
from sae_sweep.sinks import Sink, flat

UID = "sae_sweep.uid"
"""The tag by which a trial's run is found again."""

PARAM_LIMIT = 6000
"""Characters that MLflow keeps of a parameter."""

ENDED = {"done": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED"}


def open_sink(sweep: str, outputs: Path) -> Sink:
    """Connect to MLFLOW_TRACKING_URI, or to outputs/mlflow.db.

    Raises:
        BadInput: the server or database cannot be used.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    files = None if uri else (outputs / "mlflow-artifacts" / sweep).as_uri()
    with edge(
        "sinks=[mlflow]",
        "start the server, or unset it to write to outputs/mlflow.db",
        f"cannot use MLFLOW_TRACKING_URI={uri or 'outputs/mlflow.db'}",
    ):
        client = MlflowClient(uri or f"sqlite:///{outputs / 'mlflow.db'}")
        known = client.get_experiment_by_name(sweep)
        experiment = known.experiment_id if known else client.create_experiment(sweep, files)
    return MlflowSink(client, experiment)


@final
class MlflowSink:
    """Runs that are found again by the trial's uid."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client = client
        self._experiment = experiment
        self._runs: dict[str, str] = {}

    def begin(self, trial: TrialRecord) -> None:
        """Create the trial's run with its settings, or set the one that is there to running."""
        run, new = self._run(trial.uid, trial.folder)
        self._runs[trial.uid] = run
        if new:
            settings = flat(trial.config).items()
            params = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in settings]
            self._client.log_batch(run, params=params)
        else:
            self._client.update_run(run, status="RUNNING")

    def log(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        """Add metrics; a step is a token."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, tokens) for name, value in values.items()]
        self._client.log_batch(self._runs[trial.uid], metrics=metrics)

    def end(self, trial: TrialRecord, tokens: int) -> None:
        """Add the final metrics as final.NAME and end the run."""
        final = {
            f"final.{name}": math.nan if value is None else value
            for name, value in trial.final.items()
        }
        self.log(trial, tokens, final)
        run = self._runs.pop(trial.uid)
        self._client.set_tag(run, "sae_sweep.status", trial.status)
        if trial.error:
            self._client.set_tag(run, "sae_sweep.error", trial.error)
        self._client.set_terminated(run, ENDED.get(trial.status, "FAILED"))

    def attach(self, report: Path) -> None:
        """Add the report's folder to a run of its own."""
        run, _ = self._run("report", "report")
        self._client.log_artifact(run, str(report / "report.md"))
        for folder in ("figures", "data"):
            if (report / folder).is_dir():
                self._client.log_artifacts(run, str(report / folder), folder)
        self._client.set_terminated(run)

    def close(self) -> None:
        """Mark what did not end as killed; it goes on with its trial."""
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")

    def _run(self, uid: str, name: str) -> tuple[str, bool]:
        """The run of this uid, and whether it is new."""
        found = self._client.search_runs([self._experiment], f"tags.`{UID}` = '{uid}'")
        if found:
            return found[0].info.run_id, False
        run = self._client.create_run(self._experiment, run_name=name, tags={UID: uid})
        return run.info.run_id, True
