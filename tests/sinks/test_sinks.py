"""Each tracker is read back by its own reader."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sae_sweep.cli import main
from sae_sweep.errors import BadInput
from sae_sweep.records.store import Reader, default_url
from sae_sweep.sinks import flat, process, require
from sae_sweep.sinks.follow import Ledger
from sae_sweep.sinks.process import SinkProcesses

WORDS = [
    "+sweep=smoke",
    "executor=inline",
    "sae.k=4",
    "train.lr=[1e-3,1e30]",
    "train.report_every=4",
    "activations.train_tokens=1024",
    "activations.validation_tokens=256",
]

TRACK = [sys.executable, "-m", "sae_sweep", "track", "smoke", "--sink"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """A sweep of two trials: one is done, one has diverged."""
    place = tmp_path_factory.mktemp("sinks") / "outputs"
    assert main([*WORDS, f"outputs={place}"]) == 0
    return place


@pytest.fixture(scope="module")
def trials(outputs):
    with Reader(default_url(outputs)) as reader:
        found = {trial.status: trial for trial in reader.sweep("smoke").trials}
    assert set(found) == {"done", "diverged"}
    return found


@pytest.fixture(scope="module")
def steps(outputs, trials) -> list[int]:
    with Reader(default_url(outputs)) as reader:
        return [row.step for row in reader.rows({trials["done"].uid: 0})[trials["done"].uid]]


def track(outputs: Path, sink: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [*TRACK, sink, "--outputs", str(outputs)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"smoke is in {sink}\n"
    return ran


@pytest.mark.slow
def test_tensorboard_shows_every_report_once(outputs, trials, steps) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for _ in range(2):  # the second time nothing is sent again
        track(outputs, "tensorboard")
    seen = EventAccumulator(str(outputs / "smoke" / "tensorboard" / trials["done"].folder))
    seen.Reload()
    assert [one.step for one in seen.Scalars("fvu")] == [step * 256 for step in steps]
    assert seen.Scalars("final/fvu")[0].value == pytest.approx(trials["done"].final["fvu"])
    failed = EventAccumulator(str(outputs / "smoke" / "tensorboard" / trials["diverged"].folder))
    failed.Reload()
    [status] = failed.Tensors(
        "status/text_summary" if "status/text_summary" in failed.Tags()["tensors"] else "status"
    )
    assert status.tensor_proto.string_val[0].decode().startswith("diverged: ")


@pytest.mark.slow
def test_mlflow_has_one_run_per_trial_with_settings_status_and_report(outputs, trials, steps):
    track(outputs, "mlflow")
    track(outputs, "mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("smoke")
        runs = {
            run.data.tags["sae_sweep.uid"]: run
            for run in client.search_runs([experiment.experiment_id])
        }
        assert set(runs) == {"report", *(trial.uid for trial in trials.values())}
        done, failed = runs[trials["done"].uid], runs[trials["diverged"].uid]
        assert done.info.status == "FINISHED"
        assert done.data.params["sae.k"] == "4"
        assert done.data.metrics["final.fvu"] == pytest.approx(trials["done"].final["fvu"])
        history = client.get_metric_history(done.info.run_id, "fvu")
        assert [one.step for one in history] == [step * 256 for step in steps]
        assert failed.info.status == "FAILED"
        assert failed.data.tags["sae_sweep.error"] == trials["diverged"].error
        paths = [one.path for one in client.list_artifacts(runs["report"].info.run_id)]
    assert "report.md" in paths


@pytest.mark.slow
def test_trackio_keeps_rows_and_settings_in_its_local_database(outputs, trials, steps) -> None:
    track(outputs, "trackio")
    track(outputs, "trackio")
    code = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
rows = SQLiteStorage.get_logs("sae_sweep", sys.argv[1])
print(json.dumps([rows, SQLiteStorage.get_run_config("sae_sweep", sys.argv[1])]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, trials["done"].folder],
        capture_output=True,
        text=True,
        env={**os.environ, "TRACKIO_DIR": str(outputs / "trackio")},
        check=True,
    )
    rows, config = json.loads(ran.stdout)
    assert [row["step"] for row in rows if "fvu" in row] == [step * 256 for step in steps]
    assert rows[-1]["status"] == "done"
    assert config["sae"]["k"] == 4
    assert config["_Group"] == "smoke"


@pytest.mark.slow
def test_wandb_offline_records_runs_that_can_be_synced(outputs, trials, steps) -> None:
    track(outputs, "wandb", WANDB_MODE="offline")
    code = """
import json, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2 as pb

def records(data):
    # LevelDB's log: blocks of 32 KiB of chunks, each crc (4), length (2), type (1), payload
    at, whole = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""

found = {"steps": [], "summary": {}}
for data in records(Path(sys.argv[1]).read_bytes()):
    record = pb.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found |= {"name": record.run.display_name, "group": record.run.run_group}
        found["config"] = {one.key: json.loads(one.value_json) for one in record.run.config.update}
    if kind == "history":
        found["steps"].append(record.history.step.num)
    if kind == "summary":
        found["summary"] |= {one.key: json.loads(one.value_json) for one in record.summary.update}
    if kind == "exit":
        found["exit"] = record.exit.exit_code
print(json.dumps(found))
"""
    files = sorted((outputs / "smoke" / "wandb").rglob("run-*.wandb"))
    assert len(files) == 3  # two trials and the report
    found = {}
    for file in files:
        ran = subprocess.run(
            [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
        )
        one = json.loads(ran.stdout)
        found[one["name"]] = one
    done, failed = found[trials["done"].folder], found[trials["diverged"].folder]
    assert (done["group"], done["exit"], done["config"]["sae"]["k"]) == ("smoke", 0, 4)
    assert done["steps"] == [step * 256 for step in steps]
    assert done["summary"]["fvu"] == pytest.approx(trials["done"].final["fvu"])
    assert failed["summary"]["status"] == "diverged"
    assert failed["exit"] == 1


@pytest.mark.slow
def test_wandb_without_a_login_offers_the_offline_mode(tmp_path) -> None:
    clean = {"HOME": str(tmp_path), "WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    ran = subprocess.run(
        [sys.executable, "-m", "sae_sweep", *WORDS, "sinks=wandb", f"outputs={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        env={**kept, **clean},
    )
    assert ran.returncode == 2, ran.stderr
    assert "nobody is logged in: run `wandb login`" in ran.stderr
    assert "WANDB_MODE=offline" in ran.stderr
    assert not (tmp_path / "out" / "trials").exists() or not any(
        (tmp_path / "out" / "trials").iterdir()
    )


def test_a_sink_that_hangs_costs_the_sweep_nothing(outputs, capfd, monkeypatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.5)
    with SinkProcesses(["tensorboard"], "smoke", outputs, default_url(outputs)) as sinks:
        os.kill(sinks._processes["tensorboard"].pid, signal.SIGSTOP)
    said = capfd.readouterr().err
    assert said.count("sink tensorboard: still sending after 0 s; the sweep goes on") == 1
    assert "`python -m sae_sweep track smoke --sink tensorboard` sends what is missing" in said
    assert sinks._processes["tensorboard"].poll() is not None


@pytest.mark.slow
def test_a_sink_that_dies_is_said_once_and_catches_up_later(tmp_path, capfd, monkeypatch) -> None:
    from sae_sweep.cli import run as running

    class Unplugged(SinkProcesses):
        def __enter__(self):
            found = super().__enter__()
            self._processes["tensorboard"].kill()
            self._processes["tensorboard"].wait()
            return found

    monkeypatch.setattr(running, "SinkProcesses", Unplugged)
    assert main([*WORDS, "sinks=[tensorboard]", f"outputs={tmp_path}"]) == 0
    assert capfd.readouterr().err.count("sink tensorboard: ended with -9") == 1
    track(tmp_path, "tensorboard")
    assert len(list((tmp_path / "smoke" / "tensorboard").iterdir())) == 3


def test_a_damaged_ledger_means_that_all_is_sent_again(tmp_path) -> None:
    path = tmp_path / "ledger.json"
    ledger = Ledger(path)
    ledger.note("a", {"step": 3, "status": None})
    ledger.keep()
    assert Ledger(path).of("a") == {"step": 3, "status": None}
    for damage in ("", "[]", '{"a": 1}', '{"a": {"step": "x", "status": null}}'):
        path.write_text(damage)
        assert Ledger(path).of("a") == {"step": 0, "status": None}


def test_a_missing_package_names_its_extra(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"sinks=\[wandb\] needs .*pip install 'sae-sweep\[wandb\]'"):
        require(["wandb"])


def test_an_unknown_sink_names_the_nearest(capsys, tmp_path) -> None:
    assert main([*WORDS, "sinks=[tensorbord]", f"outputs={tmp_path}"]) == 2
    assert (
        "sinks=tensorbord: there is no such sink; did you mean tensorboard"
        in capsys.readouterr().err
    )


def test_settings_are_listed_by_dotted_key() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": 2}) == {"a.b": 1, "a.c.d": None, "e": 2}


def test_a_tracker_that_fails_is_one_message(outputs, monkeypatch, capsys) -> None:
    class Broken:
        def begin(self, trial) -> None:
            raise RuntimeError("no room on the server\nsecond line")

        def close(self) -> None: ...

    monkeypatch.setattr("sae_sweep.cli.track.open_sink", lambda *_: Broken())
    assert main(["track", "smoke", "--sink", "mlflow", "--outputs", str(outputs)]) == 1
    said = capsys.readouterr().err
    assert "mlflow does not take smoke (no room on the server): when that is mended" in said
    assert "Traceback" not in said
