"""Sweeps that are struck while they run: nothing lost, nothing done twice, the same bits."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks import fault_cases as cases
from benchmarks import fault_sweep as sweeps
from sae_sweep.errors import CutShort
from sae_sweep.records.store import Store, patience
from sae_sweep.records.store.owner import process_start
from sae_sweep.tune import orphans

MOMENTS = random.Random(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[sweeps.Course, float]:
    """An undisturbed sweep, and its wall time in seconds."""
    sweep = sweeps.Sweep(tmp_path_factory.mktemp("whole") / "outputs", "inline")
    seconds = cases.undisturbed(sweep)
    course = sweep.course()
    assert len(course.results) == 6
    return course, seconds


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
@pytest.mark.parametrize("share", [MOMENTS.uniform(0.3, 1.0) for _ in range(3)])
def test_a_driver_that_is_killed_at_any_moment_loses_nothing(tmp_path, whole, share) -> None:
    sweep = sweeps.Sweep(tmp_path, "inline")
    struck = cases.driver_killed(sweep, share * whole[1])
    assert sweeps.problems(struck, sweep.course(), whole[0]) == []


@pytest.fixture(scope="module")
def whole_draws(tmp_path_factory: pytest.TempPathFactory) -> sweeps.Course:
    """An undisturbed sweep as Ray is given it, trained here: the bits are the same."""
    sweep = sweeps.Sweep(tmp_path_factory.mktemp("whole") / "outputs", "inline", *sweeps.LISTED)
    cases.undisturbed(sweep)
    return sweep.course()


@pytest.mark.ray
@pytest.mark.slow
def test_no_process_of_a_killed_driver_outlives_its_rerun(tmp_path, whole_draws) -> None:
    sweep = sweeps.Sweep(tmp_path, "ray")
    struck = cases.driver_killed_in_training(sweep)
    assert struck.code == -signal.SIGKILL
    assert sweeps.problems(struck, sweep.course(), whole_draws) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_node_costs_no_trial(tmp_path, whole_draws) -> None:
    with cases.two_nodes() as cluster:
        sweep = sweeps.Sweep(tmp_path, "ray", f"executor.address={cluster.address}")
        struck = cases.node_killed(sweep, cluster)
    assert (struck.code, struck.reruns) == (0, 0)
    assert sweeps.problems(struck, sweep.course(), whole_draws) == []


@pytest.mark.postgres
@pytest.mark.slow
def test_a_database_that_comes_back_is_waited_for(tmp_path, whole, server) -> None:
    sweep = sweeps.Sweep(tmp_path, "inline", f"store.url={server.url}")
    struck = cases.database_restarted(sweep, server)
    assert (struck.code, struck.reruns) == (0, 0)
    assert "the store does not answer: waiting" in struck.said
    assert sweeps.problems(struck, sweep.course(), whole[0]) == []


@pytest.mark.postgres
def test_a_database_that_stays_away_ends_the_sweep_in_words(server, monkeypatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.5)
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


@pytest.mark.slow
@pytest.mark.parametrize("store_elsewhere", [False, True])
def test_a_full_disk_is_said_and_the_same_command_continues(
    tmp_path, whole, store_elsewhere
) -> None:
    url = f"store.url=sqlite:///{tmp_path / 'store.db'}"
    try:
        with cases.small_disk(tmp_path / "disk") as disk:
            outputs = disk / "outputs"
            sweep = sweeps.Sweep(outputs, "inline", *([url] if store_elsewhere else []))
            struck = cases.disk_filled(sweep, disk)
            course = sweep.course()
    except PermissionError as error:
        pytest.skip(str(error))
    assert (struck.code, struck.reruns) == (1, 1)
    last = struck.said.splitlines()[-1]
    # with the store on it, either may be the first to find no room
    files = last.startswith(f"sae_sweep: no room for the files of trials in {outputs}/trials (")
    store = last.startswith(f"sae_sweep: no room for the store in {outputs} (")
    assert files or (store and not store_elsewhere), struck.said
    assert last.endswith("the same command continues")
    assert sweeps.problems(struck, course, whole[0]) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_said_and_the_same_command_continues(tmp_path, whole) -> None:
    sweep = sweeps.Sweep(tmp_path, "inline")
    struck = cases.files_limited(sweep)
    assert (struck.code, struck.reruns) == (1, 1)
    assert struck.said.splitlines()[-1].endswith("the same command continues")
    assert sweeps.problems(struck, sweep.course(), whole[0]) == []


@pytest.mark.slow
def test_a_trial_that_leaks_is_oom_and_the_others_are_done(tmp_path, whole) -> None:
    uid = list(whole[0].statuses)[2]
    sweep = sweeps.Sweep(tmp_path, "inline", **cases.leak_environment(uid))
    struck = cases.leaking(sweep)
    course = sweep.course()
    status, reason = course.statuses[uid]
    assert status == "oom"
    assert "MemoryError" in reason or "not enough memory" in reason
    assert sweeps.problems(struck, course, whole[0], {uid: "oom"}) == []
