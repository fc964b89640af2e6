"""Sweeps that are struck while they run: nothing lost, nothing done twice, the same bits."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from benchmarks import fault_cases as cases
from benchmarks import fault_sweep as sweeps
from sae_sweep.errors import CutShort
from sae_sweep.records.store import Store, connection, owner
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


class Marked:
    """Processes with the mark of a driver, some of which look like Ray's."""

    def __init__(self) -> None:
        self.me = owner.current_owner()
        self.dead = {**self.me, "pid_started": self.me["pid_started"] - 1}
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, mark: str, name: str = "ray::IDLE", *before: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, orphans.MARK: mark}
        command = [*before, "bash", "-c", f"exec -a {name} sleep 60"]
        self.started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return self.started[-1]


@pytest.fixture
def marked() -> Iterator[Marked]:
    found = Marked()
    yield found
    for process in found.started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(process: subprocess.Popen[bytes], name: bytes) -> None:
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(name):
        time.sleep(0.01)


def test_only_programs_of_ray_of_a_dead_driver_of_this_store_are_ended(marked) -> None:
    mark = orphans.mark_of(marked.dead)
    orphan = marked.start(mark)
    spared = [
        marked.start(mark, "editor"),  # inherited: somebody's own program
        marked.start(orphans.mark_of(marked.me)),
        marked.start(orphans.mark_of({**marked.dead, "pid": 1})),  # of another store
        *(marked.start(odd) for odd in ("", "x", "-", "1-2-3", "pid:[1]-1", mark + "0", "é")),
    ]
    for process in (orphan, *spared):
        wait_for(process, b"editor" if process is spared[0] else b"ray::")
    orphans.end([marked.me, marked.dead, {}, {**marked.dead, "pid": "x"}])
    assert orphan.wait(10) == -signal.SIGKILL
    assert [process.poll() for process in spared] == [None] * len(spared)


def test_a_driver_that_inherits_the_mark_of_a_dead_one_ends_neither_itself_nor_its_parents() -> (
    None
):
    code = (
        "from sae_sweep.records.store import owner\n"
        "from sae_sweep.tune import orphans\n"
        "me = owner.current_owner()\n"
        "import os; os.environ[orphans.MARK] = 'x'\n"
        "orphans._is_of_ray = lambda command: True\n"
        "orphans.mark_of = lambda driver: 'inherited'\n"
        "orphans.end([{**me, 'pid_started': 0}])\n"
        "print('lives')"
    )
    command = ["bash", "-c", f'"{sys.executable}" -c "{code}"; echo so does its parent']
    environment = {**os.environ, orphans.MARK: "inherited"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n") == ["lives", "so does its parent", ""]


def test_processes_of_another_pid_namespace_are_not_ended(marked) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    mark = orphans.mark_of(marked.dead)
    inside = marked.start(mark, "ray::IDLE", "unshare", "--pid", "--fork", "--kill-child")
    while not (children := psutil.Process(inside.pid).children()):
        time.sleep(0.01)
    [child] = children
    while not child.cmdline()[0].startswith("ray::"):
        time.sleep(0.01)
    orphans.end([marked.dead])
    assert child.is_running()


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
        # of a slow machine also how far the sweep is
        progress = re.compile(r"\[|extract|\d+ done, ")
        [last] = [line for line in struck.said.splitlines() if not progress.match(line)]
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
