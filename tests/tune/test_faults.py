"""Sweeps that are struck while they run: nothing lost, nothing done twice, the same bits."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import fault_cases as cases
from benchmarks import fault_sweep as sweeps
from sae_sweep.errors import CutShort
from sae_sweep.records.store import Store, connection
from sae_sweep.records.store.owner import process_start
from sae_sweep.tune import orphans

# fewer trials than in the benchmark; draws that depend on no outcome, so that Ray has the same ones
FEW = ("search=random", "search.samples=4")


class Whole(NamedTuple):
    course: sweeps.Course
    reports: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An undisturbed sweep."""
    with sweeps.Sweep(tmp_path_factory.mktemp("whole") / "outputs", "inline", *FEW) as sweep:
        cases.undisturbed(sweep)
        found = Whole(sweep.course(), sweep.reports())
    assert len(found.course.results) == 4
    return found


@pytest.fixture
def server() -> Iterator[cases.Postgres]:
    """A PostgreSQL server that may be stopped."""
    try:
        found = cases.Postgres()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.8])
def test_a_driver_that_is_killed_at_any_moment_loses_nothing(tmp_path, whole, share) -> None:
    with sweeps.Sweep(tmp_path, "inline", *FEW) as sweep:
        struck = cases.driver_killed_at_work(sweep, share, whole.reports)
        assert struck.code == -signal.SIGKILL
        assert sweeps.problems(struck, sweep.course(), whole.course) == []


@pytest.mark.postgres
@pytest.mark.slow
def test_a_database_that_comes_back_is_waited_for(tmp_path, whole, server) -> None:
    with sweeps.Sweep(tmp_path, "inline", *FEW, f"store.url={server.url}") as sweep:
        struck = cases.database_restarted(sweep, server)
        assert (struck.code, struck.reruns) == (0, 0)
        assert "the store does not answer: waiting" in struck.said
        assert sweeps.problems(struck, sweep.course(), whole.course) == []


@pytest.mark.postgres
def test_a_database_that_stays_away_ends_the_sweep_in_words(server, monkeypatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)
    fields = {"question": "", "config": {}, "command": "", "git": None, "versions": {}}
    gone = pytest.raises(CutShort, match=r"store.url=.* has gone away \(.*same command continues")
    with gone, Store(server.url) as store:
        run = store.start_run("s", **fields)
        store.event(run, "search", "before")
        server.stop()
        store.event(run, "search", "after")


def test_processes_of_a_dead_driver_are_ended_and_those_of_a_living_one_not() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    me = f"{os.getpid()}-{process_start(os.getpid())}"
    marks = (f"{dead.pid}-1", me)
    orphan, child = (
        subprocess.Popen(["sleep", "60"], env={**os.environ, orphans.MARK: mark}) for mark in marks
    )
    orphans.end()
    assert orphan.wait(10) == -signal.SIGKILL
    assert child.poll() is None
    child.kill()
    child.wait()


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk that may be filled."""
    try:
        with cases.small_disk(tmp_path / "disk") as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_same_command_continues(disk, whole) -> None:
    outputs = disk / "outputs"
    with sweeps.Sweep(outputs, "inline", *FEW) as sweep:
        struck = cases.disk_filled(sweep, disk)
        assert (struck.code, struck.reruns) == (1, 1)
        last = struck.said.splitlines()[-1]
        # either may be the first to find no room
        files = f"sae_sweep: no room for the files of trials in {outputs}/trials ("
        store = f"sae_sweep: no room for the store in {outputs} ("
        assert last.startswith((files, store)), struck.said
        assert last.endswith("the same command continues")
        assert sweeps.problems(struck, sweep.course(), whole.course) == []


@pytest.mark.ray
@pytest.mark.slow
def test_where_trials_find_no_room_nothing_is_said_of_the_files_of_tune(
    tmp_path, disk, whole
) -> None:
    url = f"store.url=sqlite:///{tmp_path / 'store.db'}"
    with sweeps.Sweep(disk / "outputs", "ray", *FEW, url) as sweep:
        struck = cases.disk_filled(sweep, disk)
        assert (struck.code, struck.reruns) == (1, 1)
        told = [line for line in struck.said.splitlines() if not line.startswith(("[", "extract"))]
        [last] = told
        assert last.startswith(f"sae_sweep: no room for the files of trials in {disk}/outputs/")
        assert sweeps.problems(struck, sweep.course(), whole.course) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_said_and_the_same_command_continues(tmp_path, whole) -> None:
    with sweeps.Sweep(tmp_path, "inline", *FEW) as sweep:
        struck = cases.files_limited(sweep)
        assert (struck.code, struck.reruns) == (1, 1)
        assert struck.said.splitlines()[-1].endswith("the same command continues")
        assert sweeps.problems(struck, sweep.course(), whole.course) == []


@pytest.mark.slow
def test_a_trial_that_leaks_is_oom_and_the_others_are_done(tmp_path, whole) -> None:
    uid = list(whole.course.statuses)[2]
    with sweeps.Sweep(tmp_path, "inline", *FEW, **cases.leak_environment(uid)) as sweep:
        struck = cases.leaking(sweep)
        course = sweep.course()
    status, reason = course.statuses[uid]
    assert status == "oom"
    assert "MemoryError" in reason or "not enough memory" in reason
    assert sweeps.problems(struck, course, whole.course, {uid: "oom"}) == []
