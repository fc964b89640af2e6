"""TensorBoard: one folder of event files per trial, below outputs/<sweep>/tensorboard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub import dtypes
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from sae_sweep.records import TrialRecord
from sae_sweep.sinks import Sink, flat


def open_sink(sweep: str, outputs: Path) -> Sink:
    """Write below the sweep's folder."""
    return TensorBoardSink(outputs / sweep / "tensorboard")


@final
class TensorBoardSink:
    """Event files; the step of every value is the number of tokens trained."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def begin(self, trial: TrialRecord) -> None:
        """Open the trial's folder and write its settings for the HParams tab."""
        writer = EventFileWriter(str(self._folder / trial.folder))
        self._writers[trial.uid] = writer
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flat(trial.config).items()
        }
        settings = hparams.hparams_pb(plain, trial_id=trial.uid)
        writer.add_event(Event(wall_time=time.time(), summary=settings))

    def log(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        """Write one scalar per metric."""
        self._scalars(trial, tokens, values)

    def end(self, trial: TrialRecord, tokens: int) -> None:
        """Write the final metrics as final/NAME, and the status as text."""
        final = {f"final/{name}": value for name, value in trial.final.items() if value is not None}
        self._scalars(trial, tokens, final)
        words = trial.status if trial.error is None else f"{trial.status}: {trial.error}"
        self._writers[trial.uid].add_event(_text("status", words, tokens))
        self._writers.pop(trial.uid).close()

    def attach(self, report: Path) -> None:
        """Write the report as text; event files take no files."""
        page = report / "report.md"
        writer = EventFileWriter(str(self._folder / "report"))
        writer.add_event(_text("report", page.read_text(encoding="utf-8"), 0))
        writer.close()

    def close(self) -> None:
        """Flush what is open."""
        for writer in self._writers.values():
            writer.close()

    def _scalars(self, trial: TrialRecord, tokens: int, values: Mapping[str, float]) -> None:
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=tokens, summary=Summary(value=found))
        self._writers[trial.uid].add_event(event)
        self._writers[trial.uid].flush()


def _text(tag: str, words: str, tokens: int) -> Event:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = make_tensor_proto([words.encode()], dtype=dtypes.string)
    value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
    return Event(wall_time=time.time(), step=tokens, summary=Summary(value=[value]))
