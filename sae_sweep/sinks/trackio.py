"""trackio: one run per trial, the sweep as group; in outputs/trackio unless TRACKIO_* differ."""

import contextvars
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from sae_sweep.records import TrialRecord
from sae_sweep.sinks import Sink

PROJECT = "sae_sweep"


def open_sink(sweep: str, outputs: Path) -> Sink:
    """Set where trackio writes, which it reads when it is imported."""
    os.environ.setdefault("TRACKIO_DIR", str(outputs / "trackio"))
    return TrackioSink(sweep)


@final
class TrackioSink:
    """Runs by the name of the trial's folder, which holds its uid."""

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        self._runs: dict[str, Any] = {}

    def begin(self, trial: TrialRecord) -> None:
        """Open or resume the trial's run."""
        self._runs[trial.uid] = self._init(trial.folder, trial.config)

    def log(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        """Add a row."""
        self._runs[trial.uid].log(dict(values), step=tokens)

    def end(self, trial: TrialRecord, tokens: int) -> None:
        """Add the final metrics and the status; any end but done raises an alert."""
        run = self._runs.pop(trial.uid)
        final = {f"final/{name}": value for name, value in trial.final.items() if value is not None}
        run.log({**final, "status": trial.status}, step=tokens)
        if trial.status != "done":
            run.alert(trial.status, trial.error, step=tokens)
        run.finish()

    def attach(self, report: Path) -> None:
        """Add the report as an artifact of a run of its own."""
        run = self._init(f"{self._sweep} report", {})
        run.log_artifact(report / "report.md", name=f"{self._sweep}-report", type="report")
        run.finish()

    def close(self) -> None:
        """Flush what is open."""
        for run in self._runs.values():
            run.finish()

    def _init(self, name: str, config: Mapping[str, Any]) -> Any:
        """Open a run beside others: in a context of its own, or trackio would end the last one."""
        import trackio  # after TRACKIO_DIR is set

        return contextvars.copy_context().run(
            trackio.init,
            project=PROJECT,
            name=name,
            group=self._sweep,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
