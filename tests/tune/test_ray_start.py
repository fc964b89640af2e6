"""What is looked at before a local Ray starts; none is started here."""

import json
import threading

import pytest

from sae_sweep.config import ExecutorConfig
from sae_sweep.errors import BadInput
from sae_sweep.records.store import owner
from sae_sweep.tune import ray_executor


def test_a_limit_of_processes_is_said_before_ray_waits_at_it(monkeypatch) -> None:
    started = []
    start = threading.Thread.start

    def until_the_limit(thread: threading.Thread) -> None:
        if len(started) == 20:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    ray_executor.require_threads(ExecutorConfig(slots=1))
    monkeypatch.setattr(threading.Thread, "start", until_the_limit)
    message = r"Ray starts some \d+ threads and processes, and no more than 20 can .*\(ulimit -u"
    with pytest.raises(BadInput, match=message):
        ray_executor.require_threads(ExecutorConfig())
    assert not any(thread.is_alive() for thread in started)
    ray_executor.require_threads(ExecutorConfig(address="there:1"))


def test_folders_of_killed_drivers_go_and_those_of_others_stay(tmp_path) -> None:
    me = owner.current_owner()
    owners = {
        "dead": me | {"pid_started": 1},
        "alive": me,
        "elsewhere": me | {"host": "another", "pid_started": 1},
        "another-namespace": me | {"namespace": "pid:[1]", "pid_started": 1},
        "no-owner": [],
    }
    for name, one in owners.items():
        folder = tmp_path / f"{ray_executor.FOLDER}{name}"
        folder.mkdir()
        (folder / "owner.json").write_text(json.dumps(one))
    (tmp_path / f"{ray_executor.FOLDER}new").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "owner.json").write_text(json.dumps(owners["dead"]))
    (tmp_path / f"{ray_executor.FOLDER}link").symlink_to(tmp_path / "target")
    ray_executor._remove_abandoned(tmp_path)
    left = {path.name.removeprefix(ray_executor.FOLDER) for path in tmp_path.iterdir()}
    assert left == {*owners, "new", "link", "target"} - {"dead"}
