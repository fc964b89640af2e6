"""A small sweep, the ways to disturb it, and what must be true of it in the end.

Every way is a function that starts the sweep in a process of its own, strikes it, and runs the same
command again until it ends well. The tests use the same functions with fewer strikes.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_sweep.errors import BadInput
from sae_sweep.records.store import Reader, default_url

MARK = "SAE_SWEEP_FAULT"
"""In the environment of every process of a sweep, those that Ray detaches too."""

WORDS = (
    *("activations=synthetic", "activations.train_tokens=20480"),
    *("activations.validation_tokens=2048", "sae.n_latents=64", "sae.k=4"),
    *("train.lr={loguniform: [1e-4, 1e-2]}", "train.epochs=3", "train.checkpoint_every=20"),
    *("sweep.name=faults", "executor.threads=1"),
)
LISTED = ("search=random", "search.samples=6")
SEARCHES = {
    # one after another, each draw after the outcomes of those before: a lost one would show
    "inline": ("search=optuna", "search.objective=fvu", "search.trials=6"),
    # two at a time: draws that depend on no outcome
    "ray": (*LISTED, "executor.slots=2"),
}
RERUNS = 3
LIMIT_SECONDS = 240.0
GRACE_SECONDS = 10.0
"""How long processes may take to leave after their sweep has ended."""


class Course(NamedTuple):
    """What a sweep has come to."""

    draws: list[str]
    """What was asked for, in order."""
    results: dict[str, tuple[str, str]]
    """Final metrics and a hash of the weights, by uid, of every trial that is done."""
    statuses: dict[str, tuple[str, str | None]]
    """Status and reason by uid."""
    times_done: Counter[str]
    """How often the events say that a trial was done, by uid."""
    folders: list[str]
    """Folders of trials."""
    leftovers: list[str]
    """Checkpoints and half-written files."""


class Struck(NamedTuple):
    """How a disturbed sweep went."""

    what: str
    """What was struck, and when."""
    said: str
    """What the command that was struck wrote."""
    code: int
    """Its exit code; negative: the signal that ended it."""
    reruns: int
    """Further starts until the sweep was over."""
    last_code: int
    """Exit code of the last start."""
    still_running: list[str]
    """Processes that outlived the last start."""


class Sweep:
    """The sweep in one folder."""

    def __init__(self, outputs: Path, executor: str, *words: str, **environment: str) -> None:
        self.outputs = outputs
        self.url = default_url(outputs)
        searched = any(word.startswith("search=") for word in words)
        search = () if searched else SEARCHES[executor]
        self._words = [f"executor={executor}", *WORDS, *search, f"outputs={outputs}"]
        for word in words:
            if word.startswith("store.url="):
                self.url = word.partition("=")[2]
            self._words.append(word)
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self._environment = {**os.environ, **environment, MARK: self._mark}
        self._log = Path(tempfile.mkstemp(prefix="sae-sweep-fault-")[1])

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command in a session of its own."""
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sae_sweep", *self._words],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What the latest command has written."""
        return self._log.read_text(encoding="utf-8")

    def wait_until(self, ready: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
        """Look again and again.

        Raises:
            RuntimeError: the command has ended before, or it takes too long.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"there was nothing to strike: {self.said[-2000:]}")
            time.sleep(0.02)

    def status_counts(self) -> Counter[str]:
        """Trials by status at this moment."""
        with contextlib.suppress(BadInput), Reader(self.url) as reader:
            return Counter(member.trial.status for member in reader.sweep("faults").members)
        return Counter()

    def finish(
        self, what: str, process: subprocess.Popen[bytes], good: tuple[int, ...] = (0,)
    ) -> Struck:
        """Wait for a command that was struck, and repeat it until its exit code is a good one."""
        code = last_code = process.wait(LIMIT_SECONDS)
        said, reruns = self.said, 0
        while last_code not in good and reruns < RERUNS:
            reruns += 1
            last_code = self.start().wait(LIMIT_SECONDS)
        return Struck(what, said, code, reruns, last_code, self._still_running())

    def _still_running(self) -> list[str]:
        """What is left of all starts, after a while."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (found := processes_with(f"{MARK}={self._mark}")) and time.monotonic() < deadline:
            time.sleep(0.2)
        return list(found.values())

    def slots(self) -> list[int]:
        """The Ray actors that train."""
        found = processes_with(f"{MARK}={self._mark}")
        return [pid for pid, name in found.items() if "ImplicitFunc" in name]

    def course(self) -> Course:
        """Read store and folders."""
        with Reader(self.url) as reader:
            found = reader.sweep("faults")
            events = [one for run in range(1, found.run.id + 1) for one in reader.events(run)]
        trials = {member.trial.uid: member.trial for member in found.members}
        root = self.outputs / "trials"
        results = {}
        for uid, trial in trials.items():
            if trial.status == "done":
                weights = (root / trial.folder / "sae.safetensors").read_bytes()
                final = json.dumps(trial.final, sort_keys=True)
                results[uid] = (final, hashlib.sha256(weights).hexdigest())
        left = [*root.glob("*/resume*"), *root.glob("*/.*.part")]
        return Course(
            [json.dumps(member.assignment) for member in found.members],
            results,
            {uid: (trial.status, trial.error) for uid, trial in trials.items()},
            Counter(one.uid for one in events if one.kind == "done" and one.uid is not None),
            sorted(path.name for path in root.iterdir()),
            [path.name for path in left],
        )

    def close(self) -> None:
        """Remove the log."""
        self._log.unlink()


def processes_with(mark: str) -> dict[int, str]:
    """Names of the processes with NAME=VALUE in their environment, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command:  # a dead process that nobody has collected has none
                    found[int(folder.name)] = command
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
    return found


def problems(
    struck: Struck, course: Course, whole: Course, ends: Mapping[str, str] | None = None
) -> list[str]:
    """What is not as it must be.

    Args:
        struck: how the disturbed sweep went.
        course: what it came to.
        whole: what an undisturbed one came to.
        ends: status by uid of trials that do not end `done`.
    """
    ends = ends or {}
    wanted = {uid: one for uid, one in whole.results.items() if uid not in ends}
    statuses = {uid: status for uid, (status, _) in course.statuses.items()}
    unexplained = [
        u for u, (status, why) in course.statuses.items() if status != "done" and not why
    ]
    checks = {
        f"exit code {struck.last_code} in the end": struck.last_code == (1 if ends else 0),
        f"lost {lost(course, whole)}": not lost(course, whole),
        f"doubled {doubled(course)}": not doubled(course),
        "other draws": course.draws == whole.draws,
        "other results": course.results == wanted,
        f"statuses {statuses}": statuses == dict.fromkeys(whole.statuses, "done") | dict(ends),
        f"no reason for {unexplained}": not unexplained,
        f"left behind {course.leftovers}": not course.leftovers,
        f"still running {struck.still_running}": not struck.still_running,
        "a traceback": "Traceback" not in struck.said,
    }
    return [words for words, well in checks.items() if not well]


def lost(course: Course, whole: Course) -> list[str]:
    """Trials that the undisturbed sweep has and this one has not."""
    return sorted(set(whole.statuses) - set(course.statuses))


def doubled(course: Course) -> list[str]:
    """Trials that were done twice by the events, or have two folders."""
    folders = Counter(name.rpartition("-")[2] for name in course.folders)
    return sorted({uid for n in (course.times_done, folders) for uid in n if n[uid] > 1})


# -- the strikes -------------------------------------------------------------------------------


def undisturbed(sweep: Sweep) -> float:
    """Run the sweep; returns its wall time in seconds."""
    began = time.monotonic()
    code = sweep.start().wait(LIMIT_SECONDS)
    if code:
        raise RuntimeError(sweep.said[-2000:])
    return time.monotonic() - began


def driver_killed(sweep: Sweep, seconds: float, number: int = signal.SIGKILL) -> Struck:
    """Send the driver a signal some time after its start."""
    process = sweep.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    counts = sweep.status_counts()
    process.send_signal(number)
    return sweep.finish(f"{seconds:.1f} s, {counts['done']} done", process)


def driver_killed_in_training(sweep: Sweep) -> Struck:
    """Kill the driver as soon as trials train."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["running"], process)
    process.kill()
    return sweep.finish("in training", process)


def worker_killed(sweep: Sweep) -> Struck:
    """Kill one Ray actor while it trains."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["running"] and sweep.slots(), process)
    os.kill(sweep.slots()[0], signal.SIGKILL)
    return sweep.finish(f"one of two workers, {sweep.status_counts()['done']} done", process)


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, with a pretended GPU each."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, num_gpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def node_killed(sweep: Sweep, cluster: Any) -> Struck:
    """Take the second node away, without a word, when a slot runs on it."""
    process = sweep.start()
    [second] = cluster.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    sweep.wait_until(lambda: _trains_below(raylet), process)
    cluster.remove_node(second, allow_graceful=False)
    return sweep.finish(f"one of two nodes, {sweep.status_counts()['done']} done", process)


def _trains_below(raylet: int) -> bool:
    """Whether a child of Ray's process for a node is a slot."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == raylet and b"ImplicitFunc" in (folder / "cmdline").read_bytes():
                return True
    return False


class Postgres:
    """A PostgreSQL server of our own, on a free port; as root it runs as the user postgres."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise FileNotFoundError("no PostgreSQL: .ci/postgres installs it")
        self._bin = found[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="sae-sweep-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._call("initdb", "-A", "trust", "-U", "postgres", "-D", f"{self._folder}/db")
        self.start()

    def _call(self, program: str, *words: str) -> None:
        command = [str(self._bin / program), *words]
        user = {"user": "postgres"} if os.geteuid() == 0 else {}
        # not a pipe: the server would hold it open for ever
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, **user)

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        log = f"{self._folder}/log"
        self._call("pg_ctl", "-w", "-D", f"{self._folder}/db", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it as a crash would."""
        self._call("pg_ctl", "-w", "-m", "immediate", "-D", f"{self._folder}/db", "stop")

    def close(self) -> None:
        """Stop it and remove its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder)


def database_restarted(sweep: Sweep, server: Postgres, seconds: float = 3.0) -> Struck:
    """Stop the database while trials train, and start it again after a while."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    server.stop()
    time.sleep(seconds)
    server.start()
    return sweep.finish(f"away for {seconds:.0f} s, after 1 done", process)


def database_gone(sweep: Sweep, server: Postgres) -> Struck:
    """Stop the database until the sweep has given up."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    server.stop()
    process.wait(LIMIT_SECONDS)
    server.start()
    return sweep.finish("away until the sweep gave up, after 1 done", process)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[Path]:
    """A disk of its own below a folder.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True)
    options = f"size={megabytes}m"
    command = ["mount", "-t", "tmpfs", "-o", options, "sae-sweep-fault", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_filled(sweep: Sweep, disk: Path) -> Struck:
    """Fill the disk after the first trial; make room when the sweep has given up."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    process.wait(LIMIT_SECONDS)
    filler.unlink()
    return sweep.finish("no byte left, after 1 done", process)


def files_limited(sweep: Sweep) -> Struck:
    """Let no file of the driver grow beyond a few bytes after the first trial."""
    process = sweep.start()
    sweep.wait_until(lambda: sweep.status_counts()["done"], process)
    written = len(sweep.said.encode())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (written + 4096, resource.RLIM_INFINITY))
    return sweep.finish("files of 4 kB at most, after 1 done", process)


def leaking(sweep: Sweep) -> Struck:
    """Run a sweep whose environment makes a trial leak."""
    return sweep.finish("1 GB more than at its start", sweep.start(), good=(1,))


def leak_environment(uid: str) -> dict[str, str]:
    """What makes a trial leak until its process has no memory left."""
    path = [str(Path(__file__).parent / "leaking"), os.environ.get("PYTHONPATH", "")]
    return {"LEAKING": uid, "PYTHONPATH": os.pathsep.join(filter(None, path))}
